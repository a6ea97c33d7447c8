"""Evidence of the frozen decoder against the sentences of a caption.

The decoder denoises the picture under the caption, and under the caption with one thing changed: a
sentence left out, or one word that the picture decides exchanged for another that might stand there
(`alternatives`). Where the changed text explains the picture better, the sentence may be wrong, and
the change says why. No model that judges, and no list of words, is needed. A wrong sentence raises
the evidence against its neighbours too: other words in them make up for a part of its error. So the
sentence with the most evidence is repaired by its best exchange before the others are judged, and
so on. Knows the boxes; knows nothing of files or of the world.

Shapes: N pictures, Q,d length and width of z and c, K texts, S draws of timestep and noise.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from PIL import Image
from torch import Tensor

from vlv.models.vlv import VLVModel
from vlv.sentences import Span, sentence_spans
from vlv.verification.alternatives import grounded_words
from vlv.verification.scorer import DenoisingScorer, VerifySettings
from vlv.verification.verdicts import Change

# A sentence of at least this gain is repaired before the others are judged. Of true sentences about
# every tenth has so much.
_REPAIRED = 0.005
# The decoder does not heed a word none of whose exchanges changes its error by this share.
_HEEDED = 0.01


@dataclass(frozen=True)
class SentenceEvidence:
    """A sentence, text = caption[start:end], and every change that was tried, the best first."""

    text: str
    start: int
    end: int
    changes: tuple[Change, ...]

    @property
    def best(self) -> Change | None:
        """The exchange of a word that explains the picture best; if none was tried, the omission of
        the sentence. Errors elsewhere in a caption make any omission look good or bad.
        """
        words = [change for change in self.changes if change.word]
        return max(words or self.changes, key=lambda change: change.evidence, default=None)

    @property
    def gain(self) -> float:
        """By which share of itself the decoder's error falls there, or what counts instead."""
        return self.best.evidence if self.best else 0.0


def sentence_evidence(
    model: VLVModel,
    image: Image.Image,
    caption: str,
    references: Tensor,
    settings: VerifySettings,
    *,
    z: Tensor | None = None,
    scorer: DenoisingScorer | None = None,
) -> list[SentenceEvidence]:
    """What speaks against each sentence of a caption of `image`, in the caption's order.

    references (N,Q,d): z of other pictures, which show what might have been written. z (1,Q,d): of
    this one, where it is known already; scorer: of this picture and these settings. A caption that
    the text tower cannot read whole is judged sentence by sentence, each by itself.
    """
    spans = sentence_spans(caption)
    if not spans:
        return []
    z = model.encode(image) if z is None else z
    seen, others = model.read(z), model.read(references)
    changes = [Change(at, *span, "") for at, span in enumerate(spans)]
    nats: dict[tuple[int, str], float] = {}
    for word in grounded_words(
        model.caption_decoder, seen, others, caption, per_word=settings.per_word
    ):
        at = next(i for i, span in enumerate(spans) if word.start < span.end)
        for other in word.alternatives:
            changes.append(Change(at, word.start, word.end, other.word))
            nats[word.start, other.word] = other.log_odds
    scorer = scorer or DenoisingScorer(model, image, settings, z=z)
    if model.text_tower.reads_whole(caption):
        judged = _judged_in_turn(scorer, caption, changes)
    else:
        judged = _judged_alone(scorer, caption, spans, changes)
    if settings.per_nat:
        judged = _expected(judged, nats, settings.per_nat)
    return [
        SentenceEvidence(
            span.of(caption),
            *span,
            tuple(sorted((one for one in judged if one.sentence == at), key=lambda one: -one.gain)),
        )
        for at, span in enumerate(spans)
    ]


def _judged_in_turn(
    scorer: DenoisingScorer, caption: str, changes: Sequence[Change]
) -> list[Change]:
    """Each change is judged where the sentences with more evidence against them are repaired."""
    final: list[Change] = []
    repairs: list[Change] = []
    left = list(changes)
    while left:
        judged = _judged(scorer, caption, left, repairs)
        words = [one for one in judged if one.word]
        worst = max(words, key=lambda one: one.gain, default=None)
        if worst is None or worst.gain < _REPAIRED:
            return [*final, *judged]
        final += [one for one in judged if one.sentence == worst.sentence]
        left = [one for one in left if one.sentence != worst.sentence]
        repairs.append(worst)
    return final


def _judged_alone(
    scorer: DenoisingScorer, caption: str, spans: Sequence[Span], changes: Sequence[Change]
) -> list[Change]:
    """The changes of each sentence are judged as if it was the caption."""
    judged = []
    for at, span in enumerate(spans):
        own = [one for one in changes if one.sentence == at]
        inside = [
            replace(one, start=one.start - span.start, end=one.end - span.start) for one in own
        ]
        found = _judged(scorer, span.of(caption), inside, [])
        judged += [
            replace(one, start=one.start + span.start, end=one.end + span.start) for one in found
        ]
    return judged


def _expected(
    judged: Sequence[Change], nats: dict[tuple[int, str], float], per_nat: float
) -> list[Change]:
    """The same; of words that the decoder does not heed, such as numbers of objects that the
    caption lists anyway, with what the caption decoder makes of them.
    """
    heeded = {(one.start, one.end) for one in judged if one.word and abs(one.gain) >= _HEEDED}
    return [
        replace(one, expected=max(0.0, per_nat * nats[one.start, one.word]))
        if one.word and (one.start, one.end) not in heeded
        else one
        for one in judged
    ]


def _judged(
    scorer: DenoisingScorer, caption: str, changes: Sequence[Change], repairs: Sequence[Change]
) -> list[Change]:
    """The gain of each change over the caption that has the repairs."""
    before = _with(caption, repairs)
    texts = [_with(caption, [*repairs, change]) for change in changes]
    different = list(dict.fromkeys([before, *texts]))
    errors = dict(zip(different, scorer.errors(different), strict=True))
    return [
        _with_gain(change, errors[before], errors[text])
        for change, text in zip(changes, texts, strict=True)
    ]


def _with(caption: str, changes: Sequence[Change]) -> str:
    """The caption with changes that do not overlap; the last first, so that places stay."""
    for change in sorted(changes, key=lambda one: -one.start):
        if change.word:
            caption = caption[: change.start] + change.word + caption[change.end :]
        else:
            caption = Span(change.start, change.end).left_out(caption)
    return caption


def _with_gain(change: Change, before: Tensor, after: Tensor) -> Change:
    """Both errors (levels, repeats)."""
    gains, error = relative_gains(before, after)
    return replace(change, gains=gains, error=error)


def relative_gains(before: Tensor, after: Tensor) -> tuple[tuple[float, ...], float]:
    """By which share of itself the error falls at each level, for errors (levels, repeats), and the
    standard error of the mean; NaN for a single pair of draws. Each level counts the same, whatever
    the size of its error.
    """
    size = before.mean(1, keepdim=True)
    gains = ((before - after) / size).mean(1, keepdim=True)
    # A gain is a ratio of means: a draw of a large error raises both, and counts by what is left.
    left = (before - after - gains * before) / size
    return tuple(gains[:, 0].tolist()), _standard_error(left.mean(0))


def _standard_error(draws: Tensor) -> float:
    """Of the mean of draws (repeats,), which is 0. Two draws whose noise has opposite signs
    (`make_draws`) are alike, so that a pair is one observation.
    """
    pairs = torch.stack([pair.sum() for pair in draws.split(2)])
    count = len(pairs)
    if count < 2:
        return float("nan")
    return (pairs.square().sum() * count / (count - 1)).sqrt().item() / len(draws)
