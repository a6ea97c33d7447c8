"""Files that are wrong in every way we know, made from seeds: what strangers upload, and worse."""

import functools
import io
import re
import struct
import zipfile
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image
from tests.data.golden import EXCHANGED, GOLDENS, chunk, encoded, png, smooth, tags_of, tiff
from tests.data.heif import SMOOTH, box, tiled

Generator = np.random.Generator

SOUND = [data for _, data, _ in GOLDENS]
SIGNATURES = [b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF\xff\xff\0\0WEBPVP8 "]
SIGNATURES += [b"II*\0\x08\0\0\0", b"MM\0+\0\x08\0\0", b"BM" + bytes(12) + b"\x28\0\0\0"]
SIGNATURES += [box(b"ftyp", b"avif", bytes(4)), box(b"ftyp", b"heic", bytes(4))]
PNG_FILES = [data for data in SOUND if data.startswith(b"\x89PNG")]
JPEG_FILES = [data for data in SOUND if data.startswith(b"\xff\xd8")]
GIF_FILES = [data for data in SOUND if data.startswith(b"GIF")]
WEBP_FILES = [data for data in SOUND if data.startswith(b"RIFF")]
TIFF_FILES = [data for data in SOUND if data.startswith((b"II", b"MM"))]
BMP_FILES = [data for data in SOUND if data.startswith(b"BM")]
BOX_FILES = [data for data in SOUND if data[4:8] == b"ftyp"]


def malformed(seed: int) -> tuple[str, bytes]:
    """The kind and the bytes of one file; consecutive seeds go through all kinds."""
    kind = KINDS[seed % len(KINDS)]
    return kind.__name__, kind(np.random.default_rng(seed))


def one_of(rng: Generator, files: list[bytes]) -> bytes:
    return files[rng.integers(len(files))]


def number(rng: Generator, bits: int) -> int:
    """Likely one at the edge of something."""
    edges = [0, 1, 2**bits - 1, 2 ** (bits - 1), 2 ** (bits - 1) - 1, int(rng.integers(2**bits))]
    return edges[rng.integers(len(edges))]


# Of any format


def truncated(rng: Generator) -> bytes:
    data = one_of(rng, SOUND)
    return data[: rng.integers(len(data))]


def bits_flipped(rng: Generator) -> bytes:
    data = bytearray(one_of(rng, SOUND))
    for place in rng.integers(len(data), size=rng.integers(1, 20)):
        data[place] ^= 1 << rng.integers(8)
    return bytes(data)


def header_flipped(rng: Generator) -> bytes:
    data = bytearray(one_of(rng, SOUND))
    for place in rng.integers(min(len(data), 64), size=rng.integers(1, 6)):
        data[place] = rng.integers(256)
    return bytes(data)


def overwritten(rng: Generator) -> bytes:
    data = one_of(rng, SOUND)
    start, end = sorted(rng.integers(len(data), size=2))
    return data[:start] + rng.bytes(end - start) + data[end:]


def spliced(rng: Generator) -> bytes:
    first, second = one_of(rng, SOUND), one_of(rng, SOUND)
    return first[: rng.integers(len(first))] + second[rng.integers(len(second)) :]


def noise(rng: Generator) -> bytes:
    return rng.bytes(int(rng.integers(1, 100_000)))


def noise_with_a_signature(rng: Generator) -> bytes:
    return one_of(rng, SIGNATURES) + rng.bytes(int(rng.integers(100_000)))


def polyglot(rng: Generator) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.py", "print()")
    image, other = one_of(rng, SOUND), one_of(rng, SOUND)
    others = [archive.getvalue(), b"%PDF-1.4\n", b"<html><script>alert(1)</script>", b"MZ", other]
    tail = one_of(rng, others)
    return image + tail if rng.random() < 0.5 else tail + image


def other_format(rng: Generator) -> bytes:
    image = Image.fromarray(smooth())
    formats = ["PPM", "EPS", "ICO", "TGA", "PCX", "PDF", "JPEG2000", "DDS"]
    written = [encoded(image, format) for format in formats]
    texts = [b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"8BPS\0\1", b"SIMPLE  =  T", b"%!PS"]
    heif = b"\0\0\0\x18ftypheic\0\0\0\0heicmif1"
    return one_of(rng, [*written, *texts, heif])


def text(rng: Generator) -> bytes:
    return one_of(rng, [b"", b"\0" * 1000, b"\xef\xbb\xbf<?xml?>", "Bild".encode("utf-16"), b"\n"])


# PNG


def chunks(data: bytes) -> list[bytes]:
    found, place = [], 8
    while place < len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4], "big")
        found.append(data[place:end])
        place = end
    return found


def png_chunks_shuffled(rng: Generator) -> bytes:
    parts = chunks(one_of(rng, PNG_FILES))
    order = rng.permutation(len(parts)) if rng.random() < 0.5 else rng.integers(len(parts), size=9)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts[place] for place in order)


def png_lying_header(rng: Generator) -> bytes:
    data = one_of(rng, PNG_FILES)
    width, height = (number(rng, bits) for bits in rng.choice([8, 16, 32], 2))
    depth, kind = rng.choice([0, 1, 2, 4, 8, 16, 32]), rng.choice([0, 2, 3, 4, 6, 9])
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, rng.integers(3))
    return data[:8] + chunk(b"IHDR", header) + data[33:]


def png_bad_chunk(rng: Generator) -> bytes:
    """A chunk of wrong length or content, its checksum right, among those of a sound file."""
    names = b"tRNS PLTE iCCP gAMA sRGB pHYs eXIf acTL fcTL fdAT iTXt zTXt tEXt sBIT bKGD IHDR cHRM"
    extra = chunk(one_of(rng, names.split()), rng.bytes(int(rng.choice([0, 1, 3, 8, 26, 900]))))
    parts = chunks(one_of(rng, PNG_FILES))
    place = rng.integers(1, len(parts))
    return b"\x89PNG\r\n\x1a\n" + b"".join([*parts[:place], extra, *parts[place:]])


def png_lying_animation(rng: Generator) -> bytes:
    control = struct.pack(">II", number(rng, 32), number(rng, 32))
    places = [number(rng, 32) for _ in range(5)]
    frame = struct.pack(">5IHHBB", *places, 1, 1, rng.integers(4), rng.integers(3))
    rows = b"".join(b"\0" + row.tobytes() for row in smooth())
    return png(40, 24, 8, 2, rows, chunk(b"acTL", control) + chunk(b"fcTL", frame))


def png_bomb_by_header(rng: Generator) -> bytes:
    width, height = one_of_sizes(rng)
    return png(width, height, int(rng.choice([1, 8, 16])), 0, b"")


def one_of_sizes(rng: Generator) -> tuple[int, int]:
    sizes = [(7072, 7072), (2**31 - 1, 1), (2**31 - 1, 2**31 - 1), (1, 50_000_001), (65535, 65535)]
    return sizes[rng.integers(len(sizes))]


@functools.cache
def zeros(megabytes: int) -> bytes:
    return zlib.compress(bytes(megabytes * 1_000_000))


def png_bomb_by_ratio(rng: Generator) -> bytes:
    """Few bytes, as many pixels as there may be, or more rows than the header tells of."""
    data = zeros(int(rng.choice([13, 26])))
    width, height = [(4096, 3000), (8, 8), (10_000, 10)][rng.integers(3)]
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    return start + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def png_bomb_in_text(rng: Generator) -> bytes:
    names = [b"zTXtComment\0\0", b"iCCPprofile\0\0", b"iTXtComment\0\1\0\0\0"]
    start = one_of(rng, names)
    bomb = chunk(start[:4], start[4:] + zeros(64)) * int(rng.choice([1, 3]))
    parts = chunks(one_of(rng, PNG_FILES))
    return b"\x89PNG\r\n\x1a\n" + parts[0] + bomb + b"".join(parts[1:])


def png_huge_text(rng: Generator) -> bytes:
    extra = chunk(b"tEXt", b"Comment\0" + bytes(int(rng.choice([100_000, 8_000_000]))))
    parts = chunks(one_of(rng, PNG_FILES))
    return b"\x89PNG\r\n\x1a\n" + parts[0] + extra * 3 + b"".join(parts[1:])


def png_many_chunks(rng: Generator) -> bytes:
    data = one_of(rng, PNG_FILES)
    return data[:33] + chunk(one_of(rng, [b"IDAT", b"tEXt", b"vLVx"]), b"") * 20_000 + data[33:]


# JPEG


def segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 255, marker, len(data) + 2) + data


def jpeg_lying_header(rng: Generator) -> bytes:
    """Another precision, size, number of components, or sampling than the data have."""
    data = bytearray(one_of(rng, JPEG_FILES))
    found = re.search(rb"\xff[\xc0\xc2]", bytes(data))
    assert found
    frame = found.start()
    data[frame + 1] = rng.choice([0xC0, 0xC1, 0xC2, 0xC3, 0xC9, 0xCA])
    data[frame + 4] = rng.choice([8, 8, 8, 12, 16])
    data[frame + 5 : frame + 9] = struct.pack(">HH", number(rng, 16), number(rng, 16))
    data[frame + 10 + rng.integers(8)] = rng.integers(256)
    return bytes(data)


def jpeg_bad_tables(rng: Generator) -> bytes:
    data = bytearray(one_of(rng, JPEG_FILES))
    places = [found.start() + 4 for found in re.finditer(rb"\xff[\xc4\xdb\xda\xdd]", bytes(data))]
    for _ in range(rng.integers(1, 8)):
        data[min(rng.choice(places) + rng.integers(20), len(data) - 1)] = rng.integers(256)
    return bytes(data)


def jpeg_huge_metadata(rng: Generator) -> bytes:
    data = one_of(rng, JPEG_FILES)
    body = one_of(rng, [b"Exif\0\0", b"ICC_PROFILE\0\x01\xff", b"MPF\0", b"Adobe", b"JFIF\0", b""])
    marker = int(rng.choice([0xE0, 0xE1, 0xE2, 0xED, 0xEE, 0xFE]))
    return data[:2] + segment(marker, body + rng.bytes(60_000)) * 100 + data[2:]


def exif_loop(rng: Generator) -> bytes:
    """Directories that lead to themselves, or claim billions of entries."""
    offset = int(rng.choice([8, 10, 0, 2**32 - 1]))
    entries = [
        struct.pack("<HHII", tag, int(rng.choice([4, 5, 13])), number(rng, 32), offset)
        for tag in (0x0112, 0x8769, 0x8825, 0xA005, 0x014A, 0x927C)
    ]
    count = int(rng.choice([len(entries), 65535]))
    body = struct.pack("<H", count) + b"".join(entries) + struct.pack("<I", 8)
    exif = b"Exif\0\0II*\0\x08\0\0\0" + body
    data = one_of(rng, JPEG_FILES)
    return data[:2] + segment(0xE1, exif) + data[2:]


def mpo_lying_index(rng: Generator) -> bytes:
    data = bytearray(next(data for data in JPEG_FILES if b"MPF\0" in data))
    start = data.index(b"MPF\0")
    for place in rng.integers(start + 4, start + 90, size=8):
        data[place] = rng.integers(256)
    return bytes(data)


@functools.cache
def many_scans(size: int, repeats: int) -> bytes:
    """A progressive JPEG whose last scan comes again and again, each over all blocks."""
    rough = Image.fromarray(smooth(size, size))
    data = encoded(rough, "JPEG", progressive=True, quality=30)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * repeats + data[-2:]


def jpeg_many_scans(rng: Generator) -> bytes:
    return many_scans(512, int(rng.choice([10, 200])))


# GIF and WebP


def gif_lying_header(rng: Generator) -> bytes:
    data = bytearray(one_of(rng, GIF_FILES))
    place = data.index(b"\x2c", 13)
    data[6:10] = struct.pack("<HH", *(int(size) for size in rng.choice([0, 1, 16, 5000, 65535], 2)))
    for offset in rng.integers(1, 11, size=3):
        data[place + offset] = rng.integers(256)
    return bytes(data)


def gif_bomb(rng: Generator) -> bytes:
    data = bytearray(one_of(rng, GIF_FILES))
    size = struct.pack("<HH", *one_of_sizes_of_gif(rng))
    place = data.index(b"\x2c", 13)
    data[6:10] = data[place + 5 : place + 9] = size
    return bytes(data)


def one_of_sizes_of_gif(rng: Generator) -> tuple[int, int]:
    return [(65535, 65535), (7072, 7072), (4000, 4000), (65535, 1)][rng.integers(4)]


def webp_lying_header(rng: Generator) -> bytes:
    data = bytearray(one_of(rng, WEBP_FILES))
    for place in rng.integers(4, 40, size=rng.integers(1, 6)):
        data[place] = rng.integers(256)
    return bytes(data)


def webp_bomb(rng: Generator) -> bytes:
    size = struct.pack("<I", int(rng.choice([16382, 2**24 - 1])))[:3]
    extended = b"VP8X" + struct.pack("<I", 10) + bytes([int(rng.choice([0, 2, 16])), 0, 0, 0])
    body = b"WEBP" + extended + size + size + one_of(rng, WEBP_FILES)[12:]
    return b"RIFF" + struct.pack("<I", len(body)) + body


# Colour profiles


def bad_profile(rng: Generator) -> bytes:
    """Right where a decoder looks first, wrong further on."""
    profile = bytearray(EXCHANGED)
    for place in rng.integers(128, len(profile), size=rng.integers(1, 9)):
        profile[place] = rng.integers(256)
    image = Image.fromarray(smooth())
    format = str(rng.choice(["PNG", "JPEG", "WEBP", "TIFF", "AVIF"]))
    return encoded(image, format, icc_profile=bytes(profile))


def huge_table_in_profile(rng: Generator) -> bytes:
    """A table of colours that claims to be far larger than the profile."""
    sizes = [int(size) for size in rng.integers(0, 256, 3)]
    table = struct.pack(">4s4x4B9i", b"mft2", *sizes, 0, *([65536] * 9))
    at = EXCHANGED.index(b"wtpt")
    start = struct.pack(">4sII", b"A2B0", len(EXCHANGED), number(rng, 32))
    profile = EXCHANGED[:at] + start + EXCHANGED[at + 12 :] + table + rng.bytes(5000)
    return encoded(Image.fromarray(smooth()), "PNG", icc_profile=profile)


# TIFF, BMP, AVIF and HEIF


def folder_of(data: bytes) -> tuple[int, int]:
    """Where the entries of a small TIFF begin, and how many there are."""
    order = "<" if data.startswith(b"II") else ">"
    (start,) = struct.unpack_from(order + "I", data, 4)
    if start + 2 > len(data):
        return 8, 1
    return start + 2, struct.unpack_from(order + "H", data, start)[0]


def tiff_lying_tags(rng: Generator) -> bytes:
    data = bytearray(one_of(rng, TIFF_FILES))
    start, count = folder_of(data)
    for _ in range(rng.integers(1, 4)):
        place = start + 12 * int(rng.integers(max(1, count))) + int(rng.choice([0, 2, 4, 8]))
        value = struct.pack("<I", number(rng, 32))[: 2 if rng.random() < 0.5 else 4]
        data[place : place + len(value)] = value
    return bytes(data)


def tiff_loop(rng: Generator) -> bytes:
    """A folder that is followed by itself, and folders within it that are it."""
    data = bytearray(tiff(tags_of(smooth(), 8, 2) | {330: (8, 8)}, smooth().tobytes()))
    start, count = folder_of(data)
    data[start + 12 * count : start + 12 * count + 4] = struct.pack("<I", start - 2)
    return bytes(data)


def tiff_bomb(rng: Generator) -> bytes:
    """Few bytes for many pixels: deflated, in one strip or in tiles of any size."""
    width, height = [(7072, 7072), (7000, 7000), (2**31 - 1, 2**31 - 1)][rng.integers(3)]
    tags = tags_of(np.zeros((1, 1, 3)), int(rng.choice([8, 16])), 2)
    tags |= {256: (width,), 257: (height,), 259: (int(rng.choice([1, 5, 8, 32773])),)}
    if rng.random() < 0.5:
        tags |= {322: (int(rng.choice([16, 7008, 2**20])),), 323: (7008,)}
    return tiff(tags, zeros(26))


def bmp_lying_header(rng: Generator) -> bytes:
    data = bytearray(one_of(rng, BMP_FILES))
    for _ in range(rng.integers(1, 4)):
        place = int(rng.choice([10, 18, 22, 26, 28, 30, 34, 46, 50]))
        data[place : place + 4] = struct.pack("<I", number(rng, 32))
    return bytes(data)


def bmp_runs(rng: Generator) -> bytes:
    """Runs of pixels that leave the picture."""
    data = bytearray(encoded(Image.new("P", (40, 24)), "BMP"))
    data[30] = 1
    data[18:26] = struct.pack("<ii", *(int(size) for size in rng.choice([1, 40, 3000], 2)))
    start = int.from_bytes(data[10:14], "little")
    return bytes(data[:start]) + rng.bytes(int(rng.integers(50_000)))


def boxes_lying(rng: Generator) -> bytes:
    """Sizes, counts and places in the boxes before the pixels."""
    data = bytearray(one_of(rng, [*BOX_FILES, tiled(700, 600)]))
    end = max(data.find(b"mdat"), 64)
    for _ in range(rng.integers(1, 6)):
        data[rng.integers(8, end)] = rng.integers(256)
    return bytes(data)


def boxes_bomb(rng: Generator) -> bytes:
    """Another size in the header than in the pixels."""
    data = bytearray(one_of(rng, [*BOX_FILES, SMOOTH, tiled(512, 512)]))
    place = data.rindex(b"ispe") + 8
    sizes = [(7072, 7072), (7000, 7000), (65535, 65535), (2**32 - 1, 1), (0, 0)]
    data[place : place + 8] = struct.pack(">II", *sizes[rng.integers(len(sizes))])
    return bytes(data)


KINDS: list[Callable[[Generator], bytes]] = [
    truncated,
    bits_flipped,
    header_flipped,
    overwritten,
    spliced,
    noise,
    noise_with_a_signature,
    polyglot,
    other_format,
    text,
    png_chunks_shuffled,
    png_lying_header,
    png_bad_chunk,
    png_lying_animation,
    png_bomb_by_header,
    png_bomb_by_ratio,
    png_bomb_in_text,
    png_huge_text,
    png_many_chunks,
    jpeg_lying_header,
    jpeg_bad_tables,
    jpeg_huge_metadata,
    exif_loop,
    mpo_lying_index,
    jpeg_many_scans,
    gif_lying_header,
    gif_bomb,
    webp_lying_header,
    webp_bomb,
    bad_profile,
    huge_table_in_profile,
    tiff_lying_tags,
    tiff_loop,
    tiff_bomb,
    bmp_lying_header,
    bmp_runs,
    boxes_lying,
    boxes_bomb,
]
