"""Evidence of the frozen decoder against the sentences of a caption.

The decoder denoises the picture under the caption, and under the caption with one thing changed: a
sentence left out, or one word that the picture decides exchanged for another that might stand there
(`alternatives`). Where the changed text explains the picture better, the sentence may be wrong, and
the change says why. No model that judges, and no list of words, is needed. Knows the boxes; knows
nothing of files or of the world.

Shapes: N pictures, Q,d length and width of z and c, K texts, S draws of timestep and noise.
"""

from dataclasses import dataclass, replace

from PIL import Image
from torch import Tensor

from vlv.models.vlv import VLVModel
from vlv.sentences import Span, sentence_spans
from vlv.verification.alternatives import grounded_words
from vlv.verification.scorer import DenoisingScorer, VerifySettings
from vlv.verification.verdicts import Change


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
        return max(words or self.changes, key=lambda change: change.gain, default=None)

    @property
    def gain(self) -> float:
        """Its gain: by which share of itself the decoder's error falls."""
        return self.best.gain if self.best else 0.0


def sentence_evidence(
    model: VLVModel,
    image: Image.Image,
    caption: str,
    references: Tensor,
    settings: VerifySettings | None = None,
    *,
    z: Tensor | None = None,
    scorer: DenoisingScorer | None = None,
) -> list[SentenceEvidence]:
    """What speaks against each sentence of a caption of `image`, in the caption's order.

    references (N,Q,d): z of other pictures, which show what might have been written. z (1,Q,d): of
    this one, where it is known already; scorer: of this picture and these settings. A caption that
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
    found = (scorer or DenoisingScorer(model, image, settings, z=z)).errors(different)
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
