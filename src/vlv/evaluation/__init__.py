"""Measuring: what pictures and captions say, held against the true scenes."""
