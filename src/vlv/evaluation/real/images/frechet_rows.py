"""FID and KID of several sets of drawn pictures against their originals, with differences.

On features of another network than Inception they are called FD and KD.

Shapes: n images, F features.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch

from vlv.evaluation.metrics.frechet import Distance, FrechetBootstrap, fid, kid
from vlv.evaluation.metrics.image_networks import Features, ImageNetwork, Inception
from vlv.evaluation.metrics.statistics import Array, Figure
from vlv.evaluation.results import Progress

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class FrechetSettings:
    """resamples: of the interval of FID; 0 gives none."""

    resamples: int = 100
    seed: int = 0
    device: str | None = None


def distances(
    true: Features,
    sets: Mapping[Key, Features],
    settings: FrechetSettings,
    progress: Progress,
) -> dict[Key, Distance]:
    """The Frechet distance of each set of features (n, F): the value by torchmetrics, resamples by
    `FrechetBootstrap`.
    """
    keys = {str(number): key for number, key in enumerate(sets)}
    device = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
    # Apple's GPUs have no double precision.
    place = "cpu" if device.startswith("mps") else device
    bootstrap = FrechetBootstrap(true, settings.seed, settings.resamples, place)
    named = {name: sets[key] for name, key in keys.items()}
    found = bootstrap.distances(named, progress)
    return {keys[name]: replace(one, value=fid(true, named[name])) for name, one in found.items()}


def kernel_distance(true: Features, drawn: Sequence[Features], seed: int) -> Figure:
    """KID, the mean over several sets of pictures of the same images."""
    found = [kid(true, features, seed) for features in drawn]
    count = len(found)
    return Figure(
        sum(one.value for one in found) / count,
        sum(one.low for one in found) / count,
        sum(one.high for one in found) / count,
    )


def names_of(network: ImageNetwork) -> tuple[str, str]:
    """The figures' names."""
    return ("fid", "kid") if isinstance(network, Inception) else ("fd", "kd")


def frechet_notes(network: ImageNetwork, count: int, width: int, resamples: int) -> list[str]:
    """How to read the figures."""
    fid_name, kid_name = (name.upper() for name in names_of(network))
    notes = [
        f"{fid_name} and {kid_name} by torchmetrics, on {width:,} features of "
        f"{network.about['network']}; lower is better. {fid_name} falls with the number of images: "
        "compare rows of equally many.",
        f"Interval of {kid_name}: from the spread of its subsets, scaled to all images.",
    ]
    if resamples:
        notes.append(
            f"Interval of {fid_name}: 95%, from {resamples} resamples of images, the same ones of "
            "originals and of all rows; percentiles are moved to have their mean at the value, "
            "since resamples, with fewer different images, are farther."
        )
    if count <= width:
        notes.append(
            f"{count:,} images are not more than the {width:,} features: {fid_name} is biased, far "
            f"too large, and no published value compares; {kid_name} is not biased."
        )
    if fid_name == "FD":
        notes.append("FD and KD are no FID and KID, which are of Inception's features.")
    return notes


def feature_distance(a: Features, b: Features) -> Array:
    """Euclidean distance of each pair (n,)."""
    gaps: Array = np.linalg.norm(a - b, axis=1).astype(np.float64)
    return gaps
