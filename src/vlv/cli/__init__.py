"""The command line. Thin: it parses, calls the other rooms, and prints."""

from vlv.cli.app import main

__all__ = ["main"]
