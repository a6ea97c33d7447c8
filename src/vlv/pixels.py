"""A PIL image of any mode -> RGB as a viewer shows it.

Knows nothing of files: what a format adds to the pixels is found in `Image.info`, where Pillow puts
it. Both the decoder of files and the model, which is handed PIL images in Python, use this.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from vlv.color import (
    Conversion,
    Samples,
    lab_to_srgb,
    profile_of_code_points,
    profile_of_gamma,
    to_srgb,
)
from vlv.errors import UNNAMED, ImageError

_WHITE = (255, 255, 255)
_STRIP_PIXELS = 1_000_000

# EXIF orientation -> what turns the stored picture upright (1 is upright already).
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SAMPLES: dict[str, Samples] = {
    "1": "L",
    "L": "L",
    "LA": "L",
    "La": "L",
    "CMYK": "CMYK",
    "LAB": "LAB",
}


def picture_of(image: Image.Image) -> Image.Image:
    """The picture that a viewer shows of an image.

    Turned upright by its EXIF orientation; brought to sRGB by its colour profile; transparent parts
    over white; 16 bits scaled to 8; CMYK and palettes converted. Of an animation the current frame.

    Returns:
        A picture in mode RGB; `image` itself if it is one already. `image` stays as it is.

    Raises:
        ImageError: as `loaded`.
    """
    image = _upright(loaded(image))
    if image.mode.startswith("I") or image.mode == "F":
        return _of_deep_gray(image)
    samples = _SAMPLES.get(image.mode, "RGB")
    conversion = _conversion(image, samples)
    transparent = image.has_transparency_data
    if image.mode == "RGB" and conversion is None and not transparent:
        return image
    if samples == "LAB" and conversion is None:
        conversion = lab_to_srgb()
    result = Image.new("RGB", image.size, _WHITE)
    for box in _strips(image):
        strip = _straight(image.crop(box))
        mask = strip.convert("RGBA").getchannel("A") if transparent else None
        result.paste(_converted(strip, samples, conversion), box, mask)
    return result


def loaded(image: Image.Image, name: str = UNNAMED) -> Image.Image:
    """The same image with its pixels in memory: `Image.open` reads no more than a header.

    Raises:
        ImageError: the pixels cannot be decoded, or there are none. `name` is the image's in the
            message.
    """
    try:
        image.load()
    except MemoryError:
        raise
    # Decoders raise any error on damaged bytes, and Pillow on a file that was closed.
    except Exception as error:
        raise ImageError("corrupt", f"{name} cannot be decoded ({error})") from error
    if not (image.width and image.height):
        raise ImageError("empty", f"{name} has no pixels")
    return image


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:
        # Metadata that cannot be parsed say nothing; the pixels stand as they are stored.
        orientation = 1
    method = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if method is None else image.transpose(method)


def _conversion(image: Image.Image, samples: Samples) -> Conversion | None:
    profile = _profile(image, samples)
    return None if profile is None else to_srgb(profile, samples)


def _profile(image: Image.Image, samples: Samples) -> bytes | None:
    """The colour space that comes with an image; the most exact word on it counts."""
    info = image.info
    points = info.get("cicp")
    if points is not None and samples == "RGB":
        found = profile_of_code_points(*points)
        if found is not None:
            return found
    if isinstance(info.get("icc_profile"), bytes) and info["icc_profile"]:
        return info["icc_profile"]
    if "srgb" in info or samples not in ("L", "RGB"):
        return None
    return profile_of_gamma(info.get("gamma"), info.get("chromaticity"), samples)


def _strips(image: Image.Image) -> Iterator[tuple[int, int, int, int]]:
    """Boxes of whole rows, so that a large picture is not held four times."""
    rows = max(1, _STRIP_PIXELS // max(1, image.width))
    for top in range(0, image.height, rows):
        yield 0, top, image.width, min(top + rows, image.height)


def _straight(strip: Image.Image) -> Image.Image:
    """Colours that were multiplied by alpha are divided again."""
    mode = {"La": "LA", "RGBa": "RGBA"}.get(strip.mode)
    return strip if mode is None else strip.convert(mode)


def _converted(strip: Image.Image, samples: Samples, conversion: Conversion | None) -> Image.Image:
    # Pillow has already turned the inverted inks of Photoshop's CMYK.
    return strip.convert("RGB") if conversion is None else conversion(strip.convert(samples))


def _of_deep_gray(image: Image.Image) -> Image.Image:
    """Gray of more than 8 bits; a transparent gray is white."""
    conversion = _conversion(image, "L")
    ramp = np.arange(256, dtype=np.uint8)
    if conversion is not None:
        shown = np.asarray(conversion(Image.fromarray(ramp[None])))[0, :, 1]
    white = _white_of(image)
    transparent = image.info.get("transparency")
    gray = Image.new("L", image.size)
    for box in _strips(image):
        values = np.asarray(image.crop(box))
        levels = np.nan_to_num(values.astype(np.float64)).clip(0, white) * (255 / white)
        if conversion is not None:
            levels = np.interp(levels, ramp, shown)
        strip = np.rint(levels).astype(np.uint8)
        if transparent is not None:
            strip[values == transparent] = 255
        gray.paste(Image.fromarray(strip), box)
    return gray.convert("RGB")


def _white_of(image: Image.Image) -> float:
    """The sample that means white.

    Of 16 bits 65535 (Pillow's own conversion clips at 255). Floating-point samples end at 1 and
    integers of 32 bits at what 8 or 16 bits hold, unless there are larger ones.
    """
    if image.mode.startswith("I;16"):
        return float(image.info.get("white", 65535))
    largest = max(_largest(np.asarray(image.crop(box))) for box in _strips(image))
    steps = (1.0,) if image.mode == "F" else (255.0, 65535.0)
    return next((step for step in steps if largest <= step), largest)


def _largest(values: NDArray[np.generic]) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.max()) if finite.size else 0.0
