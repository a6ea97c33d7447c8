"""A caption with the marks of `vlv verify`, and a caption with the labels that people gave it."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlv.data.images import extension_of
from vlv.inference.records import ImageInput
from vlv.verification.verdicts import Verified

VERDICTS = ("supported", "unsupported", "cannot_judge")


@dataclass(frozen=True)
class MarkedCaption:
    """A checked caption, and where its image is: a file, or the data of one that lies in a set."""

    checked: Verified
    file: Path | None
    data: bytes | None = None

    @classmethod
    def of(cls, image: ImageInput, checked: Verified) -> "MarkedCaption":
        """That of an image and its check; files are named by their absolute paths."""
        if isinstance(image.image, Path):
            return cls(checked, image.image.absolute())
        return cls(checked, None, image.data())

    def data_uri(self) -> str:
        """The data of the image in place of an address."""
        assert self.data is not None  # it lies in a set
        kind = extension_of(self.data).removeprefix(".").replace("jpg", "jpeg")
        return f"data:image/{kind};base64,{base64.b64encode(self.data).decode('ascii')}"


@dataclass(frozen=True)
class LabelledSentence:
    """A sentence, and what a person says of it."""

    text: str
    label: str


@dataclass(frozen=True)
class LabelledCaption:
    """The labelled sentences of the caption of an image."""

    file_name: str
    sentences: list[LabelledSentence]


def text_of(entry: Mapping[str, Any], field: str) -> str:
    """The text in a field of an export. Raises TypeError for anything else."""
    value = entry[field]
    if not isinstance(value, str):
        raise TypeError(f"{field} is {type(value).__name__} instead of a text")
    return value


def objects_of(entry: Mapping[str, Any], field: str) -> list[dict[str, Any]]:
    """The list of objects in a field of an export. Raises TypeError for anything else, such as the
    ids of objects.
    """
    value = entry[field]
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise TypeError(f"{field} is no list of objects")
    return value
