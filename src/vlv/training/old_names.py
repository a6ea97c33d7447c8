"""Names that were in use before, in files that people keep. Everything that reads such a file calls
these functions; nothing writes an old name.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

FIELDS = {"captioner": "caption_decoder", "lesson": "pseudo_captions", "choose": "selector"}
"""Fields of configs, old -> current."""
PARAMETERS = {"captioner.": "caption_decoder.", "tower.": "text_tower."}
"""Beginnings of the names of parameters in checkpoints."""
STAGES = {"self-teach": "self-training"}
"""Names of stages on the command line."""
_PSEUDO_CAPTIONS = "lesson-{number}.jsonl"

Value = TypeVar("Value")


def current_fields(config: dict[str, Any]) -> dict[str, Any]:
    """A config by the current names of its fields.

    Raises:
        ValueError: it has both names of a field.
    """
    if both := [old for old, new in FIELDS.items() if old in config and new in config]:
        raise ValueError(f"{both[0]} is the old name of {FIELDS[both[0]]}: set one of them")
    return {FIELDS.get(name, name): value for name, value in config.items()}


def old_fields(config: Mapping[str, Any]) -> list[str]:
    """Old names that a config uses."""
    return [name for name in FIELDS if name in config]


def current_parameters(tensors: Mapping[str, Value]) -> dict[str, Value]:
    """Tensors of a checkpoint by the current names of their parameters."""
    return {_current_parameter(name): value for name, value in tensors.items()}


def _current_parameter(name: str) -> str:
    for old, new in PARAMETERS.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def old_pseudo_captions(folder: Path, number: int) -> Path | None:
    """The file of a round's captions that an earlier version began in a run's folder, if it did."""
    path = folder / _PSEUDO_CAPTIONS.format(number=number)
    begun = path.is_file() or path.with_suffix(".unfinished").is_file()
    return path if begun else None
