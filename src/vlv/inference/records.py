"""The records of one image on its way: input, embeddings, captions, or a refusal.

Imports no torch: commands find their inputs before a model is loaded.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from vlv.data.images import MAX_OWN_PIXELS, image_bytes, load_image
from vlv.errors import ImageError
from vlv.models.outputs import Caption
from vlv.pixels import loaded
from vlv.verification.verdicts import SentenceSupport

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Refused:
    """An image without a result: its name, a short reason to count by, and a sentence."""

    name: str
    reason: str
    message: str


@dataclass(frozen=True)
class ImageInput:
    """An image to work on: a file, the bytes of a file, or a decoded picture.

    name: shown to people. key: what the result is filed under; the name if it is not given. For an
    image in a shard or table, the path of that file followed by the image's name in it.
    meta: the other fields of its sample, if it comes from a set. max_pixels: a larger file is
    refused.
    """

    name: str
    image: Path | bytes | Image.Image
    key: str = ""
    meta: dict[str, Any] = field(default_factory=dict)
    max_pixels: int = field(default=MAX_OWN_PIXELS, kw_only=True)

    def __post_init__(self) -> None:
        if not self.key:
            object.__setattr__(self, "key", self.name)

    @classmethod
    def of_file(cls, path: Path, max_pixels: int = MAX_OWN_PIXELS) -> "ImageInput":
        """A file under its own path."""
        return cls(str(path), path, max_pixels=max_pixels)

    @property
    def path(self) -> Path:
        """The key as a path."""
        return Path(self.key)

    @property
    def file(self) -> Path | bytes:
        """The file, or its bytes."""
        if isinstance(self.image, Image.Image):
            raise TypeError(f"{self.name} is a decoded picture, not a file")
        return self.image

    def data(self) -> bytes:
        """The bytes of the file.

        Raises:
            ImageError: it cannot be read.
        """
        file = self.file
        return file if isinstance(file, bytes) else image_bytes(file)

    def picture(self) -> Image.Image:
        """The decoded picture: RGB, if it comes from a file.

        Raises:
            ImageError: the file, or what was opened of it, does not decode.
        """
        if isinstance(self.image, Image.Image):
            return loaded(self.image, self.name)
        try:
            return load_image(self.image, max_pixels=self.max_pixels)
        except ImageError as error:
            if isinstance(self.image, bytes):
                raise error.named(self.name) from error
            raise


@dataclass(frozen=True)
class Encoded:
    """An image with its caption embeddings z (Q,d), on the model's device.

    in_distribution: whether the image is like those of training; None if the model has no OOD
    detector. number: what its samples depend on, with the seed; None is its place among the images.
    """

    image: ImageInput
    z: "Tensor"
    in_distribution: bool | None = None
    number: int | None = None

    @property
    def name(self) -> str:
        """The image's name."""
        return self.image.name


@dataclass(frozen=True)
class Captioned:
    """An image with its captions: at least one, each on one line, the best of the search first.

    in_distribution: as for `Encoded`; captions of an image that is not cannot be trusted.
    sentences: verdicts on the sentences of the first caption, if they were asked for
    (`vlv.inference.verification`).
    """

    image: ImageInput
    captions: tuple[Caption, ...]
    in_distribution: bool | None = None
    sentences: tuple[SentenceSupport, ...] | None = None

    @property
    def name(self) -> str:
        """The image's name."""
        return self.image.name

    @property
    def texts(self) -> list[str]:
        """The texts of all captions."""
        return [one.text for one in self.captions]

    @property
    def caption(self) -> str:
        """The text of the first caption."""
        return self.captions[0].text

    @property
    def ended(self) -> bool:
        """Whether the model ended the first caption by itself."""
        return self.captions[0].ended

    @property
    def tokens(self) -> int:
        """The number of tokens of the first caption."""
        return self.captions[0].tokens
