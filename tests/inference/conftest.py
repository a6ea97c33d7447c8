from tests.tiny import tiny_model_dir

__all__ = ["tiny_model_dir"]
