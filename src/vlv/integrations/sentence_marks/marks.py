"""Sentence marks on their way to tools in which people look at them and correct them, and back.

Knows the two layouts by name; the files beside this one know what is in them.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from vlv.errors import ConfigError, DatasetError
from vlv.files import atomic_folder, write_text
from vlv.integrations.sentence_marks import fiftyone, label_studio
from vlv.integrations.sentence_marks.records import LabelledCaption, MarkedCaption
from vlv.text import MAX_OWN_JSON_BYTES, read_json

Layout = Literal["fiftyone", "label-studio"]
_WRITE: dict[Layout, Callable[[Sequence[MarkedCaption], Path], None]] = {
    "fiftyone": fiftyone.write,
    "label-studio": label_studio.write,
}


@dataclass(frozen=True)
class Labels:
    """What people left in an export: the labelled captions, and how many captions have none."""

    captions: list[LabelledCaption]
    unlabelled: int


def write_marks(
    marked: Sequence[MarkedCaption], layout: Layout, folder: Path, *, overwrite: bool = False
) -> None:
    """Write captions with their marks as a tool imports them; the folder is complete or absent.

    Raises ConfigError where the folder holds something and `overwrite` is not set.
    """
    with atomic_folder(folder, overwrite=overwrite) as unfinished:
        _WRITE[layout](marked, unfinished)


def read_labels(path: Path) -> Labels:
    """The labels in an export of one of the tools: a folder of FiftyOne or its `samples.json`, or
    a JSON file of Label Studio.

    Raises DatasetError for anything else.
    """
    file = path / fiftyone.SAMPLES if path.is_dir() else path
    content = read_json(file, DatasetError, MAX_OWN_JSON_BYTES)
    if isinstance(content, dict) and isinstance(content.get("samples"), list):
        entries: list[Any] = content["samples"]
        read: Callable[[Any], LabelledCaption | None] = fiftyone.read
    elif isinstance(content, list):
        entries, read = content, label_studio.read
    else:
        raise DatasetError(
            f"{file} is no export of FiftyOne (an object with samples) nor of Label Studio (a list "
            "of tasks); export as FiftyOneDataset, or as JSON"
        )
    captions: list[LabelledCaption] = []
    for number, entry in enumerate(entries, 1):
        try:
            if not isinstance(entry, dict):
                raise TypeError(f"{type(entry).__name__} instead of an object")
            one = read(entry)
        except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
            raise DatasetError(
                f"entry {number} of {file} has no sentence marks of vlv ({type(error).__name__}: "
                f"{error}); export what `vlv verify --output-format` wrote"
            ) from error
        captions += [one] if one is not None else []
    return Labels(captions, len(entries) - len(captions))


def write_labels(captions: Iterable[LabelledCaption], out: Path, *, overwrite: bool) -> None:
    """Write a line of JSON for each caption: `file_name`, and `sentences` of `text` and `label`.

    Raises ConfigError where the file exists and `overwrite` is not set.
    """
    if out.exists() and not overwrite:
        raise ConfigError(f"{out} exists already; name another file or give --overwrite")
    if out.is_dir() or not out.absolute().parent.is_dir():
        raise ConfigError(f"{out} names no file in a folder that exists")
    lines = [json.dumps(asdict(one)) + "\n" for one in captions]
    write_text(out, "".join(lines))
