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
from tests.data.heif import SMOOTH

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


def tiff(tags: dict[int, tuple[int, ...] | bytes], *data: bytes, big: bool = False) -> bytes:
    """A TIFF made by hand, for what Pillow does not write: strips or tiles `data`.

    Tags of bytes are written as such, others as 32-bit integers.
    """
    offset_format, size = ("Q", 16) if big else ("I", 8)
    places = np.cumsum([size, *map(len, data)])
    where = (324, 325) if 322 in tags else (273, 279)
    tags = tags | {where[0]: tuple(places[:-1]), where[1]: tuple(map(len, data))}
    body, entries = b"".join(data), b""
    inline = struct.calcsize(offset_format)
    for name, values in sorted(tags.items()):
        is_bytes = isinstance(values, bytes)
        content = values if is_bytes else struct.pack(f"<{len(values)}I", *values)
        field = content.ljust(inline, b"\0")
        if len(content) > inline:
            field = struct.pack("<" + offset_format, size + len(body))
            body += content
        entries += struct.pack("<HH" + offset_format, name, 7 if is_bytes else 4, len(values))
        entries += field
    start = b"II+\0\x08\0\0\0" if big else b"II*\0"
    start += struct.pack("<" + offset_format, size + len(body))
    count = struct.pack("<Q" if big else "<H", len(tags))
    return start + body + count + entries + bytes(inline)


def tags_of(picture: NDArray[np.generic], bits: int, meaning: int) -> dict[int, tuple[int, ...]]:
    height, width, *planes = picture.shape
    samples = planes[0] if planes else 1
    return {
        256: (width,),
        257: (height,),
        258: (bits,) * samples,
        259: (1,),
        262: (meaning,),
        277: (samples,),
    }


def tiffs() -> Iterator[Golden]:
    rng = np.random.default_rng(2)
    picture = blocks()
    image = Image.fromarray(picture)
    for compression in ("raw", "packbits", "tiff_lzw", "tiff_adobe_deflate"):
        yield f"TIFF {compression}", encoded(image, "TIFF", compression=compression), picture
    yield "TIFF jpeg", encoded(image, "TIFF", compression="jpeg", quality=100), picture
    bitmap = rng.integers(0, 2, (16, 24)).astype(bool)
    for compression in ("raw", "group3", "group4"):
        data = encoded(Image.fromarray(bitmap), "TIFF", compression=compression)
        yield f"TIFF bitmap {compression}", data, gray(bitmap * 255)
    yield (
        "TIFF of two pages",
        encoded(image, "TIFF", save_all=True, append_images=[image.rotate(180)]),
        picture,
    )
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    yield "TIFF turned", encoded(image, "TIFF", exif=exif), SHOWN[6](picture)
    alpha = rng.integers(0, 256, picture.shape[:2]).astype(np.uint8)
    layered = Image.fromarray(np.dstack([picture, alpha]))
    yield "TIFF with alpha", encoded(layered, "TIFF"), over_white(picture, alpha)
    ink = np.dstack([picture, blocks(4, 3)[..., 0].T]).astype(np.float64)
    shown = (255 - ink[..., :3]) * (255 - ink[..., 3:]) / 255
    planes = [Image.fromarray(plane) for plane in planes_of(ink)]
    yield "TIFF of CMYK", encoded(Image.merge("CMYK", planes), "TIFF"), shown
    indices = rng.integers(0, 16, (8, 16)).astype(np.uint8)
    colors = rng.integers(0, 256, (16, 3)).astype(np.uint8)
    palette = Image.fromarray(indices)
    palette.putpalette(colors.tobytes())
    yield "TIFF with a palette", encoded(palette, "TIFF"), colors[indices]

    deep = rng.integers(0, 65536, (8, 16, 3)).astype(np.uint16)
    level = deep[..., 0]
    yield "TIFF gray of 16 bits", encoded(Image.fromarray(level), "TIFF"), gray(level / 257)
    yield (
        "TIFF gray of 16 bits, deflated",
        encoded(Image.fromarray(level), "TIFF", compression="tiff_adobe_deflate"),
        gray(level / 257),
    )
    yield (
        "TIFF gray of 16 bits, 0 is white",
        tiff(tags_of(level, 16, 0), level.tobytes()),
        gray((65535 - level) / 257),
    )
    yield "TIFF RGB of 16 bits", tiff(tags_of(deep, 16, 2), deep.tobytes()), deep / 257
    share = rng.random((8, 16)).astype(np.float32)
    yield "TIFF of floats", encoded(Image.fromarray(share), "TIFF"), gray(share * 255)
    tags = tags_of(picture, 8, 2)
    height, width = picture.shape[:2]
    padded = np.pad(picture, ((0, -height % 16), (0, -width % 16), (0, 0)))
    tiles = [
        padded[top : top + 16, left : left + 16].tobytes()
        for top in range(0, height, 16)
        for left in range(0, width, 16)
    ]
    yield "TIFF of tiles", tiff(tags | {322: (16,), 323: (16,)}, *tiles), picture
    strips = [picture[:8].tobytes(), picture[8:16].tobytes(), picture[16:].tobytes()]
    yield "TIFF of strips", tiff(tags | {278: (8,)}, *strips), picture
    yield "BigTIFF", tiff(tags | {278: (8,)}, *strips, big=True), picture


def other_formats() -> Iterator[Golden]:
    picture = blocks()
    image = Image.fromarray(picture)
    yield "BMP", encoded(image, "BMP"), picture
    level = image.convert("L")
    yield "BMP gray", encoded(level, "BMP"), gray(np.asarray(level))
    alpha = picture[..., 1]
    layered = Image.fromarray(np.dstack([picture, alpha]))
    exact: dict[str, object] = {"quality": 100, "subsampling": "4:4:4"}
    yield "AVIF", encoded(image, "AVIF", **exact), picture
    yield "AVIF with alpha", encoded(layered, "AVIF", **exact), over_white(picture, alpha)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    yield "AVIF turned", encoded(image, "AVIF", exif=exif, **exact), SHOWN[6](picture)
    others = [image.rotate(180)]
    data = encoded(image, "AVIF", save_all=True, append_images=others, **exact)
    yield "AVIF of two frames", data, picture
    yield "HEIF", SMOOTH, smooth()


# Colours


def linear(encoded: Values) -> Values:
    """Light of samples from 0 to 1 of sRGB."""
    return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)


def of_light(light: Values) -> Values:
    """Samples from 0 to 255 of sRGB."""
    light = light.clip(0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


# XYZ under D65 of full red, green and blue, to 4 digits as they are published.
SRGB_TO_XYZ = np.array(
    [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
)
P3_TO_XYZ = np.array([[0.4866, 0.2657, 0.1982], [0.2290, 0.6917, 0.0793], [0.0, 0.0451, 1.0439]])


def p3_shown(stored: Pixels) -> Values:
    return of_light(linear(stored / 255) @ (np.linalg.inv(SRGB_TO_XYZ) @ P3_TO_XYZ).T)


def profile(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    """An ICC profile made by hand."""
    offset = 132 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        content = content.ljust(-(-len(content) // 4) * 4, b"\0")
        table += struct.pack(">4sII", name, offset + len(body), len(content))
        body += content
    size = struct.pack(">I", offset + len(body))
    kind = b"mntr" + space + b"XYZ " if space != b"CMYK" else b"prtrCMYKLab "
    header = size + bytes(4) + b"\x02\x10\0\0" + kind + bytes(12) + b"acsp" + bytes(28)
    return (header + xyz(0.9642, 1, 0.8249)[8:]).ljust(128, b"\0") + table + body


def xyz(*values: float) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(value * 65536) for value in values))


def curve(gamma: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))


# Of sRGB, under D50 as profiles store them, the first two exchanged: stores red as green.
EXCHANGED = profile(
    b"RGB ",
    {
        b"wtpt": xyz(0.9642, 1, 0.8249),
        b"rXYZ": xyz(0.3851, 0.7169, 0.0971),
        b"gXYZ": xyz(0.4361, 0.2225, 0.0139),
        b"bXYZ": xyz(0.1431, 0.0606, 0.7141),
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve(1)),
    },
)
GRAY_LINEAR = profile(b"GRAY", {b"wtpt": xyz(0.9642, 1, 0.8249), b"kTRC": curve(1)})


def cmyk_profile() -> bytes:
    """Black ink alone matters: of it the lightness is 100 less its share."""
    grid = np.zeros((2, 2, 2, 2, 3), np.uint8)
    grid[..., 0, 0] = 255
    grid[..., 1:] = 128
    table = struct.pack(">4s4xBBBx9i", b"mft1", 4, 3, 2, *(np.eye(3, dtype=int).ravel() * 65536))
    identity = bytes(range(256))
    table += identity * 4 + grid.tobytes() + identity * 3
    return profile(b"CMYK", {b"wtpt": xyz(0.9642, 1, 0.8249), b"A2B0": table})


def lightness_shown(lightness: Values) -> Values:
    """A neutral gray of CIE lightness 0 ... 100."""
    share = np.where(lightness > 8, ((lightness + 16) / 116) ** 3, lightness / 903.3)
    return of_light(share)


def profiles() -> Iterator[Golden]:
    stored = blocks()
    image = Image.fromarray(stored)
    shown = of_light((stored / 255)[..., [1, 0, 2]])
    exact: dict[str, dict[str, object]] = {
        "PNG": {},
        "WEBP": {"lossless": True},
        "TIFF": {},
        "JPEG": {"keep_rgb": True, "quality": 100},
    }
    for format, options in exact.items():
        data = encoded(image, format, icc_profile=EXCHANGED, **options)
        yield f"{format} of exchanged colours", data, shown
    alpha = np.random.default_rng(4).integers(0, 256, stored.shape[:2]).astype(np.uint8)
    layered = Image.fromarray(np.dstack([stored, alpha]))
    yield (
        "alpha and exchanged colours",
        encoded(layered, "PNG", icc_profile=EXCHANGED),
        over_white(shown, alpha),
    )
    indices = np.random.default_rng(5).integers(0, 16, (8, 16)).astype(np.uint8)
    palette = Image.fromarray(indices)
    palette.putpalette(stored[::8, ::8].reshape(-1, 3).tobytes() + bytes(12))
    colors = np.concatenate([shown[::8, ::8].reshape(-1, 3), np.zeros((4, 3))])
    yield (
        "palette of exchanged colours",
        encoded(palette, "PNG", icc_profile=EXCHANGED),
        (colors[indices]),
    )
    level = stored[..., 0]
    grays = gray(of_light(level / 255))
    data = encoded(Image.fromarray(level), "PNG", icc_profile=GRAY_LINEAR)
    yield "gray of linear light", data, grays
    deep = np.random.default_rng(6).integers(0, 65536, (8, 16)).astype(np.uint16)
    data = encoded(Image.fromarray(deep), "PNG", icc_profile=GRAY_LINEAR)
    yield "gray of linear light, 16 bits", data, gray(of_light(deep / 65535))
    ink = np.dstack([stored, blocks(4, 3)[..., 0].T])
    data = encoded(
        Image.merge("CMYK", [Image.fromarray(plane) for plane in planes_of(ink)]),
        "TIFF",
        icc_profile=cmyk_profile(),
    )
    yield "CMYK with a profile", data, gray(lightness_shown(100 - ink[..., 3] / 2.55))
    lab = np.dstack([level, np.zeros((*level.shape, 2), np.uint8)])
    data = tiff(tags_of(lab, 8, 8), lab.tobytes())
    yield "Lab", data, gray(lightness_shown(level / 2.55))

    rows, colored = unfiltered(stored), (stored.shape[1], stored.shape[0], 8, 2)
    primaries = struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
    gamma = chunk(b"gAMA", struct.pack(">I", 45455))
    p3 = p3_shown(stored)
    yield "cHRM of Display P3", png(*colored, rows, gamma + chunk(b"cHRM", primaries)), p3
    yield "cICP of Display P3", png(*colored, rows, chunk(b"cICP", bytes([12, 13, 0, 1]))), p3
    yield "gAMA of sRGB", png(*colored, rows, gamma), stored
    light = chunk(b"gAMA", struct.pack(">I", 100_000))
    yield "gAMA of linear light", png(*colored, rows, light), of_light(stored / 255)
    yield "sRGB before gAMA", png(*colored, rows, light + chunk(b"sRGB", b"\0")), stored
    rows = unfiltered(level)
    yield "gAMA of gray", png(*reversed(level.shape), 8, 0, rows, light), grays

    # What cannot be used leaves the picture as it is stored.
    for name, useless in {
        "broken": EXCHANGED[:200],
        "empty": b"",
        "of gray": GRAY_LINEAR,
        "of noise": np.random.default_rng(7).bytes(3000),
    }.items():
        yield f"profile {name}", encoded(image, "PNG", icc_profile=useless), stored


GOLDENS = [
    *(
        golden
        for make in (turned, pngs, palettes, jpegs, first_frames, shapes)
        for golden in make()
    ),
    *(golden for make in (tiffs, other_formats, profiles) for golden in make()),
]
