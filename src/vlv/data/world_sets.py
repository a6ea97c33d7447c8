"""Sets of rendered scenes of the embedded world, with captions and the truth.

Scene `i` of the set with seed `s` is `sample_scene(s * 1_000_000 + i, split)`. Its caption is drawn
with a generator that is seeded only by the scene's seed and split. So a set of 100 is the beginning
of the set of 1000 with the same seed, and two seeds share no scene.
"""

import io
import json
import os
import re
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image

from vlv.data.samples import Sample
from vlv.data.sets import check_format, write_set
from vlv.data.shards import SHARD_SIZE
from vlv.errors import ConfigError, WorldError
from vlv.files import atomic_folder
from vlv.text import printable
from vlv.world.language import short_caption
from vlv.world.render import render, scene_record
from vlv.world.scene import SPLITS, sample_scene

SCENES = "scenes.jsonl"
SEED_STRIDE = 1_000_000

# The names of a set's files, in all formats.
_WRITTEN = re.compile(
    r"scenes\.jsonl|metadata\.jsonl|\d{9}\.(png|txt)|\d{5,}(\.tar|_stats\.json|\.parquet)"
)
_CHUNK = 64
# Separates the caption's random stream from the scene's.
_CAPTION_STREAM = 1


def world_sample(seed: int, split: str, key: str) -> Sample:
    """The PNG picture, short caption and record of the scene (`seed`, `split`)."""
    scene = sample_scene(seed, split)
    rng = np.random.default_rng([_CAPTION_STREAM, SPLITS.index(split), seed])
    caption = short_caption(scene, rng)
    png = io.BytesIO()
    Image.fromarray(render(scene)).save(png, "PNG")
    record = scene_record(scene, seed=seed, split=split, caption=caption, file_name=f"{key}.png")
    return Sample(key, png.getvalue(), ".png", caption, record)


def world_samples(
    count: int, *, seed: int = 0, split: str = "test", workers: int = 1
) -> Iterator[Sample]:
    """The first `count` scenes of a set, in order, drawn by `workers` processes.

    Raises:
        WorldError: unknown split, or a count or seed out of range.
    """
    if split not in SPLITS:
        raise WorldError(f"unknown split {split!r}; the splits are {', '.join(SPLITS)}")
    if not 0 <= count <= SEED_STRIDE:
        raise WorldError(f"a set has up to {SEED_STRIDE} scenes, not {count}; use another seed too")
    if seed < 0:
        raise WorldError(f"the seed of a set is 0 or more, not {seed}")
    jobs = [
        (range(first, min(first + _CHUNK, count)), seed, split) for first in range(0, count, _CHUNK)
    ]
    if workers <= 1 or len(jobs) <= 1:
        for job in jobs:
            yield from _draw(job)
        return
    # A forked process is not safe if this one runs threads; a spawned one is.
    with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=get_context("spawn")) as pool:
        for samples in pool.map(_draw, jobs):
            yield from samples


def _draw(job: tuple[range, int, str]) -> list[Sample]:
    indices, seed, split = job
    return [world_sample(seed * SEED_STRIDE + i, split, f"{i:09d}") for i in indices]


def render_world(
    samples: Iterator[Sample],
    out: Path,
    *,
    format: str = "folder",
    shard_size: int = SHARD_SIZE,
    overwrite: bool = False,
) -> int:
    """Write world samples and their `scenes.jsonl` to `out`, which is complete or absent.

    Raises:
        ConfigError: unknown format, or what it needs is not installed; or `out` exists and must
            not be overwritten, or holds files that are not those of a world set.
    """
    check_format(format)
    if overwrite and out.is_dir() and (names := [path.name for path in out.iterdir()]):
        if SCENES not in names:  # shards of somebody else have the same names
            raise ConfigError(
                f"{out} holds no {SCENES}, so it is no set that may be replaced; choose another "
                "name"
            )
        if others := [name for name in names if not _WRITTEN.fullmatch(name)]:
            raise ConfigError(
                f"{out} also holds {printable(min(others))}, which is no file of such a set and "
                "would be lost; choose another name"
            )
    with (
        atomic_folder(out, overwrite=overwrite) as folder,
        open(folder / SCENES, "w", encoding="utf-8", newline="\n") as scenes,
    ):
        count = write_set(_noted(samples, scenes), folder, format=format, shard_size=shard_size)
        scenes.flush()
        os.fsync(scenes.fileno())
    return count


def _noted(samples: Iterator[Sample], scenes: io.TextIOBase) -> Iterator[Sample]:
    for sample in samples:
        scenes.write(json.dumps(sample.meta) + "\n")
        yield sample
