"""A caption with the marks of `vlv verify`, and a caption with the labels that people gave it."""

import base64
from dataclasses import dataclass
from pathlib import Path

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
