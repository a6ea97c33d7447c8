"""The only decoder of untrusted images: for commands, bulk jobs, training and the server.

It turns a path or bytes into an 8-bit RGB picture as a viewer would show it, or raises an
`ImageError` with one of `REASONS`.
"""

import io
import os
import re
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageChops,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from vlv.data.formats import ends_early, format_of
from vlv.data.metadata import Stripped, without_metadata
from vlv.data.tiff import CameraRawError, first_page
from vlv.errors import UNNAMED, ConfigError, ImageError
from vlv.pixels import picture_of

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".pjpeg", ".mpo", ".png", ".apng", ".webp", ".gif"),
    *(".bmp", ".dib", ".tif", ".tiff", ".avif", ".heic", ".heif", ".hif"),
)
# Names of images in formats that are not read. A folder's files with these names are tried, so that
# each is reported; a file that is a JPEG after all is read.
OTHER_EXTENSIONS = (
    *(".jxl", ".jp2", ".j2k", ".svg", ".psd", ".eps", ".ico", ".tga", ".ppm", ".exr", ".xcf"),
    *(".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".rw2", ".raf", ".pef", ".srw"),
)
MAX_PIXELS = 50_000_000
"""The default cap on pixels, for images of strangers."""
MAX_OWN_PIXELS = 100_000_000
"""The default cap of commands, for the user's own files."""
MAX_FILE_BYTES = 100_000_000

# The reasons for which an image is refused.
REASONS = (
    "unreadable",  # no such file, no regular file, or not allowed to be read
    "empty",  # no bytes
    "too-large-file",  # more than MAX_FILE_BYTES
    "unknown-format",  # none of FORMATS; a camera's raw file; HEIF without its extra
    "too-many-pixels",  # more than the cap, by the header
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

_WHITE = (255, 255, 255)
_PLUGINS: dict[str, type[ImageFile.ImageFile]] = {
    # Pillow calls JPEG files with several pictures MPO; the first picture is an ordinary JPEG.
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
}
_EXTENSIONS = {
    "PNG": ".png",
    "GIF": ".gif",
    "WEBP": ".webp",
    "BMP": ".bmp",
    "TIFF": ".tif",
    "AVIF": ".avif",
    "HEIF": ".heic",
}
_STRIP_ROWS = 256
_JPEG_END = b"\xff\xd9"
# Continues any JPEG with some pixels, wherever the file ends and whatever its tables are.
_JPEG_NOISE = b"".join(
    bytes(range(37, 250, 5)) + bytes([0xFF, 0xD0 + restart]) for restart in range(8)
)


def load_image(
    source: str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO,
    *,
    max_pixels: int = MAX_PIXELS,
) -> Image.Image:
    """Decode an image of unknown origin.

    The first frame of an animation; turned upright by its EXIF orientation; brought to sRGB by its
    colour profile; transparent parts over white; 16 bits scaled to 8; CMYK and palettes converted.

    Args:
        source: a path, the bytes of a file, or an open file, which is read from where it stands.
        max_pixels: larger images are refused by their header.

    Returns:
        A picture in mode RGB, in memory, without a file or metadata attached.

    Raises:
        ImageError: the image was refused; `reason` is one of `REASONS`.
        ConfigError: `source` is something else.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        name, data = UNNAMED, bytes(source)
        _check_size(name, len(data))
    elif isinstance(source, str | os.PathLike):
        name, data = os.fspath(source), image_bytes(source)
    elif callable(getattr(source, "read", None)):
        name, data = UNNAMED, _read(source)
        _check_size(name, len(data))
    else:
        raise ConfigError(
            "`load_image` takes the path of an image, the bytes of its file or the open file, not "
            f"{type(source).__name__}; a PIL image goes to a model as it is"
        )
    if not data:
        raise ImageError("empty", f"{name} is empty")
    try:
        with warnings.catch_warnings():
            # The cap on pixels is our own; other warnings are about metadata that is not read.
            warnings.simplefilter("ignore")
            return _without_info(picture_of(_first_frame(name, data, max_pixels)))
    except MemoryError as error:
        raise out_of_memory(name) from error


def _read(file: BinaryIO) -> bytes:
    """The rest of an open file, of at most one byte more than an image may have."""
    try:
        data = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise ImageError("unreadable", f"{UNNAMED} cannot be read ({why})") from error
    if not isinstance(data, bytes):
        raise ConfigError('the file of an image is open as text; open it with mode "rb"')
    return data


def _without_info(picture: Image.Image) -> Image.Image:
    """The pixels without file and metadata: an orientation would turn them again later."""
    pixels = picture._new(picture.im)  # unlike a copy, it uses no more memory
    pixels.info.clear()
    return pixels


def out_of_memory(name: str) -> ImageError:
    """The refusal of an image that needs too much memory."""
    return ImageError("too-much-memory", f"{name} needs more memory to decode than there is")


def _check_size(name: str, size: int) -> None:
    if size > MAX_FILE_BYTES:
        raise ImageError(
            "too-large-file",
            f"{name} has more than the {MAX_FILE_BYTES // 1_000_000} MB that are read of an image",
        )


def image_header(data: bytes, name: str = UNNAMED) -> tuple[str, int, int]:
    """(format, width, height) of an image of at most `MAX_OWN_PIXELS` by its header, as it is
    stored; decodes nothing.

    Raises:
        ImageError: it is empty, in no known format, too large, or its header is damaged.
    """
    _check_size(name, len(data))
    if not data:
        raise ImageError("empty", f"{name} is empty")
    format = _known_format(name, data)
    with _refused(name, data), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = _open(name, _plugin(name, format), _stripped(data, format), MAX_OWN_PIXELS)
    return format, image.width, image.height


def image_bytes(path: str | os.PathLike[str]) -> bytes:
    """The bytes of an image file, of at most `MAX_FILE_BYTES`. Raises ImageError."""
    name = os.fspath(path)
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            # Opening a pipe would wait for a writer.
            raise ImageError("unreadable", f"{name} is not a file")
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            _check_size(name, size)
            # One byte more, in case the file has grown. Not more: so much memory is allocated.
            data = file.read(size + 1)
    except (OSError, ValueError) as error:
        # An OSError's text repeats the name.
        why = getattr(error, "strerror", None) or error
        raise ImageError("unreadable", f"{name} cannot be read ({why})") from error
    except MemoryError as error:
        raise out_of_memory(name) from error
    return data


def _first_frame(name: str, data: bytes, max_pixels: int) -> Image.Image:
    """All pixels as they are stored, with the facts that `picture_of` needs."""
    format = _known_format(name, data)
    plugin = _plugin(name, format)
    with _refused(name, data):
        stripped = _stripped(data, format)
        image = _open(name, plugin, stripped, max_pixels)
        if format == "PNG":
            _scale_transparent_color(image, bits=data[24])
        if not _loads(image, format):
            del image  # before as much memory is needed again
            image = _without_its_end(stripped)
        if image.width * image.height > max_pixels:  # some formats store the size twice
            raise _too_many_pixels(name, max_pixels)
    if isinstance(image, GifImagePlugin.GifImageFile):
        return _on_canvas(image)
    if image.info.get("white_is_zero") and image.mode.startswith("I;16"):
        return image.point(lambda value: 65535 - value)
    return image


def _known_format(name: str, data: bytes) -> str:
    format = format_of(data)
    if format is None:
        known = ", ".join(FORMATS)
        raise ImageError("unknown-format", f"{name} is no image in a known format ({known})")
    return format


def _plugin(name: str, format: str) -> type[ImageFile.ImageFile]:
    return _heif(name) if format == "HEIF" else _PLUGINS[format]


def _stripped(data: bytes, format: str) -> Stripped:
    return first_page(data) if format == "TIFF" else without_metadata(data, format)


@contextmanager
def _refused(name: str, data: bytes) -> Iterator[None]:
    """Errors of decoders as refusals of the image."""
    try:
        yield
    except (MemoryError, ImageError):
        raise
    except CameraRawError as error:
        message = f"{name} is a camera's raw file; develop it into a JPEG, PNG or TIFF first"
        raise ImageError("unknown-format", message) from error
    # Decoders raise any error on hostile bytes; each means that the bytes are refused.
    except Exception as error:
        raise _damaged(name, data, error) from error


def _open(
    name: str, plugin: type[ImageFile.ImageFile], stripped: Stripped, max_pixels: int
) -> ImageFile.ImageFile:
    """Read only the header, and check the size."""
    # `Image.open` has its own cap, so it is not used.
    image = plugin(io.BytesIO(stripped.data), "")
    if image.width * image.height > max_pixels:
        raise _too_many_pixels(name, max_pixels)
    image.info.update(stripped.info)
    nclx = image.info.get("nclx_profile")  # of HEIF
    if nclx and not image.info.get("icc_profile"):
        image.info["cicp"] = nclx["color_primaries"], nclx["transfer_characteristics"]
    return image


def _loads(image: ImageFile.ImageFile, format: str) -> bool:
    """Decode the first frame; False for a JPEG that may lack only its end."""
    try:
        if format != "HEIF":  # its main picture need not be the first
            image.seek(0)
        image.load()
    except OSError:
        if format != "JPEG":
            raise
        return False
    return True


def _heif(name: str) -> type[ImageFile.ImageFile]:
    try:
        import pi_heif
    except ImportError as error:
        message = f"{name} is HEIF, which needs one more package: pip install 'vlv[heif]'"
        raise ImageError("unknown-format", message) from error
    pi_heif.options.THUMBNAILS = pi_heif.options.DEPTH_IMAGES = pi_heif.options.AUX_IMAGES = False
    plugin: type[ImageFile.ImageFile] = pi_heif.HeifImageFile
    return plugin


def _scale_transparent_color(image: Image.Image, bits: int) -> None:
    """Scale the transparent color to 8 bits, as Pillow scales the pixels."""
    color = image.info.get("transparency")
    if image.mode == "L" and color is not None and bits in (2, 4):
        image.info["transparency"] = color * 255 // (2**bits - 1)
    elif image.mode == "RGB" and color is not None and bits == 16:
        image.info["transparency"] = tuple(value >> 8 for value in color)


def _without_its_end(stripped: Stripped) -> ImageFile.ImageFile:
    """A JPEG whose end is missing, if all of its rows are there.

    A decoder fills missing pixels and does not report where they begin. So the file is decoded with
    two different ends: the first pixels that differ are the first that are missing.

    Raises:
        OSError: more is missing than half of the last row of blocks.
    """
    image = _ended(stripped, _JPEG_END)
    if not _has_all_scans(stripped.data, [layer[0] for layer in image.layer]):
        raise OSError("scans are missing")
    other = _ended(stripped, _JPEG_NOISE + _JPEG_END)
    block = 8 * max(layer[2] for layer in image.layer)
    last = (image.height - 1) // block * block
    # Colours of lower resolution are smoothed across the edges of blocks.
    for top in range(0, last - 2, _STRIP_ROWS):
        box = (0, top, image.width, min(top + _STRIP_ROWS, last - 2))
        if _differ(image, other, box):
            raise OSError("rows of pixels are missing")
    if _differ(image, other, (0, max(0, last - 2), image.width // 2 - 2, image.height)):
        raise OSError("half of the last row of blocks is missing")
    return image


def _has_all_scans(data: bytes, components: list[int]) -> bool:
    """Whether there is a scan with the last bit of each coefficient."""
    left = {(component, place) for component in components for place in range(64)}
    for found in re.finditer(rb"\xff\xda..([\x01-\x04])", data, re.DOTALL):
        scan = data[found.end() : found.end() + 2 * found.group(1)[0] + 3]
        if len(scan) >= 5 and scan[-1] & 15 == 0:
            places = range(scan[-3], scan[-2] + 1)
            left -= {(component, place) for component in scan[:-3:2] for place in places}
    return not left


def _ended(stripped: Stripped, end: bytes) -> JpegImagePlugin.JpegImageFile:
    # Half a marker at the end would combine with the bytes that follow.
    data = stripped.data.removesuffix(b"\xff") + end
    image = JpegImagePlugin.JpegImageFile(io.BytesIO(data), "")
    image.info.update(stripped.info)
    image.load()
    return image


def _differ(one: Image.Image, other: Image.Image, box: tuple[int, int, int, int]) -> bool:
    return ImageChops.difference(one.crop(box), other.crop(box)).getbbox() is not None


def _on_canvas(image: GifImagePlugin.GifImageFile) -> Image.Image:
    """Make the area outside the first frame white: it is transparent, but Pillow colors it."""
    box = image.dispose_extent
    if box is None or box == (0, 0, *image.size):
        return image
    canvas = Image.new("RGB", image.size, _WHITE)
    canvas.paste(picture_of(image.crop(box)), box)
    return canvas


def _too_many_pixels(name: str, max_pixels: int) -> ImageError:
    cap = f"{max_pixels / 1_000_000:g}"
    return ImageError("too-many-pixels", f"{name} has more than {cap} megapixels")


def _damaged(name: str, data: bytes, error: Exception) -> ImageError:
    if ends_early(data):
        return ImageError("truncated", f"{name} is truncated: its data end early")
    detail = f" ({error})" if str(error) else ""
    return ImageError("corrupt", f"{name} is corrupt: its data do not decode{detail}")


def extension_of(data: bytes) -> str:
    """The extension for the format of a file's first bytes; .jpg if the format is unknown."""
    return _EXTENSIONS.get(format_of(data) or "", ".jpg")
