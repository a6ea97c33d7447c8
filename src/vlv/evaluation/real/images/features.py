"""Features and scores of many pictures, kept on disk in parts, so that none is looked at twice.

A part holds some hundred pictures and is named after them and the network: a run that was killed
goes on, and pictures that change are computed again. A picture that does not decode has a row of
NaN.

Shapes: n pictures, F features.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from vlv.errors import DatasetError, ImageError
from vlv.evaluation.metrics.image_networks import Features, ImageNetwork
from vlv.evaluation.metrics.picture_pairs import LPIPS, pixels_of, psnr, ssim
from vlv.evaluation.metrics.statistics import Array
from vlv.evaluation.real.images.drawing import read_picture
from vlv.evaluation.real.images.originals import Originals
from vlv.evaluation.results import Progress
from vlv.files import atomic_file
from vlv.models.preprocessing import square_crop

T = TypeVar("T")
_PART = 256


@dataclass(frozen=True)
class Picture:
    """A picture by what tells it from others, and how it is read."""

    identity: str
    read: Callable[[], Image.Image]


@dataclass(frozen=True)
class PairMeasures:
    """PSNR, SSIM and LPIPS of pictures at `side` pixels. lpips: None leaves it out."""

    side: int
    lpips: LPIPS | None = None
    pixelwise: bool = True

    @property
    def names(self) -> list[str]:
        """In the order of the columns of `of`."""
        names = ["psnr", "ssim"] if self.pixelwise else []
        return names if self.lpips is None else [*names, "lpips"]

    @property
    def key(self) -> str:
        """Changes with whatever changes scores."""
        return f"{self.side} {self.names} {self.lpips.about if self.lpips else None}"

    def of(self, pairs: Sequence[tuple[Image.Image, Image.Image]]) -> Features:
        """(n, number of names)."""
        first, second = (pixels_of([pair[at] for pair in pairs]) for at in (0, 1))
        columns = [psnr(first, second), ssim(first, second)] if self.pixelwise else []
        if self.lpips is not None:
            columns.append(self.lpips.distances(first, second))
        return np.stack(columns, axis=1).astype(np.float32)


def original_pictures(originals: Originals) -> list[Picture]:
    """The real images, by the hashes of their files."""
    return [
        Picture(originals.hashes[at], lambda at=at: originals.picture(at))  # type: ignore[misc]
        for at in range(len(originals))
    ]


def drawn_pictures(files: Sequence[Path]) -> list[Picture]:
    """Drawn pictures, by size and time of their files."""
    found = []
    for file in files:
        state = file.stat()
        identity = f"{file.parent.name}/{file.name}\0{state.st_size}\0{state.st_mtime_ns}"
        found.append(Picture(identity, lambda file=file: read_picture(file)))  # type: ignore[misc]
    return found


def features_of(
    pictures: Sequence[Picture],
    network: ImageNetwork,
    folder: Path,
    *,
    batch_size: int,
    progress: Progress,
    description: str,
) -> Features:
    """Features (n, F) of all pictures; parts that `folder` has are read."""
    return in_parts(
        [one.identity for one in pictures],
        network.key,
        lambda part: _in_batches(
            part, batch_size, lambda at: pictures[at].read(), network.features
        ),
        folder,
        progress=progress,
        description=description,
    )


def pair_scores(
    originals: Sequence[Picture],
    drawn: Sequence[Picture],
    measures: PairMeasures,
    folder: Path,
    *,
    batch_size: int,
    progress: Progress,
    description: str,
) -> dict[str, Array]:
    """Each measure of every pair (n,), of an original and a drawn picture."""

    def pair(at: int) -> tuple[Image.Image, Image.Image]:
        first, second = originals[at].read(), drawn[at].read()
        return square_crop(first, measures.side), square_crop(second, measures.side)

    identities = [f"{a.identity}\0{b.identity}" for a, b in zip(originals, drawn, strict=True)]
    found = in_parts(
        identities,
        measures.key,
        lambda part: _in_batches(part, batch_size, pair, measures.of),
        folder,
        progress=progress,
        description=description,
    )
    return {name: found[:, at].astype(np.float64) for at, name in enumerate(measures.names)}


def in_parts(
    identities: Sequence[str],
    key: str,
    compute: Callable[[range], Features],
    folder: Path,
    *,
    progress: Progress,
    description: str,
) -> Features:
    """What `compute` gives for all pictures, part by part; parts that `folder` has are read.

    key: what it depends on beside the pictures.
    """
    starts = range(0, len(identities), _PART)
    parts = []
    for start in progress(starts, total=len(starts), unit="part", description=description):
        part = range(start, min(start + _PART, len(identities)))
        text = "\n".join([key, *(identities[at] for at in part)])
        name = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:40]
        found = _kept(folder / f"{name}.npy", len(part))
        if found is None:
            found = compute(part)
            _keep(folder / f"{name}.npy", found)
        parts.append(found)
    width = max(part.shape[1] for part in parts)
    # Of a part without a single picture that decodes the width is not known.
    wide = [part if part.shape[1] == width else _lost(len(part), width) for part in parts]
    return np.concatenate(wide)


def undecodable(pictures: Sequence[Picture], features: Features) -> dict[int, str]:
    """The numbers of the pictures without features, with the reasons."""
    reasons = {}
    for at in map(int, np.flatnonzero(~np.isfinite(features).all(axis=1))):
        try:
            pictures[at].read()
        except (ImageError, DatasetError) as error:
            reasons[at] = str(error)
        else:
            reasons[at] = "its features are not finite"
    return reasons


def _kept(file: Path, count: int) -> Features | None:
    try:
        found: Features = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None  # it is not there, or was damaged: it is computed again
    return found if found.ndim == 2 and len(found) == count else None


def _keep(file: Path, features: Features) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(file) as unfinished, open(unfinished, "wb") as out:
        np.save(out, features, allow_pickle=False)


def _in_batches(
    part: range,
    batch_size: int,
    read: Callable[[int], T],
    compute: Callable[[Sequence[T]], Features],
) -> Features:
    rows: dict[int, Features] = {}
    for start in range(part.start, part.stop, batch_size):
        decoded = {}
        for at in range(start, min(start + batch_size, part.stop)):
            try:
                decoded[at] = read(at)
            except (ImageError, DatasetError):
                continue  # its row stays NaN
        if decoded:
            rows |= dict(zip(decoded, compute(list(decoded.values())), strict=True))
    found = _lost(len(part), max((len(row) for row in rows.values()), default=1))
    for at, row in rows.items():
        found[at - part.start] = row
    return found


def _lost(count: int, width: int) -> Features:
    return np.full((count, width), np.nan, dtype=np.float32)
