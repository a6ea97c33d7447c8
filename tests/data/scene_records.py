"""The truth that `vlv world render` writes beside its images."""

import json
from collections.abc import Iterator
from pathlib import Path


def read_scenes(folder: Path) -> Iterator[dict[str, object]]:
    """The records of a world set, in order."""
    with open(folder / "scenes.jsonl", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)
