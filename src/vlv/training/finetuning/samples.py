"""What a fine-tune sees at a position: a picture or its conditioning, and one of its captions."""

from collections.abc import Sequence

import torch

from vlv.training.finetuning.conditionings import KeptConditionings, pixels_of
from vlv.training.finetuning.pictures import CaptionedPicture, Pictures, thinned
from vlv.training.samples.data_order import numpy_generator
from vlv.training.samples.source import Batch, SampleSource
from vlv.training.samples.tokens import CaptionTokens


class Views:
    """What the objective reads of a picture: its kept conditioning, or its pixels."""

    def __init__(
        self,
        pictures: Pictures,
        places: Sequence[CaptionedPicture],
        size: int,
        crop: int | None,
        kept: KeptConditionings | None,
    ) -> None:
        self._pictures = pictures
        self._of = places
        self._place = {one.number: place for place, one in enumerate(places)}
        self._size, self._crop = size, crop
        self._kept = kept

    def of(self, one: CaptionedPicture) -> Batch:
        """`c` (Q,d), or `pixels` (S,S,3)."""
        if self._kept is not None:
            return {"c": self._kept[self._place[one.number]]}
        pixels = pixels_of(self._pictures, one, self._size, self._crop)
        return {"pixels": torch.from_numpy(pixels.copy())}


class FinetuneSamples(SampleSource):
    """The pictures to learn from. Of several captions one is drawn; `dropout` is the probability
    with which each sentence or tag but the first is left out of it.
    """

    def __init__(
        self,
        views: Views,
        learned: Sequence[CaptionedPicture],
        tokens: CaptionTokens,
        *,
        seed: int,
        dropout: float,
        fingerprint: str,
    ) -> None:
        self._views = views
        self._learned = learned
        self._tokens = tokens
        self._seed = seed
        self._dropout = dropout
        self._fingerprint = fingerprint

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    def __len__(self) -> int:
        return len(self._learned)

    def item(self, position: int, index: int) -> Batch:
        one = self._learned[index]
        random = numpy_generator(self._seed, position, "caption")
        caption = one.captions[int(random.integers(len(one.captions)))]
        if self._dropout:
            caption = thinned(caption, self._dropout, random)
        return self._views.of(one) | self._tokens.item(caption)
