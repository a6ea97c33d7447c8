"""Pictures in every form that images come in, made by code, with the pixels a viewer shows.

The expected pixels are computed here from first principles, without Pillow's conversions. JPEG
files show flat blocks as large as the codec's own, at its highest quality: then it loses nothing
but the rounding of its colour space, and 2 of 255 cover that.
"""

import io
import itertools
import struct
import zlib
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

Pixels = NDArray[np.uint8]
Values = NDArray[np.float64]

ORIENTATION = 0x0112
# What a viewer does with stored pixels, by the EXIF standard.
SHOWN: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].transpose(1, 0, 2),
    8: lambda stored: np.rot90(stored, 1),
}


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(
    width: int,
    height: int,
    bits: int,
    color_type: int,
    rows: bytes,
    extra: bytes = b"",
    interlaced: bool = False,
) -> bytes:
    """A PNG file made by hand, for what Pillow does not write; `extra` are chunks before IDAT."""
    header = struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, interlaced)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", header),
            extra,
            chunk(b"IDAT", zlib.compress(rows)),
            chunk(b"IEND", b""),
        ]
    )


def unfiltered(rows: NDArray[np.generic]) -> bytes:
    """Rows of a PNG, each after the filter type 0, samples of 16 bits in its byte order."""
    order = ">u2" if rows.dtype == np.uint16 else "u1"
    return b"".join(b"\0" + row.astype(order).tobytes() for row in rows)


def packed(values: Pixels, bits: int) -> bytes:
    """Rows of a gray PNG of less than 8 bits; the width is a multiple of the samples a byte."""
    samples = values.reshape(len(values), -1, 8 // bits)
    shifts = np.arange(8 - bits, -1, -bits)
    return unfiltered((samples << shifts).sum(axis=-1).astype(np.uint8))


def adam7(pixels: Pixels) -> bytes:
    """The seven passes of an interlaced PNG."""
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2)]
    return b"".join(
        unfiltered(pixels[top::down, left::right])
        for top, left, down, right in [*passes, (1, 0, 2, 1)]
    )


def blocks(rows: int = 3, columns: int = 4, size: int = 8) -> Pixels:
    """Flat blocks of colours without symmetry."""
    colors = np.random.default_rng(rows * columns).integers(0, 256, (rows, columns, 3))
    return colors.repeat(size, axis=0).repeat(size, axis=1).astype(np.uint8)


def smooth(height: int = 24, width: int = 40) -> Pixels:
    """Red grows to the right, green downwards."""
    rows, columns = np.mgrid[0:height, 0:width]
    red, green = 255 * columns / width, 255 * rows / height
    return np.stack([red, green, 0.5 * red], axis=-1).astype(np.uint8)


def gray(values: NDArray[np.generic]) -> Values:
    return np.repeat(values.astype(np.float64)[..., None], 3, axis=-1)


def over_white(colors: NDArray[np.generic], alpha: NDArray[np.generic]) -> Values:
    """Both from 0 to 255; `alpha` without a channel."""
    share = alpha.astype(np.float64)[..., None] / 255
    return colors * share + 255 * (1 - share)


def white_where(where: NDArray[np.bool_], colors: NDArray[np.generic]) -> Values:
    return np.where(where[..., None], 255.0, colors)


Golden = tuple[str, bytes, NDArray[np.generic]]
"""Name, file, and the RGB pixels that a viewer shows."""


def turned() -> Iterator[Golden]:
    for format, orientation in itertools.product(("JPEG", "PNG", "WEBP"), SHOWN):
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        options = {
            "JPEG": {"quality": 100, "subsampling": 0},
            "PNG": {},
            "WEBP": {"lossless": True},
        }[format]
        stored = blocks()
        data = encoded(Image.fromarray(stored), format, exif=exif, **options)
        yield f"{format} with EXIF orientation {orientation}", data, SHOWN[orientation](stored)


def pngs() -> Iterator[Golden]:
    rng = np.random.default_rng(0)
    color = smooth()
    alpha = rng.integers(0, 256, color.shape[:2]).astype(np.uint8)
    height, width = alpha.shape
    yield (
        "RGBA",
        png(width, height, 8, 6, unfiltered(np.dstack([color, alpha]))),
        over_white(color, alpha),
    )
    yield (
        "LA",
        png(width, height, 8, 4, unfiltered(np.dstack([color[..., 0], alpha]))),
        over_white(gray(color[..., 0]), alpha),
    )
    key = tuple(int(value) for value in color[5, 7])
    yield (
        "RGB with a transparent colour",
        png(width, height, 8, 2, unfiltered(color), chunk(b"tRNS", struct.pack(">3H", *key))),
        white_where((color == key).all(axis=-1), color),
    )
    yield "interlaced", png(width, height, 8, 2, adam7(color), interlaced=True), color

    for bits in (1, 2, 4):
        values = rng.integers(0, 2**bits, (8, 16)).astype(np.uint8)
        shown = gray(values * (255 // (2**bits - 1)))
        yield f"gray of {bits} bits", png(16, 8, bits, 0, packed(values, bits)), shown
        key = 2**bits - 2  # black for 1 bit
        transparent = chunk(b"tRNS", struct.pack(">H", key))
        yield (
            f"gray of {bits} bits with a transparent gray",
            png(16, 8, bits, 0, packed(values, bits), transparent),
            white_where(values == key, shown),
        )

    deep = rng.integers(0, 65536, (8, 16, 4)).astype(np.uint16)
    level, opacity = deep[..., 0], deep[..., 3]
    key = int(level[2, 3])
    yield "gray of 16 bits", png(16, 8, 16, 0, unfiltered(level)), gray(level / 257)
    yield (
        "gray of 16 bits with a transparent gray",
        png(16, 8, 16, 0, unfiltered(level), chunk(b"tRNS", struct.pack(">H", key))),
        white_where(level == key, gray(level / 257)),
    )
    yield (
        "gray and alpha of 16 bits",
        png(16, 8, 16, 4, unfiltered(deep[..., [0, 3]])),
        over_white(gray(level / 257), opacity / 257),
    )
    yield "RGB of 16 bits", png(16, 8, 16, 2, unfiltered(deep[..., :3])), deep[..., :3] / 257
    key = tuple(int(value) for value in deep[2, 3, :3])
    yield (
        "RGB of 16 bits with a transparent colour",
        png(16, 8, 16, 2, unfiltered(deep[..., :3]), chunk(b"tRNS", struct.pack(">3H", *key))),
        white_where((deep[..., :3] == key).all(axis=-1), deep[..., :3] / 257),
    )
    yield (
        "RGBA of 16 bits",
        png(16, 8, 16, 6, unfiltered(deep)),
        over_white(deep[..., :3] / 257, opacity / 257),
    )


def palettes() -> Iterator[Golden]:
    rng = np.random.default_rng(1)
    indices = rng.integers(0, 16, (8, 16)).astype(np.uint8)
    colors = rng.integers(0, 256, (16, 3)).astype(np.uint8)
    image = Image.fromarray(indices)
    image.putpalette(colors.tobytes())
    yield "palette", encoded(image, "PNG"), colors[indices]
    alpha = rng.integers(0, 256, 16).astype(np.uint8)
    yield (
        "palette with partial transparency",
        encoded(image, "PNG", transparency=alpha.tobytes()),
        over_white(colors[indices], alpha[indices]),
    )
    for format in ("PNG", "GIF"):
        yield (
            f"palette with a transparent entry, {format}",
            encoded(image, format, transparency=3),
            white_where(indices == 3, colors[indices]),
        )
    yield "GIF interlaced", encoded(image, "GIF", interlace=True), colors[indices]


def jpegs() -> Iterator[Golden]:
    exact = {"quality": 100, "subsampling": 0}
    picture = blocks()
    image = Image.fromarray(picture)
    yield "JPEG progressive", encoded(image, "JPEG", progressive=True, **exact), picture
    yield "JPEG with restarts", encoded(image, "JPEG", restart_marker_rows=1, **exact), picture
    flat = np.full((32, 32, 3), (200, 60, 30), np.uint8)
    yield "JPEG subsampled", encoded(Image.fromarray(flat), "JPEG", subsampling=2), flat
    yield "JPEG of RGB", encoded(image, "JPEG", keep_rgb=True, quality=100), picture
    level = Image.fromarray(picture[..., 0])
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    yield (
        "JPEG gray with a colour profile",
        encoded(level, "JPEG", quality=100, icc_profile=profile),
        gray(picture[..., 0]),
    )

    ink = np.dstack([picture, blocks(4, 3)[..., 0].T]).astype(np.float64)  # C, M, Y, K
    shown = (255 - ink[..., :3]) * (255 - ink[..., 3:]) / 255

    def stored(planes: Values) -> bytes:
        """An Adobe JPEG of four planes as they are given (Pillow inverts what it is given)."""
        image = Image.merge("CMYK", [Image.fromarray(255 - p) for p in planes_of(planes)])
        return encoded(image, "JPEG", **exact)

    inverted = stored(255 - ink)
    yield "JPEG of CMYK", inverted, shown
    # Browsers take the inks for inverted without Adobe's marker, too.
    marker = inverted.index(b"\xff\xee")
    length = int.from_bytes(inverted[marker + 2 : marker + 4], "big")
    unmarked = inverted[:marker] + inverted[marker + 2 + length :]
    yield "JPEG of CMYK without a marker", unmarked, shown
    # YCCK is YCbCr of the inks, taken for red, green and blue, beside the inverted black.
    luma = ink[..., :3] @ [0.299, 0.587, 0.114]
    blue, red = (ink[..., 2] - luma) / 1.772 + 128, (ink[..., 0] - luma) / 1.402 + 128
    ycck = bytearray(stored(np.round(np.dstack([luma, blue, red, 255 - ink[..., 3]]))))
    ycck[ycck.index(b"Adobe") + 11] = 2
    yield "JPEG of YCCK", bytes(ycck), shown


def planes_of(values: Values) -> list[Pixels]:
    return [values[..., plane].astype(np.uint8) for plane in range(values.shape[-1])]


def first_frames() -> Iterator[Golden]:
    pictures = [blocks(), blocks()[::-1], blocks()[:, ::-1]]
    first, *others = [Image.fromarray(picture) for picture in pictures]
    options: dict[str, dict[str, object]] = {
        "PNG": {},
        "WEBP": {"lossless": True},
        "MPO": {"quality": 100, "subsampling": 0},
    }
    for format, more in options.items():
        data = encoded(first, format, save_all=True, append_images=others, **more)
        yield f"{format} of three frames", data, pictures[0]
    data = encoded(first, "PNG", save_all=True, append_images=others, default_image=True)
    yield "PNG of a still picture and two frames", data, pictures[0]

    frames = [Image.fromarray(np.full((8, 16), index, np.uint8)) for index in range(3)]
    for frame in frames:
        frame.putpalette([10, 20, 30, 200, 0, 0, 0, 90, 0])
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    yield "GIF of three frames", data, np.full((8, 16, 3), (10, 20, 30))
    # The first frame lies in the middle of a canvas four times as wide: what it leaves is empty.
    small = bytearray(encoded(frames[1], "GIF"))
    small[6:8] = struct.pack("<H", 64)
    place = small.index(b"\x2c", 13 + 3 * 4)
    small[place + 1 : place + 3] = struct.pack("<H", 24)
    shown = np.full((8, 64, 3), 255)
    shown[:, 24:40] = (200, 0, 0)
    yield "GIF whose first frame is smaller than its canvas", bytes(small), shown


def shapes() -> Iterator[Golden]:
    tall = smooth(10_000, 1)
    yield "1 x 10000", encoded(Image.fromarray(tall), "PNG"), tall
    wide = blocks(1, 1250)
    yield "10000 x 8", encoded(Image.fromarray(wide), "JPEG", quality=100, subsampling=0), wide


GOLDENS = [*turned(), *pngs(), *palettes(), *jpegs(), *first_frames(), *shapes()]
