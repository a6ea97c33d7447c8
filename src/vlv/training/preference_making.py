"""Preferences between words, made of a model's own captions: it samples captions of pictures
without any, and the frozen decoder says of words that might stand there instead whether they
explain the picture better.

The decoder is the costly part, so it is asked only what can teach something: words that the picture
decides, exchanged for one that the model itself nearly wrote, all of a caption at once, at few
levels of noise. Nothing is left out, repaired or judged twice, as verification does.

Shapes: N pictures, Q, d length and width of z and c.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vlv.models.caption_tokens import caption_ids
from vlv.models.vlv import VLVModel
from vlv.sentences import Span, sentence_spans
from vlv.training.pseudo_captioning import wanted_views
from vlv.training.samples.data_order import key, numpy_generator
from vlv.training.samples.images import ImageStore
from vlv.training.samples.preferences import Exchange, JudgedCaption
from vlv.training.samples.world import SceneOf
from vlv.training.true_exchanges import true_exchanges, truth_of_exchange
from vlv.training.verifier import sampled_captions
from vlv.verification.alternatives import grounded_words
from vlv.verification.evidence import relative_gains
from vlv.verification.scorer import DenoisingScorer, VerifySettings

Alternatives = Literal["model", "truth"]


@dataclass(frozen=True)
class PreferenceSettings:
    """The first `pairs` pictures have captions; of `images` of the others a caption is sampled at a
    `temperature`, cut at `max_tokens`.

    alternatives: whether the model names the words that might stand there, up to `per_word` of at
    least `least_log_odds` nats against the one that does, or, in the embedded world, the truth
    names the right one where the word is wrong and a wrong one where it is right. levels, repeats:
    of noise, as in `VerifySettings`; without levels the decoder is not asked.
    """

    pairs: int
    images: int
    temperature: float
    alternatives: Alternatives
    per_word: int
    least_log_odds: float
    levels: tuple[float, ...]
    repeats: int
    max_tokens: int
    seed: int


@dataclass(frozen=True)
class _Candidate:
    """The word `word` for caption[start:end]; log_odds as in `Exchange`."""

    start: int
    end: int
    word: str
    log_odds: float

    def judged(self, gains: tuple[float, ...], error: float | None) -> Exchange:
        """With what the decoder says of it."""
        return Exchange(self.start, self.end, self.word, self.log_odds, gains, error)


@dataclass(frozen=True)
class PreferenceMaker:
    """Judges a model's captions. others (N,Q,d): what the caption decoder reads of other pictures,
    which show what might have been written. scene: of a picture by index, in the embedded world.
    """

    model: VLVModel
    store: ImageStore
    settings: PreferenceSettings
    others: Tensor
    scene: SceneOf | None = None

    def wanted(self) -> list[tuple[int, bool]]:
        """Pictures by index, and whether they are of pairs: these first, then those whose captions
        are judged.
        """
        settings = self.settings
        others = np.random.default_rng(key(settings.seed, "preferences")).permutation(
            np.arange(settings.pairs, len(self.store))
        )
        judged = others[: settings.images].tolist()
        return [*((at, True) for at in range(settings.pairs)), *((at, False) for at in judged)]

    @torch.no_grad()
    def captions(self, wanted: Sequence[tuple[int, bool]]) -> list[JudgedCaption]:
        """Of some of the wanted pictures, in their order."""
        views, without = wanted_views(self.store, wanted, self.settings.seed)
        judged = self._judged(without)
        return [
            JudgedCaption(index, view.caption if view else "", pair)
            if pair or not view
            else judged[index]
            for (index, pair), view in zip(wanted, views, strict=True)
        ]

    def _judged(self, images: Mapping[int, Image.Image]) -> dict[int, JudgedCaption]:
        """A judged sample of each picture, by index."""
        if not images:
            return {}
        settings = self.settings
        z = self.model.encode(list(images.values()))
        captions = sampled_captions(
            self.model,
            z,
            key(settings.seed, "samples", *images),
            temperature=settings.temperature,
            max_new_tokens=settings.max_tokens,
        )
        return {
            index: JudgedCaption(
                index,
                captions[at],
                False,
                self._exchanges(index, images[index], z[at : at + 1], captions[at]),
            )
            for at, index in enumerate(images)
        }

    def _exchanges(
        self, index: int, image: Image.Image, z: Tensor, caption: str
    ) -> tuple[Exchange, ...]:
        """What is tried in a caption of z (1,Q,d), with what each judge says of it."""
        if self.settings.alternatives == "truth":
            candidates = list(self._candidates_of_truth(index, z, caption))
        else:
            candidates = list(self._candidates_of_model(z, caption))
        if not candidates:
            return ()
        judged = self._judged_by_decoder(index, image, z, caption, candidates)
        if self.scene is None:
            return tuple(judged)
        scene = self.scene(index)
        return tuple(
            replace(one, truth=truth_of_exchange(scene, caption, one.of(caption))) for one in judged
        )

    def _judged_by_decoder(
        self, index: int, image: Image.Image, z: Tensor, caption: str, candidates: list[_Candidate]
    ) -> list[Exchange]:
        settings = self.settings
        if not settings.levels:
            return [one.judged((), None) for one in candidates]
        noise = VerifySettings(settings.levels, settings.repeats, seed=key(settings.seed, index))
        scorer = DenoisingScorer(self.model, image, noise, z=z)
        return _judged_at_once(scorer, caption, self._contexts(caption), candidates)

    def _candidates_of_model(self, z: Tensor, caption: str) -> Iterator[_Candidate]:
        """Words that the model itself nearly wrote in the place of one that the picture decides."""
        model, settings = self.model, self.settings
        for word in grounded_words(
            model.caption_decoder,
            model.read(z),
            self.others,
            caption,
            per_word=settings.per_word,
            least_log_odds=settings.least_log_odds,
        ):
            for other in word.alternatives:
                yield _Candidate(other.start, other.end, other.word, other.log_odds)

    def _candidates_of_truth(self, index: int, z: Tensor, caption: str) -> Iterator[_Candidate]:
        """Those of the truth, where a single token is exchanged."""
        assert self.scene is not None  # the config's own check
        decoder = self.model.caption_decoder
        rng = numpy_generator(self.settings.seed, index, "exchange")
        tried = list(true_exchanges(self.scene(index), caption, rng))
        texts = [caption, *(caption[:start] + word + caption[end:] for start, end, word in tried)]
        ids, lengths = caption_ids(decoder.tokenizer, texts)
        expected = decoder.log_probabilities(self.model.read(z), ids[0, : lengths[0]].tolist())
        for (start, end, word), row, length in zip(tried, ids[1:], lengths[1:], strict=True):
            differs = (row != ids[0]).nonzero().flatten().tolist()
            if length == lengths[0] and len(differs) == 1:
                at = differs[0]
                log_odds = float(expected[at, row[at]] - expected[at, ids[0, at]])
                yield _Candidate(start, end, word, log_odds)

    def _contexts(self, caption: str) -> list[Span]:
        """The texts that the decoder reads: the caption, or its sentences one by one where the text
        tower cannot read it whole.
        """
        if self.model.text_tower.reads_whole(caption):
            return [Span(0, len(caption))]
        return sentence_spans(caption)


def _judged_at_once(
    scorer: DenoisingScorer,
    caption: str,
    contexts: Sequence[Span],
    candidates: Sequence[_Candidate],
) -> list[Exchange]:
    """Each exchange against the text as it stands, all texts on the same draws of noise."""
    texts = []
    for one in candidates:
        context = next(span for span in contexts if one.start < span.end)
        after = caption[context.start : one.start] + one.word + caption[one.end : context.end]
        texts.append((context.of(caption), after))
    different = list(dict.fromkeys(text for both in texts for text in both))
    errors = dict(zip(different, scorer.errors(different), strict=True))
    judged = []
    for one, (before, after) in zip(candidates, texts, strict=True):
        gains, error = relative_gains(errors[before], errors[after])
        judged.append(one.judged(gains, None if math.isnan(error) else error))
    return judged
