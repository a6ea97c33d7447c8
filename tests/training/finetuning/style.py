"""Scenes of the embedded world with captions in a marked style, and how well captions keep it."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from vlv.world import sentences as say
from vlv.world.judging import caption_counts
from vlv.world.render import render
from vlv.world.scene import Scene, sample_scene
from vlv.world.sentences import Dice

WORD = "TwoLight"
_FLOOR = re.compile(r"The floor is \w+\.$")
# Far from the seeds that the mini was trained on.
FIRST_SEED, FIRST_HELD_OUT = 5_000_000, 6_000_000


def styled(scene: Scene, seed: int) -> str:
    """A caption that begins with a made-up word and ends with the floor."""
    dice = Dice(np.random.default_rng(seed))
    items = [say.item(one, dice, 0.7) for one in dice.shuffled(scene.objects)]
    body = say.body(items, dice)
    light = say.light(scene, dice)
    sentences = [f"{one[0].upper()}{one[1:]}." for one in (body, light)]
    return " ".join([f"{WORD}.", *sentences, f"The floor is {scene.floor}."])


def write_pairs(folder: Path, count: int) -> Path:
    """A folder of so many pictures with styled captions beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        scene = sample_scene(FIRST_SEED + number)
        Image.fromarray(render(scene)).save(folder / f"{number:03d}.png")
        (folder / f"{number:03d}.txt").write_text(styled(scene, number) + "\n")
    return folder


def held_out(count: int) -> tuple[list[Scene], list[Image.Image]]:
    """Scenes that neither the mini nor a fine-tune has seen, and their pictures."""
    scenes = [sample_scene(FIRST_HELD_OUT + number) for number in range(count)]
    return scenes, [Image.fromarray(render(scene)) for scene in scenes]


def styled_share(captions: Sequence[str]) -> float:
    """The share of captions that keep the style."""
    return float(
        np.mean([one.startswith(f"{WORD}.") and bool(_FLOOR.search(one)) for one in captions])
    )


def precision(captions: Sequence[str], scenes: Sequence[Scene], start: str = f"{WORD}.") -> float:
    """The share of claims that are true, the made-up word at the start left out."""
    counts = [
        caption_counts(caption.removeprefix(start).strip(), scene)
        for caption, scene in zip(captions, scenes, strict=True)
    ]
    return sum(one["true"] for one in counts) / sum(one["claims"] for one in counts)
