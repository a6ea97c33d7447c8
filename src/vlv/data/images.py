"""The one decoder of untrusted images, for every entrance: commands, bulk jobs, training, server.

Takes a path or bytes, gives an 8-bit RGB picture as a viewer would show it, or an `ImageError`
with one of `REASONS`. Knows nothing of what the picture is for.
"""

import io
import os
import stat
import warnings
from pathlib import Path

import numpy as np
from PIL import ExifTags, GifImagePlugin, Image, UnidentifiedImageError

from vlv.errors import ImageError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".heic", ".heif")
# Names that say image too. A folder's files of these are tried, so that none is passed over without
# a word: most are refused as of an unknown format, a JPEG is read whatever its name.
OTHER_EXTENSIONS = (".jfif", ".bmp", ".tif", ".tiff", ".avif", ".jxl")
MAX_PIXELS = 50_000_000
MAX_FILE_BYTES = 100_000_000

# Why an image can be refused.
REASONS = (
    "unreadable",  # no such file, no regular file, or not allowed to be read
    "empty",  # no bytes
    "too-large-file",  # more than MAX_FILE_BYTES
    "unknown-format",  # none of FORMATS; HEIF without the extra that decodes it
    "too-many-pixels",  # more than MAX_PIXELS, by the header
    "truncated",  # the data end early
    "corrupt",  # the data do not decode
    "too-much-memory",  # there is not enough memory to decode it
    # Of `vlv.data.isolated`:
    "too-slow",  # not decoded in time
    "crashed",  # the decoding process ended
    # Of `vlv.data.fetching`:
    "bad-url",  # no http or https URL that can be fetched
    "refused-address",  # its host or address may not be asked
    "not-fetched",  # no answer, too late, or not with an image
)

_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
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


def load_image(source: str | os.PathLike[str] | bytes) -> Image.Image:
    """Decode an image of unknown origin.

    The first frame of an animation; turned upright by its EXIF orientation; transparent parts
    over white; 16 bits scaled to 8; CMYK and palettes converted.

    Args:
        source: a path, or the bytes of a file.

    Returns:
        A picture in mode RGB, in memory, with no file and no metadata attached.

    Raises:
        ImageError: the image was refused; `reason` is one of `REASONS`.
    """
    if isinstance(source, bytes):
        name, data = "the given image", source
        _check_size(name, len(data))
    else:
        name, data = str(Path(source)), _read(source)
    if not data:
        raise ImageError("empty", f"{name} is empty")
    try:
        with warnings.catch_warnings():
            # The cap on pixels is ours, below; the rest warns of metadata that nothing here reads.
            warnings.simplefilter("ignore")
            picture = _to_rgb(_upright(_decode(name, data, _open(name, data))))
    except MemoryError as error:
        raise out_of_memory(name) from error
    # An orientation left behind would let a later reader turn the picture once more.
    picture.info.clear()
    return picture


def out_of_memory(name: str) -> ImageError:
    """The refusal of an image that needs too much memory."""
    return ImageError("too-much-memory", f"{name} needs more memory to decode than there is")


def _check_size(name: str, size: int) -> None:
    if size > MAX_FILE_BYTES:
        raise ImageError(
            "too-large-file",
            f"{name} has more than the {MAX_FILE_BYTES // 1_000_000} MB that are read of an image",
        )


def _read(path: str | os.PathLike[str]) -> bytes:
    name = str(Path(path))
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            # Opening a pipe would wait for a writer that may never come.
            raise ImageError("unreadable", f"{name} is not a file")
        _check_size(name, status.st_size)
        with open(path, "rb") as file:
            # The file may have grown since.
            data = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        raise ImageError("unreadable", f"{name} cannot be read ({error})") from error
    _check_size(name, len(data))
    return data


def _open(name: str, data: bytes) -> Image.Image:
    """Read the header alone, and check what it announces."""
    try:
        formats = _heif(name) if _is_heif(data) else FORMATS
        image = Image.open(io.BytesIO(data), formats=formats)
    except Image.DecompressionBombError as error:
        raise _too_many_pixels(name) from error
    except (MemoryError, ImageError):
        raise
    # Decoders raise anything on hostile bytes; all of it is a refusal of these bytes.
    except Exception as error:
        if isinstance(error, UnidentifiedImageError) and _format_of(data) is None:
            known = ", ".join(FORMATS)
            message = f"{name} is no image in a known format ({known})"
            raise ImageError("unknown-format", message) from error
        raise _damaged(name, data, error) from error
    if image.width * image.height > MAX_PIXELS:
        raise _too_many_pixels(name)
    if image.format == "PNG":
        _scale_transparent_color(image, bits=data[24])
    return image


def _is_heif(data: bytes) -> bool:
    return data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS


def _heif(name: str) -> tuple[str]:
    try:
        import pillow_heif
    except ImportError as error:
        message = f"{name} is HEIF, which takes one more package: pip install 'vlv[heif]'"
        raise ImageError("unknown-format", message) from error
    pillow_heif.register_heif_opener()
    return ("HEIF",)


def _scale_transparent_color(image: Image.Image, bits: int) -> None:
    """Bring it to the 8 bits that Pillow brings the pixels to, but not this color."""
    color = image.info.get("transparency")
    if image.mode == "L" and color is not None and bits in (2, 4):
        image.info["transparency"] = color * 255 // (2**bits - 1)
    elif image.mode == "RGB" and color is not None and bits == 16:
        image.info["transparency"] = tuple(value >> 8 for value in color)


def _decode(name: str, data: bytes, image: Image.Image) -> Image.Image:
    """All pixels of the first frame."""
    try:
        image.seek(0)
        image.load()
    except Image.DecompressionBombError as error:
        raise _too_many_pixels(name) from error
    except MemoryError:
        raise
    except Exception as error:
        raise _damaged(name, data, error) from error
    return _on_canvas(image) if isinstance(image, GifImagePlugin.GifImageFile) else image


def _on_canvas(image: GifImagePlugin.GifImageFile) -> Image.Image:
    """What the first frame does not cover is transparent; Pillow gives it some color."""
    box = image.dispose_extent
    if box is None or box == (0, 0, *image.size):
        return image
    canvas = Image.new("RGB", image.size, _WHITE)
    canvas.paste(_to_rgb(image.crop(box)), box)
    return canvas


def _too_many_pixels(name: str) -> ImageError:
    cap = MAX_PIXELS // 1_000_000
    return ImageError("too-many-pixels", f"{name} has more than {cap} megapixels")


def _damaged(name: str, data: bytes, error: Exception) -> ImageError:
    if _ends_early(data):
        return ImageError("truncated", f"{name} is truncated: its data end early")
    detail = "" if isinstance(error, UnidentifiedImageError) else f" ({error})"
    return ImageError("corrupt", f"{name} is corrupt: its data do not decode{detail}")


def extension_of(data: bytes) -> str:
    """The extension that goes with a file's first bytes; .jpg where they are of no known format."""
    if _is_heif(data):
        return ".heic"
    kind = _format_of(data)
    return f".{kind.lower()}" if kind in ("PNG", "GIF", "WEBP") else ".jpg"


def _format_of(data: bytes) -> str | None:
    """The format that the first bytes promise."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    signatures = {b"\xff\xd8\xff": "JPEG", b"\x89PNG": "PNG", b"GIF8": "GIF"}
    return next((name for start, name in signatures.items() if data.startswith(start)), None)


def _ends_early(data: bytes) -> bool:
    """Whether the mark that ends a file of this format is missing."""
    kind = _format_of(data)
    if kind == "WEBP":
        return len(data) < 8 + int.from_bytes(data[4:8], "little")
    tail = data.rstrip(b"\0")[-32:]  # some writers pad
    if kind == "GIF":
        return not tail.endswith(b";")
    return {"JPEG": b"\xff\xd9", "PNG": b"IEND"}.get(kind or "", b"") not in tail


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:
        # Metadata that cannot be parsed say nothing; the pixels stand as they are stored.
        orientation = 1
    method = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if method is None else image.transpose(method)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return _gray_of_16_bits(image)
    if image.has_transparency_data:
        return _over_white(image)
    # Pillow has already turned the inverted inks of Photoshop's CMYK.
    return image.convert("RGB")


def _over_white(image: Image.Image) -> Image.Image:
    """Strip by strip, so that a large picture is not held four times."""
    result = Image.new("RGB", image.size, _WHITE)
    rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        box = (0, top, image.width, min(top + rows, image.height))
        strip = image.crop(box).convert("RGBA")
        result.paste(strip, box, strip.getchannel("A"))
    return result


def _gray_of_16_bits(image: Image.Image) -> Image.Image:
    """65535 becomes 255 (Pillow's own conversion clips at 255); a transparent gray is white."""
    values = np.asarray(image)
    # To the nearest of 0 ... 255, within the 16 bits.
    gray = ((np.minimum(values, 65535 - 128) + 128) // 257).astype(np.uint8)
    transparent = image.info.get("transparency")
    if transparent is not None:
        gray[values == transparent] = 255
    return Image.fromarray(gray).convert("RGB")
