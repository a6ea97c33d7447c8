"""What is written around a picture costs nothing, however long, broken or absurd."""

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image
from tests.data.golden import EXCHANGED, Pixels, blocks, chunk, encoded, tags_of, tiff
from tests.data.malformed import segment

from vlv.data.images import load_image

PICTURE = blocks(6, 8)
NOISE = np.random.default_rng(0).bytes(3_000_000)
SIZES = (0, 1, 3, 4, 9, 26, 32, 900, 100_000, 3_000_000)
BOMB = zlib.compress(bytes(90_000_000))
PNG = encoded(Image.fromarray(PICTURE), "PNG")
JPEG = encoded(Image.fromarray(PICTURE), "JPEG", quality=100, subsampling=0)
Variant = tuple[str, bytes]


def shows(data: bytes, picture: Pixels = PICTURE) -> bool:
    return bool(np.abs(np.asarray(load_image(data)).astype(int) - picture).max() <= 2)


def costs(variants: Iterator[Variant], picture: Pixels = PICTURE) -> list[str]:
    """Those that are not shown; raises for those that are refused."""
    return [name for name, data in variants if not shows(data, picture)]


def pngs() -> Iterator[Variant]:
    names = b"tEXt zTXt iTXt iCCP gAMA cHRM sRGB sBIT bKGD hIST tRNS pHYs sPLT tIME eXIf acTL fcTL"
    for name in [*names.split(), *b"fdAT cICP mDCV cLLI vLVx".split()]:
        changes_colors = name in (b"gAMA", b"cHRM", b"cICP")
        for size in SIZES:
            good = chunk(name, NOISE[:size])
            bad = good[:-4] + bytes(4)
            if not (changes_colors and size in (4, 32)) and not (name == b"tRNS" and size == 6):
                yield from ((f"{name!r} {size} {where}", data) for where, data in in_png(good))
            yield from ((f"{name!r} {size} bad sum {where}", data) for where, data in in_png(bad))
        for length in (1, 13, 5000, 2**31 - 1, 2**32 - 1):
            lying = struct.pack(">I", length) + name + b"words of any length" + bytes(4)
            yield f"{name!r} of length {length}", PNG[:33] + lying + PNG[33:]
    yield "text bomb", PNG[:33] + chunk(b"zTXt", b"Comment\0\0" + BOMB) * 3 + PNG[33:]
    yield "XMP bomb", PNG[:33] + chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + BOMB) + PNG[33:]
    yield "profile bomb", PNG[:33] + chunk(b"iCCP", b"name\0\0" + BOMB) + PNG[33:]
    half = zlib.compress(EXCHANGED)[:-50]
    yield "half a profile", PNG[:33] + chunk(b"iCCP", b"name\0\0" + half[:100]) + PNG[33:]
    yield "no end", PNG[:-12]
    yield "end without sum", PNG[:-4]
    yield "text that breaks off", PNG[:-12] + chunk(b"tEXt", bytes(500))[:300]
    yield "more after the end", PNG + NOISE[:5000]


def in_png(extra: bytes) -> Iterator[Variant]:
    yield "before", PNG[:33] + extra + PNG[33:]
    yield "after", PNG[:-12] + extra + PNG[-12:]


def test_png() -> None:
    assert costs(pngs()) == []


def jpegs() -> Iterator[Variant]:
    starts = [b"", b"JFIF\0", b"JFXX\0", b"Exif\0\0", b"Exif\0\0II*\0", b"Adobe\0"]
    starts += [b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"http://ns.adobe.com/xap/1.0/\0", b"MPF\0"]
    starts += [b"ICC_PROFILE\0", b"ICC_PROFILE\0\1", b"ICC_PROFILE\0\1\1", b"ICC_PROFILE\0\2\3"]
    starts += [b"MPF\0II*\0\x08\0\0\0", b"Photoshop 3.0\x008BIM\x04\x04"]
    for marker in (*range(0xE0, 0xF0), 0xFE):
        for start in starts:
            for size in (0, 5, 60_000):
                extra = segment(marker, start + NOISE[:size])
                if not (marker == 0xEE and start == b"Adobe\0" and size >= 6):
                    yield f"{marker:x} {start!r} {size}", JPEG[:2] + extra * 3 + JPEG[2:]
        yield f"{marker:x} of no length", JPEG[:2] + bytes([0xFF, marker, 0, 0]) + JPEG[2:]
    parts = [
        segment(0xE2, b"ICC_PROFILE\0" + bytes([part, 3]) + EXCHANGED[part * 99 : part * 99 + 99])
        for part in (1, 2, 3)
    ]
    yield "profile without a part", JPEG[:2] + parts[0] + parts[2] + JPEG[2:]
    yield "profile with a part twice", JPEG[:2] + parts[0] * 2 + parts[2] + JPEG[2:]
    yield "words between segments", JPEG[:2] + segment(0xE5, b"") + b"words" + JPEG[2:]


def test_jpeg() -> None:
    assert costs(jpegs()) == []


def webps() -> Iterator[Variant]:
    for options in ({}, {"icc_profile": b"broken", "exif": b"Exif\0\0II*\0"}):
        data = encoded(Image.fromarray(PICTURE), "WEBP", lossless=True, **options)
        for name in (b"EXIF", b"XMP ", b"ICCP", b"JUNK"):
            for size in (0, 1, 100, 3_000_000):
                extra = name + struct.pack("<I", size) + NOISE[:size] + bytes(size % 2)
                yield f"{name!r} {size} after", with_size(data + extra)
                yield f"{name!r} {size} before", with_size(data[:12] + extra + data[12:])
                yield f"{name!r} {size} breaks off", with_size(data + extra)[: len(data) + 9]
            for length in (5000, 2**32 - 1):
                lying = name + struct.pack("<I", length) + b"words"
                yield f"{name!r} of length {length}", with_size(data[:12] + lying + data[12:])


def with_size(webp: bytes) -> bytes:
    return webp[:4] + struct.pack("<I", len(webp) - 8) + webp[8:]


def test_webp() -> None:
    assert costs(webps()) == []


INDICES = np.arange(128, dtype=np.uint8).reshape(8, 16)


def gif() -> Image.Image:
    image = Image.fromarray(INDICES)
    image.putpalette([value * 7 % 256 for value in range(768)])
    return image


def gifs() -> Iterator[Variant]:
    data = encoded(gif(), "GIF")
    start = 13 + 3 * (2 << (data[10] & 7))
    for label in (0xFE, 0xFF, 0x01, 0xF9, 0x00, 0x77):
        for size in (0, 1, 3, 5, 300, 3_000_000):
            pieces = [NOISE[place : min(place + 255, size)] for place in range(0, size, 255)]
            blocks = b"".join(bytes([len(piece)]) + piece for piece in pieces)
            extra = b"!" + bytes([label]) + blocks + b"\0"
            yield f"{label:x} {size} before", data[:start] + extra + data[start:]
            yield f"{label:x} {size} after", data[:-1] + extra + data[-1:]
    yield "no end", data[:-1]


def test_gif() -> None:
    assert costs(gifs(), np.asarray(gif().convert("RGB"))) == []


def tiffs() -> Iterator[Variant]:
    data = tiff(tags_of(PICTURE, 8, 2), PICTURE.tobytes())
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    entries = [data[start + 2 + 12 * one : start + 14 + 12 * one] for one in range(count)]
    for name in (254, 270, 282, 305, 330, 700, 33723, 34377, 34665, 34675, 34853, 37724, 65000):
        for kind, number, place in (
            *((kind, 1, 8) for kind in (0, 1, 2, 5, 7, 13, 99)),
            *((kind, 2**32 - 1, 2**32 - 2) for kind in (1, 2, 4, 12)),
        ):
            more = [*entries, struct.pack("<HHII", name, kind, number, place)]
            more.sort(key=lambda entry: struct.unpack_from("<H", entry))
            folder = struct.pack("<H", len(more)) + b"".join(more) + struct.pack("<I", start)
            header = data[:4] + struct.pack("<I", len(data))
            yield f"{name} {kind} {number}", header + data[8:] + folder


def test_tiff() -> None:
    assert costs(tiffs()) == []


def avif(**options: object) -> bytes:
    image = Image.fromarray(PICTURE)
    return encoded(image, "AVIF", quality=100, subsampling="4:4:4", **options)


@pytest.mark.parametrize("profile", [b"x", EXCHANGED[:99], NOISE[:99_999]], ids=len)
def test_profiles_of_avif(profile: bytes) -> None:
    assert load_image(avif(icc_profile=profile)) == load_image(avif())


@pytest.mark.parametrize("damage", [b"XX\0*", bytes(4), b"MM\0*\xff\xff\xff\xff"])
def test_exif_of_avif(damage: bytes) -> None:
    exif = Image.Exif()
    exif[0x010E] = "words of some length"
    data = avif(exif=exif, xmp=NOISE[:99])
    place = data.rindex(b"MM\0*", 0, data.rindex(b"words of some"))
    damaged = data[:place] + damage + data[place + len(damage) :]
    assert load_image(damaged) == load_image(avif())


def test_metadata_of_a_picture_reach_nobody() -> None:
    exif = Image.Exif()
    exif[0x0112] = 1
    data = encoded(Image.fromarray(PICTURE), "JPEG", exif=exif, icc_profile=EXCHANGED, comment=b"x")
    assert Image.open(io.BytesIO(data)).info
    assert load_image(data).info == {}
