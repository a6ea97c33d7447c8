"""Colours of pictures: what brings samples of another colour space to sRGB.

Colour spaces come as ICC profiles, or as the few numbers that PNG, HEIF and AVIF write instead; of
those a profile is made here, so that littlecms does all conversions. Profiles are of unknown
origin: one that is broken, too large, or of another kind of samples counts as none.
"""

import functools
import io
import struct
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from PIL import Image, ImageCms

MAX_PROFILE_BYTES = 4_000_000

Samples = Literal["L", "RGB", "CMYK", "LAB"]
Conversion = Callable[[Image.Image], Image.Image]
"""From a picture of these samples to one of RGB."""
# What a profile calls each kind of samples.
_SPACES = {"GRAY": "L", "RGB ": "RGB", "CMYK": "CMYK", "Lab ": "LAB"}
Chromaticities = tuple[float, ...]
"""x and y of white, red, green and blue, in the order of PNG."""
_D65 = (0.3127, 0.3290)
_SRGB = (*_D65, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
# ITU-T H.273: colour_primaries.
_PRIMARIES: dict[int, Chromaticities] = {
    1: _SRGB,
    5: (*_D65, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06),
    6: (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    9: (*_D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    11: (0.314, 0.351, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    12: (*_D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
}
Curve = tuple[float, ...]
"""Parameters of a parametric curve of ICC: g alone, or g, a, b, c, d."""
_SRGB_CURVE: Curve = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
# ITU-T H.273: transfer_characteristics. Those of video (1, 6, 14, 15) are shown by sRGB's curve, as
# browsers do; PQ and HLG need a display's tone mapping and are left out.
_CURVES: dict[int, Curve] = {
    1: _SRGB_CURVE,
    4: (2.2,),
    5: (2.8,),
    6: _SRGB_CURVE,
    8: (1.0,),
    13: _SRGB_CURVE,
    14: _SRGB_CURVE,
    15: _SRGB_CURVE,
}
# Numbers this near to sRGB's are meant to be sRGB's.
_SAME_GAMMA, _SAME_CHROMATICITY = 0.02, 0.002
_BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)
_D50 = np.array([0.9642, 1.0, 0.8249])


@functools.lru_cache(maxsize=8)
def to_srgb(profile: bytes, samples: Samples) -> Conversion | None:
    """What brings pictures of 8-bit samples of a colour space to sRGB.

    None where nothing has to be done or can be: the profile is sRGB's, is broken, or is of another
    kind of samples.
    """
    if len(profile) > MAX_PROFILE_BYTES:
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if _SPACES.get(source.profile.xcolor_space) != samples:
            return None
        conversion = _conversion(source, samples)
        return None if _changes_nothing(conversion, samples) else conversion
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


@functools.cache
def lab_to_srgb() -> Conversion:
    """For Lab without a profile."""
    return _conversion(ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")), "LAB")


def _conversion(source: ImageCms.ImageCmsProfile, samples: Samples) -> Conversion:
    # littlecms makes tables of its own, too coarse for gray of linear light: that needs 256 levels.
    exact = ImageCms.Flags.NOOPTIMIZE if samples == "L" else ImageCms.Flags.NONE
    transform = ImageCms.buildTransform(
        source,
        ImageCms.createProfile("sRGB"),
        samples,
        "RGB",
        ImageCms.Intent.PERCEPTUAL,  # as browsers do
        flags=exact,
    )

    def convert(image: Image.Image) -> Image.Image:
        converted = ImageCms.applyTransform(image, transform)
        assert converted is not None  # it is not done in place
        return converted

    if samples != "L":
        return convert
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    table = np.asarray(convert(ramp))[0, :, 1].tolist()
    return lambda image: image.point(table).convert("RGB")


def _changes_nothing(conversion: Conversion, samples: Samples) -> bool:
    """Whether colours all over the cube stay as they are, up to rounding."""
    if samples not in ("L", "RGB"):
        return False
    levels = np.linspace(0, 255, 18).round().astype(np.uint8)
    cube = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
    stored = Image.fromarray(cube if samples == "RGB" else np.arange(256, dtype=np.uint8)[None])
    shown = np.asarray(conversion(stored)).astype(int)
    return bool(np.abs(shown - np.asarray(stored.convert("RGB"))).max() <= 1)


def profile_of_code_points(primaries: int, transfer: int) -> bytes | None:
    """A profile of RGB as cICP of PNG and nclx of HEIF name it; None of what is not known."""
    known = _PRIMARIES.get(primaries), _CURVES.get(transfer)
    return None if known[0] is None or known[1] is None else _rgb_profile(known[0], known[1])


def profile_of_gamma(
    gamma: float | None, chromaticities: Sequence[float] | None, samples: Samples
) -> bytes | None:
    """A profile as gAMA and cHRM of PNG describe it; None where they mean sRGB or make no sense.

    Args:
        gamma: the exponent that samples were encoded with, about 0.45.
        chromaticities: x and y of white, red, green and blue.
        samples: L or RGB; chromaticities mean nothing to L.
    """
    curve: Curve = _SRGB_CURVE
    points: Chromaticities = _SRGB
    if gamma is not None and abs(gamma - 1 / 2.2) > _SAME_GAMMA:
        if not 0.1 <= gamma <= 10:
            return None
        curve = (1 / gamma,)
    if chromaticities is not None and samples == "RGB":
        points = tuple(chromaticities)
        if np.allclose(points, _SRGB, rtol=0, atol=_SAME_CHROMATICITY):
            points = _SRGB
    if (curve, points) == (_SRGB_CURVE, _SRGB):
        return None
    return _gray_profile(curve) if samples == "L" else _rgb_profile(points, curve)


@functools.lru_cache(maxsize=8)
def _rgb_profile(points: Chromaticities, curve: Curve) -> bytes | None:
    columns = _columns(points)
    if columns is None:
        return None
    tags = [(b"wtpt", _xyz(_D50))]
    tags += [
        (name, _xyz(column))
        for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), columns.T, strict=True)
    ]
    tags += [(name, _curve(curve)) for name in (b"rTRC", b"gTRC", b"bTRC")]
    return _profile(b"RGB ", tags)


def _gray_profile(curve: Curve) -> bytes:
    return _profile(b"GRAY", [(b"wtpt", _xyz(_D50)), (b"kTRC", _curve(curve))])


def _columns(points: Chromaticities) -> np.ndarray | None:
    """XYZ of red, green and blue at their fullest (3,3), as ICC wants it: under D50."""
    xy = np.array(points).reshape(4, 2)
    if not (np.isfinite(xy).all() and (xy[:, 1] > 1e-3).all()):
        return None
    white, *colors = np.column_stack([xy[:, 0], xy[:, 1], 1 - xy.sum(axis=1)]) / xy[:, 1:]
    matrix = np.array(colors).T
    if abs(np.linalg.det(matrix)) < 1e-6:
        return None
    matrix = matrix * np.linalg.solve(matrix, white)
    cones = (_BRADFORD @ _D50) / (_BRADFORD @ white)
    adapted = np.linalg.solve(_BRADFORD, cones[:, None] * _BRADFORD) @ matrix
    return adapted if np.abs(adapted).max() < 100 else None


def _profile(space: bytes, tags: list[tuple[bytes, bytes]]) -> bytes:
    """An ICC profile of version 4 of a display."""
    offset = 128 + 4 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for name, data in tags:
        table += struct.pack(">4sII", name, offset + len(body), len(data))
        body += data
    header = struct.pack(
        ">I4sI4s4s4s12x4s", offset + len(body), b"", 0x04300000, b"mntr", space, b"XYZ ", b"acsp"
    )
    return header.ljust(68, b"\0") + _xyz(_D50)[8:] + bytes(48) + table + body


def _xyz(values: np.ndarray) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(float(value) * 65536) for value in values))


def _curve(curve: Curve) -> bytes:
    kind = 0 if len(curve) == 1 else 3
    numbers = struct.pack(f">{len(curve)}i", *(round(value * 65536) for value in curve))
    return b"para\0\0\0\0" + struct.pack(">Hxx", kind) + numbers
