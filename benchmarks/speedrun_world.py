"""The pictures of the speedrun: a narrow part of the embedded world, learned in CPU minutes.

Each shows one large matte object near the middle of the gray floor, lit from the left. Its shape,
its colour and its rotation vary, and its place a little. The frozen decoder has seen the whole
world, so all of that has to come from z: what the pictures share is soon learned, which of 28 looks
a picture has is not.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count as numbers
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from vlv.data.world_images import made_once, new_array
from vlv.training.samples.images import ImageStore, View
from vlv.world.render import IMAGE_SIZE, render, renderer_version
from vlv.world.scene import Scene, sample_scene


@dataclass(frozen=True)
class Pictures:
    """Scenes and their pictures as bytes (n, 64, 64, 3)."""

    scenes: list[Scene]
    images: NDArray[np.uint8]


def narrow_scenes(split: str, first_seed: int, count: int, folder: Path) -> Pictures:
    """The first `count` scenes from `first_seed` on, rendered once."""
    scenes = list(islice(_scenes(split, first_seed), count))
    path = folder / f"narrow-{split}-{first_seed}-{count}-{renderer_version()}.npy"
    with made_once(path) as missing:
        if missing:
            with new_array(path, (count, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8) as new:
                for place, scene in enumerate(scenes):
                    new[place] = render(scene)
    return Pictures(scenes, np.load(path, mmap_mode="c"))


def _scenes(split: str, first_seed: int) -> Iterator[Scene]:
    for seed in numbers(first_seed):
        scene = sample_scene(seed, split)
        if len(scene.objects) == 1:
            one = scene.objects[0]
            x, z = one.x / 4, 0.25 + one.z / 4
            one = replace(one, size="large", material="matte", x=x, z=z)
            yield Scene("gray", "left", (one,))


class PictureStore(ImageStore):
    """Pictures to learn from; latents are computed where the run wants them."""

    def __init__(self, pictures: Pictures) -> None:
        self._images = pictures.images

    def __len__(self) -> int:
        return len(self._images)

    def view(self, index: int, words: np.random.Generator | None = None) -> View:
        """Picture `index`."""
        return View({"image": torch.from_numpy(self._images[index].copy())})
