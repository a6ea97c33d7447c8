"""Pictures that show almost nothing: one colour or a plain gradient, or nothing but text.

Both are decided by what is measured at a reduced size, each number below in the units of that size.

flat: a plane, fitted to each channel at 48x48, differs from it by at most `FLAT` of 255 anywhere.
So a photograph of fog with one bird is not flat, while JPEG noise on grey paper is.

text-only: at 768 px of the longer side, the picture is two colours and their blends, one of them
the ground; and the connected pieces of the other are letters: many, small, of about one height, of
different widths, and on common base lines. Drawings have large pieces, patterns have equal or
filled ones, and a photograph with a caption has more than two colours.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

FLAT = 6.0
_FLAT_SIDE = 48
_TEXT_SIDE = 768
_GLANCE_SIDE = 160  # where the share of the ground is measured first, since that is fast
# Of the pixels: near the line between the two colours; near the colour of the ground.
_TWO_COLOURS, _GROUND = 0.985, 0.6
_GROUND_AT_A_GLANCE = 0.3
_GROUND_TOLERANCE, _LINE_TOLERANCE = 24.0, 48.0
_LEAST_CONTRAST = 60.0
_LEAST_LETTERS = 24
_LARGEST_LETTER = 1 / 8  # of the shorter side
_SAME_HEIGHT = 0.75  # of the letters within 0.4 to 2.5 of the median height
_ON_LINES = 0.7  # of the letters with a neighbour on the same base line
_LEAST_SPREAD = 0.15  # standard deviation of the widths over their mean
_MOST_FILLED = 0.85  # of the boxes of the letters: bars and squares fill theirs

Plain = Literal["flat", "text-only"]


@dataclass(frozen=True)
class Information:
    """Why a picture counts as plain, if it does, and the number that shows it."""

    reason: Plain | None
    value: str | None = None


def information_of(picture: Image.Image) -> Information:
    """Whether an RGB picture is plain."""
    unevenness = _unevenness(picture)
    if unevenness <= FLAT:
        return Information("flat", f"{unevenness:.1f}")
    letters = _letters(picture)
    return Information("text-only", f"{letters} letters") if letters else Information(None)


def _unevenness(picture: Image.Image) -> float:
    """The largest distance between a channel and the plane that fits it best, of 255."""
    small = picture.resize((_FLAT_SIDE, _FLAT_SIDE), Image.Resampling.BOX)
    pixels = np.asarray(small, np.float64).reshape(-1, 3)
    down, right = np.mgrid[-1 : 1 : _FLAT_SIDE * 1j, -1 : 1 : _FLAT_SIDE * 1j]
    plane = np.stack([np.ones(pixels.shape[0]), down.ravel(), right.ravel()], axis=1)
    # The columns are orthogonal.
    fitted = plane @ ((plane.T @ pixels) / (plane * plane).sum(axis=0)[:, None])
    return float(np.abs(pixels - fitted).max())


def _letters(picture: Image.Image) -> int:
    """The number of letters of a picture that shows nothing but text; 0 for any other picture."""
    if _share_of_ground(_distances(_reduced(picture, _GLANCE_SIDE))[1]) < _GROUND_AT_A_GLANCE:
        return 0
    ink = _ink(_reduced(picture, _TEXT_SIDE))
    return 0 if ink is None else _count_of_text(ink)


def _reduced(picture: Image.Image, side: int) -> NDArray[np.float32]:
    """The pixels (H, W, 3) of a picture whose longer side is at most `side`."""
    ratio = min(1.0, side / max(picture.size))
    size = [max(1, round(ratio * length)) for length in picture.size]
    return np.asarray(picture.resize((size[0], size[1]), Image.Resampling.BOX), np.float32)


def _distances(pixels: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """How far each pixel is from the colour of the ground, the most common one: as vectors (N, 3)
    and as their lengths (N).
    """
    flat = pixels.reshape(-1, 3)
    coarse = (flat // 16).astype(np.int64) @ (256, 16, 1)
    common = np.bincount(coarse, minlength=4096).argmax()
    away = flat - np.median(flat[coarse == common], axis=0)
    return away, np.linalg.norm(away, axis=1)


def _share_of_ground(distance: NDArray[np.float32]) -> float:
    return float((distance < _GROUND_TOLERANCE).mean())


def _ink(pixels: NDArray[np.float32]) -> NDArray[np.bool_] | None:
    """Where the second of two colours is; None for a picture of more colours, or of one.

    pixels: (H, W, 3).
    """
    away, distance = _distances(pixels)
    if _share_of_ground(distance) < _GROUND or distance.max() < _LEAST_CONTRAST:
        return None
    far = away[distance > 0.8 * distance.max()]
    direction = np.median(far, axis=0)
    length = float(np.linalg.norm(direction))
    if length < _LEAST_CONTRAST:
        return None
    along = away @ (direction / length)
    across = np.sqrt(np.maximum(distance**2 - along**2, 0))
    if (across < _LINE_TOLERANCE).mean() < _TWO_COLOURS:
        return None
    return np.asarray((along > length / 2).reshape(pixels.shape[:2]))


def _count_of_text(ink: NDArray[np.bool_]) -> int:
    """How many pieces of the ink are letters, if all that is there is text, else 0."""
    labels, count = ndimage.label(ink, structure=np.ones((3, 3)))
    if count < _LEAST_LETTERS:
        return 0
    boxes = ndimage.find_objects(labels)
    top, bottom = (np.array([getattr(box[0], end) for box in boxes]) for end in ("start", "stop"))
    left, right = (np.array([getattr(box[1], end) for box in boxes]) for end in ("start", "stop"))
    heights, widths = bottom - top, right - left
    largest = min(ink.shape) * _LARGEST_LETTER
    if heights.max() > largest or widths.max() > 4 * largest:
        return 0
    letters = heights >= 3  # smaller ones are dots and noise
    if letters.sum() < _LEAST_LETTERS:
        return 0
    heights, widths = heights[letters], widths[letters]
    left, right, bottom = left[letters], right[letters], bottom[letters]
    filled = np.bincount(labels.ravel(), minlength=count + 1)[1:][letters] / (heights * widths)
    middle = float(np.median(heights))
    same = ((heights >= 0.4 * middle) & (heights <= 2.5 * middle)).mean()
    spread = float(widths.std() / widths.mean())
    if same < _SAME_HEIGHT or spread < _LEAST_SPREAD or filled.mean() > _MOST_FILLED:
        return 0
    return int(letters.sum()) if _on_lines(left, right, bottom, middle) >= _ON_LINES else 0


def _on_lines(
    left: NDArray[np.int64], right: NDArray[np.int64], bottom: NDArray[np.int64], height: float
) -> float:
    """The share of pieces with a neighbour close beside them on the same base line."""
    order = np.lexsort((left, bottom))
    near = 0
    tolerance = max(1.0, 0.2 * height)
    for at in order:
        beside = (np.abs(bottom - bottom[at]) <= tolerance) & (left != left[at])
        gap = np.where(left > left[at], left - right[at], left[at] - right)
        near += bool((beside & (gap <= 1.5 * height) & (gap >= -0.5 * height)).any())
    return near / len(order)
