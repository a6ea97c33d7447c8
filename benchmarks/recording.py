"""What is written down beside figures, so that they can be made again."""

import argparse
from importlib.metadata import version
from typing import Any

LIBRARIES = ("torch", "transformers", "diffusers")


def recorded(options: argparse.Namespace) -> dict[str, Any]:
    """The options of a run and the versions of the libraries that do the work."""
    kept = {name: value for name, value in vars(options).items() if name != "json"}
    return kept | {name: version(name) for name in LIBRARIES}
