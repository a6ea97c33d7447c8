"""What a model teaches itself in a round: captions of pictures that have none, the best of several
that it samples, beside those of the pairs that it has.

A lesson is a file of JSON lines, one a picture. It is written a few pictures at a time, so that one
that was cut off goes on where it was, to the same captions.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
from PIL import Image
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from vlv.errors import TrainingError
from vlv.files import sync
from vlv.models.vlv import VLV
from vlv.text import parse_json
from vlv.training.run_folder import writing
from vlv.training.samples.data_order import key, numpy_generator
from vlv.training.samples.images import Pictures, View
from vlv.training.selection import Way, by_decoder, by_likelihood, by_truth
from vlv.training.verifier import sampled_captions
from vlv.world.scene import Scene

# Pictures that are captioned at once, and written together.
_BATCH = 16

SceneOf = Callable[[int], Scene]


@dataclass(frozen=True)
class LessonSettings:
    """The first `pairs` pictures have captions; in round `number` (from 0) the model captions
    `images` of the others: of `samples` at a `temperature`, cut at `max_tokens`, one is chosen.
    """

    pairs: int
    images: int
    samples: int
    temperature: float
    choose: Way
    max_tokens: int
    seed: int
    number: int


@dataclass(frozen=True)
class Taught:
    """A caption of picture `index`; an empty one, of a picture that was refused or of which
    the model said nothing, is not learned from.

    Of a chosen caption: how many of the samples are different, its score, and the mean of the
    samples' scores and of their words.
    """

    index: int
    caption: str
    pair: bool
    different: int = 0
    score: float = 0.0
    mean_score: float = 0.0
    mean_words: float = 0.0


_TAUGHT = TypeAdapter(Taught)


def read_lesson(path: Path) -> list[Taught]:
    """Raises TrainingError for a file that is none."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise TrainingError(f"{path} cannot be read ({error.strerror})") from error
    return [
        _taught(line, f"line {number} of {path}")
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]


def _taught(line: bytes, where: str) -> Taught:
    try:
        return _TAUGHT.validate_python(parse_json(line, where, TrainingError))
    except ValidationError as error:
        fault = error.errors()[0]
        name = ".".join(str(part) for part in fault["loc"])
        raise TrainingError(
            f"{where} is no caption of self-teaching ({name}: {fault['msg']}); remove the file to "
            "make the lesson anew"
        ) from error


def write_lesson(path: Path, teacher: "Teacher") -> None:
    """Make the lesson at `path`, or what is missing of it."""
    if path.is_file():
        return
    settings = teacher.settings
    taught = taught_indices(len(teacher.pictures), settings)
    wanted = [*((i, True) for i in range(settings.pairs)), *((i, False) for i in taught)]
    unfinished = path.with_suffix(".unfinished")
    done = _cut_to_whole_batches(unfinished)
    with writing(path), unfinished.open("a", encoding="utf-8") as file:
        for start in range(done, len(wanted), _BATCH):
            for one in teacher.captions(wanted[start : start + _BATCH]):
                file.write(json.dumps(asdict(one)) + "\n")
            file.flush()
    sync(unfinished)
    os.replace(unfinished, path)


def taught_indices(count: int, settings: LessonSettings) -> list[int]:
    """The pictures of a round, of `count` in all: new ones as long as there are any."""
    others = np.random.default_rng(key(settings.seed, "taught")).permutation(
        np.arange(settings.pairs, count)
    )
    first = settings.number * settings.images
    return [int(others[at % len(others)]) for at in range(first, first + settings.images)]


def lesson_figures(lesson: Sequence[Taught]) -> dict[str, float]:
    """What to watch. words: mean of the chosen captions, beside sampled_words, that of all samples:
    choosing may prefer captions that say less. gain: mean of what a choice scores above its
    picture's samples. different: mean number of different samples.
    """
    chosen = [one for one in lesson if one.caption and not one.pair]
    count = max(len(chosen), 1)
    return {
        "pairs": sum(one.pair and bool(one.caption) for one in lesson),
        "images": len(chosen),
        "refused": sum(not one.caption for one in lesson),
        "words": sum(len(one.caption.split()) for one in chosen) / count,
        "sampled_words": sum(one.mean_words for one in chosen) / count,
        "gain": sum(one.score - one.mean_score for one in chosen) / count,
        "different": sum(one.different for one in chosen) / count,
    }


@dataclass(frozen=True)
class Teacher:
    """A model that captions pictures for itself. scene: of a picture by index, for choosing by
    truth.
    """

    model: VLV
    pictures: Pictures
    settings: LessonSettings
    scene: SceneOf | None = None

    def captions(self, wanted: Sequence[tuple[int, bool]]) -> list[Taught]:
        """Of some pictures, by index and whether they are of pairs, in their order."""
        views = [self._look(index) for index, _ in wanted]
        untold = {
            index: Image.fromarray(view.item["image"].numpy())
            for (index, pair), view in zip(wanted, views, strict=True)
            if view and not pair
        }
        chosen = self._chosen(untold)
        return [
            Taught(index, view.caption if view else "", pair) if pair or not view else chosen[index]
            for (index, pair), view in zip(wanted, views, strict=True)
        ]

    def _look(self, index: int) -> View | None:
        """Picture `index`, or None where another one would stand in its place."""
        words = numpy_generator(self.settings.seed, index, "caption")
        view = self.pictures.view(index, {}, words)
        return None if float(view.item.get("refused", 0)) else view

    def _chosen(self, images: Mapping[int, Image.Image]) -> dict[int, Taught]:
        """The best of the samples of each picture, by index."""
        if not images:
            return {}
        settings = self.settings
        z = self.model.encode(list(images.values()))
        samples = sampled_captions(
            self.model,
            z,
            key(settings.seed, settings.number, "samples", *images),
            settings.samples,
            temperature=settings.temperature,
            max_new_tokens=settings.max_tokens,
        )
        return {
            index: self._best(
                index,
                images[index],
                z[at : at + 1],
                samples[at * settings.samples : (at + 1) * settings.samples],
            )
            for at, index in enumerate(images)
        }

    def _best(self, index: int, image: Image.Image, z: Tensor, samples: Sequence[str]) -> Taught:
        different = list(dict.fromkeys(samples))
        scores = dict(zip(different, self._scores(index, image, z, different), strict=True))
        best = max(different, key=lambda caption: scores[caption])
        return Taught(
            index,
            best,
            pair=False,
            different=len(different),
            score=scores[best],
            mean_score=fmean(scores[caption] for caption in samples),
            mean_words=fmean(len(caption.split()) for caption in samples),
        )

    def _scores(
        self, index: int, image: Image.Image, z: Tensor, captions: Sequence[str]
    ) -> list[float]:
        match self.settings.choose:
            case "decoder":
                return by_decoder(self.model, image, captions)
            case "likelihood":
                return by_likelihood(self.model, z, captions)
            case "truth":
                assert self.scene is not None  # the config's own check
                return by_truth(self.scene(index), captions)
            case "random":
                # Samples are in no order: the first is as good as any.
                return [0.0] * len(captions)


def _cut_to_whole_batches(path: Path) -> int:
    """How many lines of an unfinished lesson hold; what a killed process left behind them goes."""
    if not path.is_file():
        return 0
    lines = path.read_bytes().splitlines(keepends=True)
    whole = sum(line.endswith(b"\n") for line in lines) // _BATCH * _BATCH
    os.truncate(path, sum(map(len, lines[:whole])))
    return whole
