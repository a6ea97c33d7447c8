"""The scenes that a model is measured on, with their true pictures and captions."""

from dataclasses import dataclass

import numpy as np

from vlv.data.world_sets import world_samples
from vlv.evaluation.metrics.pictures import Pictures
from vlv.evaluation.progress import Progress, silent
from vlv.world.scene import Scene


@dataclass(frozen=True)
class HeldOut:
    """Scenes of a split, their true captions and renders (n, 64, 64, 3)."""

    scenes: list[Scene]
    captions: list[str]
    renders: Pictures

    def __len__(self) -> int:
        return len(self.scenes)


_MADE: dict[tuple[int, int, str], HeldOut] = {}


def held_out_scenes(
    count: int, *, seed: int = 0, split: str = "test", progress: Progress = silent
) -> HeldOut:
    """The set that `vlv world render --count COUNT --seed SEED --split SPLIT` writes.

    Raises:
        WorldError: unknown split, or a count or seed out of range.
    """
    if (count, seed, split) not in _MADE:
        _MADE.clear()  # only the last set is kept: many models are measured on the same one
        _MADE[count, seed, split] = _held_out(count, seed, split, progress)
    return _MADE[count, seed, split]


def _held_out(count: int, seed: int, split: str, progress: Progress) -> HeldOut:
    samples = list(
        progress(
            world_samples(count, seed=seed, split=split),
            total=count,
            unit="scene",
            description="true renders",
        )
    )
    return HeldOut(
        scenes=[Scene.from_dict(sample.meta["scene"]) for sample in samples],
        captions=[str(sample.caption) for sample in samples],
        renders=np.stack([np.asarray(sample.picture()) for sample in samples]),
    )
