"""Pictures -> the bytes that the encoder and the diffusion decoder see.

The authors' procedure: torchvision's `Resize` of the shorter side and `CenterCrop` to 384 px,
which is what the VAE sees; then Florence-2's image processor, which squeezes to 768x768 and
normalises. Pillow's filters are those of both libraries. Pictures of any mode are taken as a viewer
shows them (`vlv.pixels`). Knows pictures in memory only: files are the business of `vlv.data`,
normalisation that of the encoder.

Sizes are in pixels.
"""

import math
import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlv.errors import ConfigError
from vlv.pixels import loaded, picture_of

Images = Image.Image | Sequence[Image.Image]

# A picture is enlarged to at most as many pixels as one that is read from a file may have;
# four bytes each.
MAX_PIXELS = 50_000_000
# Some of these can be iterated over, and hold no images.
_ONE = (Image.Image, str, bytes, bytearray, memoryview, np.ndarray)


def as_list(images: Images) -> list[Image.Image]:
    """Images as a list that holds some, and nothing else, each of them decoded.

    Raises ConfigError for anything else, and ImageError for an image that does not decode: before
    any work, of which it would cost the rest.
    """
    given: Any = images
    alone = isinstance(given, _ONE) or _is_tensor(given) or not isinstance(given, Iterable)
    many = [given] if alone else list(given)
    if not many:
        raise ConfigError("There are no images to encode; give at least one.")
    for one in many:
        if not isinstance(one, Image.Image):
            raise ConfigError(f"Images are PIL images, not {type(one).__name__}: {_advice(one)}.")
    return [loaded(one, name_of(one, at)) for at, one in enumerate(many)]


def _advice(given: Any) -> str:
    """How what was given becomes an image, or where it goes."""
    if isinstance(given, str | os.PathLike | bytes | bytearray | memoryview):
        return "`vlv.load_image` reads a path or the bytes of a file"
    if isinstance(given, np.ndarray):
        return "`PIL.Image.fromarray` makes one of bytes (height, width, 3)"
    if _is_tensor(given):
        return "embeddings go to `caption_from_z` and `reconstruct`"
    return "give one, or a list of them"


def _is_tensor(given: Any) -> bool:
    # Processes that do without torch use this module too.
    return type(given).__module__ == "torch"


def name_of(image: Image.Image, at: int) -> str:
    """The file that a picture was opened from, or its place in the call."""
    file = getattr(image, "filename", "")
    return os.fsdecode(file) if file else f"image {at}"


def encoder_pixels(
    image: Image.Image, image_size: int, crop_size: int | None = None
) -> NDArray[np.uint8]:
    """Bytes (S,S,3) for the encoder, S = image_size.

    The whole picture squeezed to the square, as Florence-2's processor does; with a crop_size,
    `square_crop` comes before that, as in the authors' code.
    """
    picture = picture_of(image)
    if crop_size is not None:
        picture = square_crop(picture, crop_size)
    return np.array(picture.resize((image_size, image_size), Image.Resampling.BICUBIC))


def decoder_pixels(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """Bytes (size,size,3) for the VAE: the crop that an encoder with this crop_size looks at."""
    return np.array(square_crop(picture_of(image), size))


def square_crop(image: Image.Image, size: int) -> Image.Image:
    """The middle of the picture as a square: shorter side to `size`, then centre crop.

    Strips that would take more than `MAX_PIXELS` at that size are resampled where the crop lies
    alone; the crop is then within one level of 255 of the same one.
    """
    width, height = _resized(image.size, size)
    if width * height <= MAX_PIXELS:
        return center_crop(resize_shorter_side(image, size), size)
    left, top = _corner(width, size), _corner(height, size)
    across, down = image.width / width, image.height / height  # old pixels in a new one
    first = (left * across, top * down)
    last = ((left + size) * across, (top + size) * down)
    # Pillow holds the box in single precision, too coarse far from the corner of a long strip:
    # whole pixels are cut off first, all but those within the filter's reach.
    reach = math.ceil(max(across, down, 1)) + 1
    origin = [max(0, math.floor(edge) - reach) for edge in first]
    end = [min(side, math.ceil(edge) + reach) for side, edge in zip(image.size, last, strict=True)]
    box = (first[0] - origin[0], first[1] - origin[1], last[0] - origin[0], last[1] - origin[1])
    near = image.crop((origin[0], origin[1], end[0], end[1]))
    return near.resize((size, size), Image.Resampling.BILINEAR, box=box)


def resize_shorter_side(image: Image.Image, size: int) -> Image.Image:
    """The picture with its shorter side `size` long; bilinear, with antialiasing.

    The sizes of torchvision's `Resize`: the longer side is rounded down.
    """
    return image.resize(_resized(image.size, size), Image.Resampling.BILINEAR)


def center_crop(image: Image.Image, size: int) -> Image.Image:
    """The square in the middle; of a middle between two pixels, the even one, as torchvision's
    `CenterCrop` has it.

    Raises ValueError for a picture smaller than that.
    """
    if min(image.size) < size:
        raise ValueError(f"cannot crop {size}x{size} out of {image.width}x{image.height} pixels")
    left, top = _corner(image.width, size), _corner(image.height, size)
    return image.crop((left, top, left + size, top + size))


def _resized(sides: tuple[int, int], size: int) -> tuple[int, int]:
    """(width, height) of a picture whose shorter side becomes `size`."""
    width, height = sides
    if width <= height:
        return size, int(size * height / width)
    return int(size * width / height), size


def _corner(side: int, size: int) -> int:
    """Where the middle `size` pixels of a side begin; Python rounds halves to even."""
    return round((side - size) / 2)
