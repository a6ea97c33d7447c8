"""Features of many pictures, kept on disk in parts, so that no picture is looked at twice.

A part holds some hundred pictures and is named after them and the network: a run that was killed
goes on, and pictures that change are computed again. A picture that does not decode has a row of
NaN.

Shapes: n pictures, F features.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from vlv.errors import DatasetError, ImageError
from vlv.evaluation.metrics.image_networks import Features, ImageNetwork
from vlv.evaluation.real.images.drawing import read_picture
from vlv.evaluation.real.images.originals import Originals
from vlv.evaluation.results import Progress
from vlv.files import atomic_file

_PART = 256


@dataclass(frozen=True)
class Picture:
    """A picture by what tells it from others, and how it is read."""

    identity: str
    read: Callable[[], Image.Image]


def original_pictures(originals: Originals) -> list[Picture]:
    """The real images. They are the same while the set's names and sizes are."""
    whole = originals.images.fingerprint
    return [
        Picture(f"{whole}\0{name}", lambda at=at: originals.picture(at))  # type: ignore[misc]
        for at, name in enumerate(originals.names)
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
    starts = range(0, len(pictures), _PART)
    parts = []
    for start in progress(starts, total=len(starts), unit="part", description=description):
        part = pictures[start : start + _PART]
        file = folder / f"{_name_of(part, network)}.npy"
        found = _kept(file, len(part))
        if found is None:
            found = _computed(part, network, batch_size)
            _keep(file, found)
        parts.append(found)
    width = max(part.shape[1] for part in parts)
    # Of a part without a single picture that decodes the width is not known.
    wide = [part if part.shape[1] == width else _lost(len(part), width) for part in parts]
    return np.concatenate(wide)


def undecodable(pictures: Sequence[Picture], features: Features) -> dict[int, str]:
    """The numbers of the pictures without features, with the reasons."""
    reasons = {}
    for at in np.flatnonzero(np.isnan(features).any(axis=1)):
        try:
            pictures[at].read()
        except (ImageError, DatasetError) as error:
            reasons[int(at)] = str(error)
        else:
            reasons[int(at)] = "its features are not finite"
    return reasons


def _name_of(part: Sequence[Picture], network: ImageNetwork) -> str:
    text = "\n".join([network.key, *(one.identity for one in part)])
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:40]


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


def _computed(part: Sequence[Picture], network: ImageNetwork, batch_size: int) -> Features:
    rows: dict[int, Features] = {}
    for start in range(0, len(part), batch_size):
        decoded = {}
        for at in range(start, min(start + batch_size, len(part))):
            try:
                decoded[at] = part[at].read()
            except (ImageError, DatasetError):
                continue  # its row stays NaN
        if decoded:
            rows |= dict(zip(decoded, network.features(list(decoded.values())), strict=True))
    found = _lost(len(part), max((len(row) for row in rows.values()), default=1))
    for at, row in rows.items():
        found[at] = row
    return found


def _lost(count: int, width: int) -> Features:
    return np.full((count, width), np.nan, dtype=np.float32)
