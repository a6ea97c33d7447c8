"""Engines: language models that write captions for many images at once."""
