"""Measurements on real images: captions files, and what is computed from them."""
