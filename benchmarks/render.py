"""Scenes a second on one core: sampling, rendering, and writing a short caption.

    python benchmarks/render.py [--count 500]

Rendering is compared in the same run with its floor: the time that numpy takes to compute one
sphere's ray intersections for every ray of every object and its shadow, without any shading.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np

from vlv.world.language import short_caption
from vlv.world.render import RENDER_SIZE, render
from vlv.world.scene import sample_scene


def rate(work: Callable[[int], object], count: int) -> float:
    start = time.perf_counter()
    for index in range(count):
        work(index)
    return count / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=500)
    count = parser.parse_args().count
    scenes = [sample_scene(seed) for seed in range(count)]
    objects = sum(len(scene.objects) for scene in scenes) / count
    rays = np.random.default_rng(0).normal(size=(RENDER_SIZE**2, 3))

    def quadratics(_: int) -> None:
        for _ in range(round(2 * objects)):
            b = np.einsum("ij,ij->i", rays, rays)
            np.sqrt(np.maximum(b * b - b, 0))

    print(f"sample   {rate(sample_scene, count):8.0f} /s")
    print(f"render   {rate(lambda i: render(scenes[i]), count):8.0f} /s")
    print(f"floor    {rate(quadratics, count):8.0f} /s")
    caption = lambda i: short_caption(scenes[i], np.random.default_rng(i))  # noqa: E731
    print(f"caption  {rate(caption, count):8.0f} /s")


if __name__ == "__main__":
    main()
