"""What becomes of one image: its file as it is, or a smaller one, or another format.

A file that needs no change is kept byte by byte and is not decoded; its header is checked, and one
whose end is missing is decoded to see whether a picture is there.
"""

import io
from dataclasses import dataclass, replace
from typing import Any, Literal

from PIL import Image

from vlv.data.formats import ends_early
from vlv.data.images import EXTENSIONS, extension_of, image_header
from vlv.data.isolated import DecodingPool
from vlv.data.lenient import Unusable
from vlv.data.samples import Sample
from vlv.errors import UNNAMED, ConfigError, ImageError
from vlv.models.preprocessing import square_crop

ImageFormat = Literal["jpeg", "png", "webp"]
_EXTENSIONS = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp"}
# Other formats that are changed become PNG, if they are without losses, or JPEG.
_LOSSY = ("AVIF", "HEIF")
# Fields of meta data that no longer hold for another file.
_HASHES = ("md5", "sha256", "sha512")


@dataclass(frozen=True)
class Change:
    """At most one of the three sizes, in pixels, is set.

    resize: a square of this side: the shorter side is scaled, then the middle is cut out, as in
        training. Smaller images are enlarged.
    shorter_side, max_side: images whose shorter or longer side is larger are reduced to it.
    image_format: of every image; None keeps the format.
    quality: of JPEG and WebP.
    """

    resize: int | None = None
    shorter_side: int | None = None
    max_side: int | None = None
    image_format: ImageFormat | None = None
    quality: int = 95

    def __post_init__(self) -> None:
        sizes = [self.resize, self.shorter_side, self.max_side]
        if sum(size is not None for size in sizes) > 1:
            raise ConfigError("--resize, --shorter-side and --max-side exclude each other")

    def format_for(self, name: str, image: bytes) -> str | None:
        """The format to encode an image in; None if its file stays as it is.

        Raises:
            ImageError: the image is refused by its header.
        """
        format, width, height = image_header(image, name)
        goal = self.image_format.upper() if self.image_format else _kept(format)
        other = self.image_format is not None and goal != format
        return goal if other or self._size(width, height) != (width, height) else None

    def encoded(self, picture: Image.Image, format: str) -> tuple[bytes, int, int]:
        """(file, width, height) of a decoded picture.

        Raises:
            ImageError: the format cannot hold it: WebP ends at 16,383 pixels a side.
        """
        if self.resize is not None:
            if picture.size != (self.resize, self.resize):
                picture = square_crop(picture, self.resize)
        elif (size := self._size(*picture.size)) != picture.size:
            picture = picture.resize(size, Image.Resampling.LANCZOS)
        file = io.BytesIO()
        settings = {} if format == "PNG" else {"quality": self.quality}
        try:
            picture.save(file, format, **settings)
        except (OSError, ValueError) as error:
            message = f"{UNNAMED} cannot be written as {format} ({error}); make it smaller"
            raise ImageError("not-encoded", message) from error
        return file.getvalue(), *picture.size

    def _size(self, width: int, height: int) -> tuple[int, int]:
        if self.resize is not None:
            return self.resize, self.resize
        side, limit = min(width, height), self.shorter_side
        if self.max_side is not None:
            side, limit = max(width, height), self.max_side
        if limit is None or side <= limit:
            return width, height
        return max(1, round(width * limit / side)), max(1, round(height * limit / side))


def _kept(format: str) -> str:
    if format in _EXTENSIONS:
        return format
    return "JPEG" if format in _LOSSY else "PNG"


@dataclass(frozen=True)
class Planned:
    """An image and the format that it gets; None for a file that stays as it is. `unproven` is a
    file that stays if it decodes.
    """

    name: str
    sample: Sample
    format: str | None
    unproven: bool = False


def planned(name: str, sample: Sample, change: Change) -> Planned | Unusable:
    """What is to be done with an image, by its header."""
    try:
        format = change.format_for(name, sample.image)
    except ImageError as error:
        return Unusable(name, str(error), error.reason)
    return Planned(name, sample, format, format is None and ends_early(sample.image))


def changed(plan: Planned, change: Change, pool: DecodingPool) -> Sample | Unusable:
    """The sample with its new file. Images are decoded in the processes of `pool`."""
    sample = plan.sample
    try:
        if plan.format is None:
            if plan.unproven:
                pool.decode(sample.image)
            known = sample.extension.lower() in EXTENSIONS
            extension = sample.extension if known else extension_of(sample.image)
            return replace(sample, extension=extension)
        image, width, height = change.encoded(pool.decode(sample.image), plan.format)
    except ImageError as error:
        return Unusable(plan.name, str(error.named(plan.name)), error.reason)
    meta = _meta_of(sample.meta, width, height)
    return replace(sample, image=image, extension=_EXTENSIONS[plan.format], meta=meta)


def _meta_of(meta: dict[str, Any], width: int, height: int) -> dict[str, Any]:
    """Meta data of another file: img2dataset's fields of size and hash follow the file."""
    kept = {name: value for name, value in meta.items() if name not in _HASHES}
    sizes = {"width": width, "height": height}
    return {**kept, **{name: value for name, value in sizes.items() if name in kept}}
