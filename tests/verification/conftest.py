"""The tiny model, which has no verifier."""

from tests.tiny import tiny_model_dir

__all__ = ["tiny_model_dir"]
