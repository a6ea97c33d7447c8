"""Hashes of pictures: exact, of the pixels, and perceptual, of what they show.

The perceptual hash is the DCT hash of 256 bits that Facebook published as PDQ: the signs, around
their median, of 16x16 low frequencies of the brightness at 64x64. ImageHash's `phash` has 64 bits,
with which two different pictures of a set of millions are often a few bits apart; and like every
hash of the brightness it takes a red cup for a blue one. So the mean colours of 6x6 fields belong
to the fingerprint too: pictures are near duplicates if both the bits and the colours are close.
"""

import hashlib
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

BITS = 256
_SIDE, _FREQUENCIES = 64, 16
FIELDS = 6
# Of 255. JPEG at quality 50 moves the mean of a field of a 64 px picture by 7 (99%: 12).
MAX_COLOUR_DISTANCE = 12


@dataclass(frozen=True)
class Fingerprint:
    """What is compared of a picture.

    pixels: 16 bytes of a SHA-256 over size and pixels. bits: 32 bytes. colours: FIELDS * FIELDS * 3
    bytes, row by row, RGB.
    """

    pixels: bytes
    bits: bytes
    colours: bytes


def fingerprint(picture: Image.Image) -> Fingerprint:
    """The fingerprint of an RGB picture."""
    size = f"{picture.width}x{picture.height}:".encode()
    pixels = hashlib.sha256(size + picture.tobytes()).digest()[:16]
    small = picture.resize((_SIDE, _SIDE), Image.Resampling.BOX, reducing_gap=None)
    colours = small.resize((FIELDS, FIELDS), Image.Resampling.BOX).tobytes()
    return Fingerprint(pixels, _bits(small), colours)


def _bits(small: Image.Image) -> bytes:
    brightness = np.asarray(small, np.float64) @ (0.299, 0.587, 0.114)
    basis = _basis()
    low = basis @ brightness @ basis.T
    return np.packbits(low > np.median(low)).tobytes()


@cache
def _basis() -> NDArray[np.float64]:
    """Rows 1 to 16 of the DCT-II of 64 values; row 0 is the mean, which says nothing."""
    frequency = np.arange(1, _FREQUENCIES + 1)[:, None]
    place = np.arange(_SIDE)[None, :]
    return np.sqrt(2 / _SIDE) * np.cos(np.pi / _SIDE * (place + 0.5) * frequency)


def colour_distance(one: bytes, other: bytes) -> int:
    """The largest difference between the mean colours of a field, of 255."""
    a, b = (np.frombuffer(each, np.uint8).astype(np.int16) for each in (one, other))
    return int(np.abs(a - b).max())
