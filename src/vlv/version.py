"""The version. Apart from `vlv`, so that every room can import it."""

__version__ = "0.2.0"
