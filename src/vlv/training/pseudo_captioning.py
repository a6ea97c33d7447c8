"""A model that captions pictures without captions for itself: it samples several captions of each,
and a selector keeps the best.

The file of captions is written a few pictures at a time: a run that was cut off goes on where it
was, to the same captions. `vlv.training.samples.pseudo_captions` reads the file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
from PIL import Image
from torch import Tensor

from vlv.models.vlv import VLVModel
from vlv.training.batched_lines import write_lines
from vlv.training.samples.data_order import key, numpy_generator
from vlv.training.samples.images import ImageStore, View
from vlv.training.samples.pseudo_captions import PseudoCaption
from vlv.training.samples.world import SceneOf
from vlv.training.selection import Selector, by_decoder, by_likelihood, by_picture, by_truth
from vlv.training.verifier import sampled_captions

# Pictures that are captioned at once, and written together.
_BATCH = 16


@dataclass(frozen=True)
class PseudoCaptionSettings:
    """The first `pairs` pictures have captions; in round `number` (from 0) the model captions
    `images` of the others: of `samples` at a `temperature`, cut at `max_tokens`, the selector keeps
    one.
    """

    pairs: int
    images: int
    samples: int
    temperature: float
    selector: Selector
    max_tokens: int
    seed: int
    number: int


def write_pseudo_captions(path: Path, captioner: "PseudoCaptioner") -> None:
    """Make the file at `path`, or what is missing of it."""
    settings = captioner.settings
    captioned = captioned_indices(len(captioner.store), settings)
    wanted = [*((i, True) for i in range(settings.pairs)), *((i, False) for i in captioned)]
    write_lines(path, wanted, captioner.captions, _BATCH)


def captioned_indices(count: int, settings: PseudoCaptionSettings) -> list[int]:
    """The pictures of a round, of `count` in all: new ones as long as there are any, and none
    twice.
    """
    # The word is part of the seed: another one would pick other pictures.
    others = np.random.default_rng(key(settings.seed, "taught")).permutation(
        np.arange(settings.pairs, count)
    )
    first = settings.number * settings.images
    last = first + min(settings.images, len(others))
    return [int(others[at % len(others)]) for at in range(first, last)]


def pseudo_caption_metrics(captions: Sequence[PseudoCaption]) -> dict[str, float]:
    """What to watch. words: mean of the selected captions, beside sampled_words, that of all
    samples: a selector may prefer captions that say less. gain: mean of a selected caption's score
    above that of its picture's samples. different: mean number of different samples.
    """
    selected = [one for one in captions if one.caption and not one.pair]
    count = max(len(selected), 1)
    return {
        "pairs": sum(one.pair and bool(one.caption) for one in captions),
        "images": len(selected),
        "refused": sum(not one.caption for one in captions),
        "words": sum(len(one.caption.split()) for one in selected) / count,
        "sampled_words": sum(one.mean_words for one in selected) / count,
        "gain": sum(one.score - one.mean_score for one in selected) / count,
        "different": sum(one.different for one in selected) / count,
    }


def wanted_views(
    store: ImageStore, wanted: Sequence[tuple[int, bool]], seed: int
) -> tuple[list[View | None], dict[int, Image.Image]]:
    """The view of each wanted picture (None: it was refused), and the images of those that are to
    be captioned. wanted: indices, and whether they are of pairs.
    """
    views = [store.good_view(index, numpy_generator(seed, index, "caption")) for index, _ in wanted]
    without = {
        index: Image.fromarray(view.item["image"].numpy())
        for (index, pair), view in zip(wanted, views, strict=True)
        if view and not pair
    }
    return views, without


@dataclass(frozen=True)
class PseudoCaptioner:
    """A model that captions pictures for itself. scene: of a picture by index, for the selector
    `truth`.
    """

    model: VLVModel
    store: ImageStore
    settings: PseudoCaptionSettings
    scene: SceneOf | None = None

    def captions(self, wanted: Sequence[tuple[int, bool]]) -> list[PseudoCaption]:
        """Of some pictures, by index and whether they are of pairs, in their order."""
        views, without = wanted_views(self.store, wanted, self.settings.seed)
        selected = self._selected(without)
        return [
            PseudoCaption(index, view.caption if view else "", pair)
            if pair or not view
            else selected[index]
            for (index, pair), view in zip(wanted, views, strict=True)
        ]

    def _selected(self, images: Mapping[int, Image.Image]) -> dict[int, PseudoCaption]:
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

    def _best(
        self, index: int, image: Image.Image, z: Tensor, samples: Sequence[str]
    ) -> PseudoCaption:
        different = list(dict.fromkeys(samples))
        scores = dict(zip(different, self._scores(index, image, z, different), strict=True))
        best = max(different, key=lambda caption: scores[caption])
        return PseudoCaption(
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
        match self.settings.selector:
            case "decoder":
                return by_decoder(self.model, image, captions)
            case "picture":
                return by_picture(self.model, z, captions)
            case "likelihood":
                return by_likelihood(self.model, z, captions)
            case "truth":
                assert self.scene is not None  # the config's own check
                return by_truth(self.scene(index), captions)
            case "random":
                # Samples are in no order: the first is as good as any.
                return [0.0] * len(captions)
