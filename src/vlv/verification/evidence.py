"""Which sentences of a caption the picture supports, told by the frozen decoder alone.

The decoder denoises the picture under the caption, and under the caption with one thing changed: a
sentence left out, or one word that the picture decides exchanged for another that might stand there
(`alternatives`). Where the changed text explains the picture better, the sentence is in doubt, and
the change says why. No model that judges, and no list of words, is needed. Knows the boxes; knows
nothing of files or of the world.

Shapes: N pictures, Q,d length and width of z and c, K texts, S draws of timestep and noise.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from PIL import Image
from torch import Tensor

from vlv.errors import ConfigError
from vlv.models.preprocessing import decoder_pixels
from vlv.sentences import Span, sentence_spans
from vlv.verification.alternatives import grounded_words
from vlv.verification.denoising import Draws, make_draws, predictions, squared_errors, target

if TYPE_CHECKING:
    from vlv.models.text_tower import TextTower
    from vlv.models.vlv import VLVModel

# Texts that go through the text tower at once, at least.
_TEXTS = 16


@dataclass(frozen=True)
class VerifySettings:
    """How much is computed: `levels` of noise (shares of the trained timesteps), `repeats` draws of
    noise at each, `per_word` alternatives of a word. The time grows with all three.

    against: what a prediction under a text is held against, the noise that was added or what the
    decoder predicts under the picture's own embeddings.
    """

    levels: tuple[float, ...] = (0.3, 0.6, 0.9)
    repeats: int = 2
    per_word: int = 2
    seed: int = 0
    against: Literal["noise", "embeddings"] = "noise"

    def __post_init__(self) -> None:
        if not self.levels or not all(0 < level <= 1 for level in self.levels):
            raise ConfigError(f"levels of noise are above 0 and at most 1, not {self.levels}")
        if self.repeats < 1 or self.per_word < 0:
            raise ConfigError(
                f"repeats must be 1 or more and per_word 0 or more, not {self.repeats} and "
                f"{self.per_word}"
            )


@dataclass(frozen=True)
class Change:
    """A caption with one thing changed in one sentence, and what the decoder says of it.

    caption[start:end] is exchanged for `word`; an empty one leaves the sentence out. gains: at each
    level of noise, by which share of itself the denoising error falls. error: the standard error
    of their mean, over draws; NaN for a single one.
    """

    sentence: int
    start: int
    end: int
    word: str
    gains: tuple[float, ...] = ()
    error: float = float("nan")

    @property
    def gain(self) -> float:
        """The mean of the gains."""
        return sum(self.gains) / len(self.gains) if self.gains else 0.0


@dataclass(frozen=True)
class SentenceEvidence:
    """A sentence, text = caption[start:end], and every change that was tried, the best first."""

    text: str
    start: int
    end: int
    changes: tuple[Change, ...]

    @property
    def best(self) -> Change | None:
        """The exchange of a word that explains the picture best; where none was tried, leaving the
        sentence out. What the rest of a caption gets wrong makes any omission look good or bad.
        """
        words = [change for change in self.changes if change.word]
        return max(words or self.changes, key=lambda change: change.gain, default=None)

    @property
    def doubt(self) -> float:
        """Its gain: by which share of itself the decoder's error falls."""
        return self.best.gain if self.best else 0.0


class Witness:
    """A picture seen by the decoder: all texts are judged by the same draws of noise."""

    def __init__(
        self,
        model: "VLVModel",
        image: Image.Image,
        settings: VerifySettings,
        *,
        z: Tensor | None = None,
    ) -> None:
        """See a picture, of which z (1,Q,d) may be known already."""
        self._model = model
        self._levels = len(settings.levels)
        decoder = model.decoder
        pixels = torch.from_numpy(decoder_pixels(image, decoder.image_size)).permute(2, 0, 1)
        with torch.no_grad():
            self._latents = decoder.encode_images(
                pixels[None].to(model.device, model.dtype) / 127.5 - 1
            )
        self._draws: Draws = make_draws(
            decoder, self._latents, settings.levels, settings.repeats, settings.seed
        )
        self._noise = target(decoder, self._latents, self._draws)
        self._z = model.encode(image) if z is None else z
        self._wanted = self._noise
        if settings.against == "embeddings":
            self._wanted = self._predicted(model.condition(self._z))[0]

    def errors(self, texts: Sequence[str]) -> Tensor:
        """Errors (K, levels, repeats) of what is predicted under texts that the text tower reads
        whole.
        """
        tower = self._model.text_tower
        parts = torch.arange(len(texts)).tensor_split(max(1, len(texts) // _TEXTS))
        with torch.no_grad():
            c = torch.cat([tower.encode_text([texts[at] for at in part]) for part in parts])
        errors = squared_errors(self._predicted(c), self._wanted)
        return errors.unflatten(1, (self._levels, -1)).cpu()

    def own_error(self) -> float:
        """The denoising error under the picture's own embeddings, the mean over levels of its
        logarithm: large where the decoder cannot draw such a picture at all.
        """
        made = self._predicted(self._model.condition(self._z))
        errors = squared_errors(made, self._noise).unflatten(1, (self._levels, -1)).mean(2)
        return float(errors.log().mean())

    def _predicted(self, c: Tensor) -> Tensor:
        return predictions(self._model.decoder, self._latents, c, self._draws)

    def score(self, captions: Sequence[str]) -> list[float]:
        """How well each caption explains the picture: minus its mean error, larger is better.

        A caption that the text tower cannot read whole is judged part by part.
        """
        tower = self._model.text_tower
        parts = [_readable_parts(tower, caption) for caption in captions]
        errors = iter(self.errors([part for many in parts for part in many]).mean((1, 2)).tolist())
        return [-sum(next(errors) for _ in many) / len(many) for many in parts]


def sentence_evidence(
    model: "VLVModel",
    image: Image.Image,
    caption: str,
    references: Tensor,
    settings: VerifySettings | None = None,
    *,
    z: Tensor | None = None,
    witness: Witness | None = None,
) -> list[SentenceEvidence]:
    """What speaks against each sentence of a caption of `image`, in the caption's order.

    references (N,Q,d): z of other pictures, which tell what might have been said. z (1,Q,d): of
    this one, where it is known already; witness: of this picture and these settings. A caption that
    the text tower cannot read whole is judged sentence by sentence, each by itself.
    """
    settings = settings or VerifySettings()
    spans = sentence_spans(caption)
    if not spans:
        return []
    z = model.encode(image) if z is None else z
    seen, others = model.read(z), model.read(references)
    changes = [Change(at, *span, "") for at, span in enumerate(spans)]
    for word in grounded_words(
        model.caption_decoder, seen, others, caption, per_word=settings.per_word
    ):
        at = next(i for i, span in enumerate(spans) if word.start < span.end)
        changes += [Change(at, word.start, word.end, other.word) for other in word.alternatives]
    whole = model.text_tower.reads_whole(caption)
    context = [caption if whole else span.of(caption) for span in spans]
    offset = [0 if whole else span.start for span in spans]
    texts = [_changed(context[one.sentence], one, offset[one.sentence]) for one in changes]
    different = list(dict.fromkeys(context + texts))
    found = (witness or Witness(model, image, settings, z=z)).errors(different)
    errors = dict(zip(different, found, strict=True))
    judged = [
        _judged(change, errors[context[change.sentence]], errors[text])
        for change, text in zip(changes, texts, strict=True)
    ]
    return [
        SentenceEvidence(
            span.of(caption),
            *span,
            tuple(sorted((one for one in judged if one.sentence == at), key=lambda one: -one.gain)),
        )
        for at, span in enumerate(spans)
    ]


def _changed(context: str, change: Change, offset: int) -> str:
    start, end = change.start - offset, change.end - offset
    if change.word:
        return context[:start] + change.word + context[end:]
    return Span(start, end).left_out(context)


def _judged(change: Change, before: Tensor, after: Tensor) -> Change:
    """Both errors (levels, repeats). Each level counts the same, whatever the size of its error."""
    gains = (before - after) / before.mean(1, keepdim=True)
    each = gains.mean(0)
    error = each.std().item() / len(each) ** 0.5 if len(each) > 1 else float("nan")
    return replace(change, gains=tuple(gains.mean(1).tolist()), error=error)


def _readable_parts(tower: "TextTower", caption: str) -> list[str]:
    """Runs of whole sentences that the text tower reads; a longer sentence is a part of its own."""
    parts: list[str] = []
    for span in sentence_spans(caption):
        longer = f"{parts[-1]} {span.of(caption)}" if parts else ""
        if longer and tower.reads_whole(longer):
            parts[-1] = longer
        else:
            parts.append(span.of(caption))
    return parts or [""]
