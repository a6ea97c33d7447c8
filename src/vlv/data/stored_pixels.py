"""Images that a table holds as pixels instead of files, as the paper's authors store them.

A cell of their column `image` holds raw 8-bit samples, 3x384x384, or the bytes of an `.npy` file,
or nested lists of samples. Each becomes a PNG file with the same pixels, so that everything else
knows files alone. Arrays are read without pickle: an array of objects is refused.
"""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlv.data.formats import ends_early, format_of
from vlv.data.images import MAX_OWN_PIXELS

EXTENSION = ".png"
# The authors crop every image to this size; another size could as well be a damaged file.
_RAW_SHAPE = (3, 384, 384)
_RAW_BYTES = 3 * 384 * 384
_NPY = b"\x93NUMPY"


def image_file(data: bytes) -> tuple[bytes, str]:
    """The image file of a cell, and its extension; an empty extension for bytes that are a file.

    Raises:
        ValueError: it is an array that is no image; the message says why in a few words.
    """
    if data.startswith(_NPY):
        return png_of(_array_of(data)), EXTENSION
    # Pixels can begin like a file, but hardly end like one too.
    if len(data) == _RAW_BYTES and (format_of(data) is None or ends_early(data)):
        return png_of(np.frombuffer(data, np.uint8).reshape(_RAW_SHAPE)), EXTENSION
    return data, ""


def png_of(pixels: NDArray[Any]) -> bytes:
    """A PNG file of 8-bit samples (3,H,W), (H,W,3), (H,W), or 3x384x384 in one row.

    Raises:
        ValueError: it has other samples, or another shape.
    """
    if pixels.dtype != np.uint8:
        raise ValueError(f"an array of {pixels.dtype}, where pixels are uint8")
    if pixels.size == _RAW_BYTES and pixels.ndim == 1:
        pixels = pixels.reshape(_RAW_SHAPE)
    if pixels.ndim == 3 and pixels.shape[0] == 3 and pixels.shape[2] != 3:
        pixels = pixels.transpose(1, 2, 0)
    if pixels.size == 0 or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)):
        raise ValueError(f"an array of shape {pixels.shape}, which is no image")
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "PNG", compress_level=1)
    return file.getvalue()


def _array_of(data: bytes) -> NDArray[Any]:
    """The array of an `.npy` file; its header is checked against its length first."""
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, fortran, kind = np.lib.format.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, fortran, kind = np.lib.format.read_array_header_2_0(file)
    else:
        raise ValueError(f"an .npy file of version {version}")
    if kind.hasobject:
        raise ValueError("an .npy file of Python objects, which could run code")
    count = 1
    for length in shape:
        count *= length
    if not 0 < count <= 3 * MAX_OWN_PIXELS or count * kind.itemsize != len(data) - file.tell():
        raise ValueError(f"an .npy file of shape {shape} in {len(data)} bytes")
    samples = np.frombuffer(data, kind, offset=file.tell())
    return samples.reshape(shape[::-1]).T if fortran else samples.reshape(shape)


def cell_of(pa: Any, cell: Any) -> tuple[Any, str | None, str]:
    """(image file, its name, extension) of a cell of the column `image`, an Arrow scalar.

    The cell is bytes, a struct of bytes and path, or nested lists of samples. The image is None if
    there is none, and the extension is empty where the file says it.

    Raises:
        ValueError: it holds an array that is no image.
    """
    if not cell.is_valid:
        return None, None, ""
    if isinstance(cell, pa.StructScalar):
        fields = {cell.type.field(number).name for number in range(cell.type.num_fields)}
        data, _, extension = cell_of(pa, cell["bytes"]) if "bytes" in fields else (None, None, "")
        return data, _name_in(cell["path"]) if "path" in fields else None, extension
    if isinstance(cell, pa.ListScalar | pa.ExtensionScalar):
        return png_of(_samples(pa, cell)), None, EXTENSION
    data = cell.as_py()
    if not isinstance(data, bytes):
        return data, None, ""
    file, extension = image_file(data)
    return file, None, extension


def _name_in(cell: Any) -> str | None:
    """The name of an image; none if it is not UTF-8."""
    try:
        name = cell.as_py()
    except UnicodeDecodeError:
        return None
    return name if isinstance(name, str) else None


def _samples(pa: Any, cell: Any) -> NDArray[Any]:
    """The samples of nested lists, whose lengths must agree."""
    values = cell.value.values if isinstance(cell, pa.ExtensionScalar) else cell.values
    shape = [len(values)]
    kinds = pa.types
    lists = (kinds.is_list, kinds.is_large_list, kinds.is_fixed_size_list)
    while any(is_list(values.type) for is_list in lists):
        flat = values.flatten()
        if not len(values) or values.null_count or len(flat) % len(values):
            raise ValueError("lists of different lengths, which are no image")
        shape.append(len(flat) // len(values))
        if any(len(one) != shape[-1] for one in values):
            raise ValueError("lists of different lengths, which are no image")
        values = flat
    if values.null_count:
        raise ValueError("an array with gaps, which is no image")
    if values.type != pa.uint8():
        raise ValueError(f"an array of {values.type}, where pixels are uint8")
    return np.asarray(values.to_numpy(zero_copy_only=False)).reshape(shape)
