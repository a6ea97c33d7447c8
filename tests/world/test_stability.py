"""The world stays the one that the packaged weights were trained in, from version to version."""

import hashlib
import json

import numpy as np
import pytest

from vlv.world.language import long_caption, short_caption
from vlv.world.render import render
from vlv.world.scene import sample_scene

# A change of these is a change of every data set: models have to be trained anew, and pictures
# that runs/world keeps have to be drawn anew.
RECORDS = {
    "train": "c9145cabf2894b0d",
    "test": "e0d47924ecf0e13e",
    "unseen-pairs": "f91919ef371ca281",
    "unseen-counts": "969855f5791f302c",
}
# Mean red, green and blue of the quarters of scene 0: upper left, upper right, lower left, lower
# right. Not a hash of the bytes, as sines and powers may differ between machines in the last digit.
QUARTERS = {
    "train": (25.13, 35.44, 52.12, 69.04, 53.36, 81.81, 31.7, 56.94, 36.93, 41.51, 50.22, 46.06),
    "test": (33.57, 43.35, 37.11, 43.53, 39.37, 41.92, 28.51, 28.51, 30.56, 50.26, 40.96, 43.71),
    "unseen-pairs": (
        *(120.07, 71.98, 60.74, 88.63, 55.83, 30.88, 122.57, 59.67, 44.11, 58.9, 93.44, 84.09),
    ),
    "unseen-counts": (
        *(80.88, 102.81, 57.37, 79.35, 82.96, 35.1, 106.56, 72.1, 47.74, 60.15, 56.38, 29.39),
    ),
}


@pytest.mark.parametrize(("split", "digest"), RECORDS.items())
def test_seeds_give_the_scenes_and_captions_that_they_gave(split: str, digest: str) -> None:
    records = []
    for seed in range(20):
        scene, rng = sample_scene(seed, split), np.random.default_rng(seed)
        records.append([scene.to_dict(), short_caption(scene, rng), long_caption(scene, rng)])
    assert hashlib.sha256(json.dumps(records).encode()).hexdigest()[:16] == digest


@pytest.mark.parametrize(("split", "means"), QUARTERS.items())
def test_scenes_give_the_pictures_that_they_gave(split: str, means: tuple[float, ...]) -> None:
    quarters = render(sample_scene(0, split)).reshape(2, 32, 2, 32, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(quarters.reshape(-1), means, atol=0.05)
