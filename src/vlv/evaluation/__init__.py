"""Measuring: what pictures and captions show and state, compared with the true scenes."""
