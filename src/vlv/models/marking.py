"""The sentences of a caption marked: supported, unsupported, or beyond what can be judged.

A picture that the model does not know, and a sentence that its training captions could not say, are
not judged: what the decoder makes of them means nothing. The others are judged as if the caption
held nothing else. Knows a model and its verifier.

Shapes: Q,d length and width of z.
"""

from PIL import Image
from torch import Tensor

from vlv.errors import CheckpointError
from vlv.models.sentence_ood import SentenceReader
from vlv.models.verification import Witness, sentence_evidence
from vlv.models.verifier import SentenceSupport, Verifier, require_rate
from vlv.models.vlv import VLV
from vlv.sentences import Span, sentence_spans

UNKNOWN_PICTURE = "the picture is unlike those that this model was trained on"
NO_RECORD = (
    "this model has no record of what its captions can say; `vlv verifier` fits one to the model "
    "folder"
)


def mark_caption(
    model: VLV,
    image: Image.Image,
    caption: str,
    *,
    z: Tensor | None = None,
    familiar: bool | None = None,
    false_alarm_rate: float = 0.05,
) -> list[SentenceSupport]:
    """A mark for each sentence, in order.

    z (1,Q,d) of the image and whether it is familiar, where they are known already. About
    `false_alarm_rate` of true sentences are called unsupported. Raises CheckpointError for a model
    without a verifier or without a decoder.
    """
    verifier = model.verifier
    if verifier is None:
        raise CheckpointError(
            "This model has no verifier, so its marks would mean nothing; `vlv verifier` adds "
            "one to a model folder."
        )
    require_rate(false_alarm_rate)
    spans = sentence_spans(caption)
    if not spans:
        return []
    if z is None or familiar is None:
        own, (familiar,) = model.encode_and_detect(image)
        z = own if z is None else z
    witness = Witness(model, image, verifier.settings.verify, z=z)
    if familiar is False or not _can_be_drawn(witness, verifier):
        return [_not_judged(span, caption, UNKNOWN_PICTURE) for span in spans]
    reasons = _reasons(model, verifier, z, caption)
    judged = iter(
        _marks(model, verifier, image, caption, spans, reasons, witness, z, false_alarm_rate)
    )
    return [
        next(judged) if reason is None else _not_judged(span, caption, reason)
        for span, reason in zip(spans, reasons, strict=True)
    ]


def _can_be_drawn(witness: Witness, verifier: Verifier) -> bool:
    bound = verifier.settings.own_error
    return bound is None or witness.own_error() <= bound


def _reasons(model: VLV, verifier: Verifier, z: Tensor, caption: str) -> list[str | None]:
    """Why each sentence cannot be judged, if it cannot."""
    if verifier.sentences is None:
        return [NO_RECORD] * len(sentence_spans(caption))
    seen, others = model.read(z), model.read(verifier.references.to(z))
    return verifier.sentences.reasons(caption, SentenceReader(model.captioner, seen, others))


def _marks(
    model: VLV,
    verifier: Verifier,
    image: Image.Image,
    caption: str,
    spans: list[Span],
    reasons: list[str | None],
    witness: Witness,
    z: Tensor,
    false_alarm_rate: float,
) -> list[SentenceSupport]:
    """Those of the sentences that can be judged, as they stand in the caption."""
    kept = [span for span, reason in zip(spans, reasons, strict=True) if reason is None]
    evidence = sentence_evidence(
        model,
        image,
        " ".join(span.of(caption) for span in kept),
        verifier.references,
        verifier.settings.verify,
        z=z,
        witness=witness,
    )
    marks = verifier.marks(evidence, false_alarm_rate)
    return [mark.moved(span.start - mark.start) for mark, span in zip(marks, kept, strict=True)]


def _not_judged(span: Span, caption: str, reason: str) -> SentenceSupport:
    return SentenceSupport.not_judged(span.of(caption), *span, reason)
