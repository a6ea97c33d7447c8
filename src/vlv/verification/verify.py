"""The sentences of a caption marked: supported, unsupported, or beyond what can be judged.

A picture that the model does not know, and a sentence that its training captions could not say, are
not judged: what the decoder makes of them means nothing. The others are judged as if the caption
held nothing else. Knows a model and its verifier.

Shapes: Q,d length and width of z.
"""

import math

from PIL import Image
from torch import Tensor

from vlv.errors import CheckpointError
from vlv.models.vlv import VLVModel
from vlv.sentences import Span, sentence_spans
from vlv.verification.evidence import sentence_evidence
from vlv.verification.scorer import DenoisingScorer
from vlv.verification.sentence_ood import SentenceReader
from vlv.verification.verdicts import SentenceSupport
from vlv.verification.verifier import Verifier, require_rate, verifier_of

NO_NUMBER = (
    "the error of the decoder is no finite number for this picture; half precision may overflow, "
    "so try float32"
)
UNKNOWN_PICTURE = "the picture is unlike those that this model was trained on"
NO_RECORD = (
    "this model has no record of what its captions can say; `vlv verifier` fits one to the model "
    "folder"
)


def verify_caption(
    model: VLVModel,
    image: Image.Image,
    caption: str,
    *,
    z: Tensor | None = None,
    in_distribution: bool | None = None,
    false_alarm_rate: float = 0.05,
) -> list[SentenceSupport]:
    """A mark for each sentence, in order.

    z (1,Q,d) of the image and whether it is in distribution, where they are known already. About
    `false_alarm_rate` of true sentences are called unsupported. Raises CheckpointError for a model
    without a verifier or without a decoder.
    """
    verifier = verifier_of(model)
    if verifier is None:
        raise CheckpointError(
            "This model has no verifier, so its marks would mean nothing; `vlv verifier` adds "
            "one to a model folder."
        )
    require_rate(false_alarm_rate)
    spans = sentence_spans(caption)
    if not spans:
        return []
    if z is None or in_distribution is None:
        own, (in_distribution,) = model.encode_and_detect(image)
        z = own if z is None else z
    scorer = DenoisingScorer(model, image, verifier.settings.verify, z=z)
    reasons = reasons_not_to_judge(model, verifier, caption, z, in_distribution, scorer)
    kept = [span for span, reason in zip(spans, reasons, strict=True) if reason is None]
    evidence = sentence_evidence(
        model,
        image,
        " ".join(span.of(caption) for span in kept),
        verifier.references,
        verifier.settings.verify,
        z=z,
        scorer=scorer,
    )
    marks = zip(kept, verifier.marks(evidence, false_alarm_rate), strict=True)
    judged = {span: mark.moved(span.start - mark.start) for span, mark in marks}
    return [
        judged[span] if reason is None else _not_judged(span, caption, reason)
        for span, reason in zip(spans, reasons, strict=True)
    ]


def reasons_not_to_judge(
    model: VLVModel,
    verifier: Verifier,
    caption: str,
    z: Tensor,
    in_distribution: bool | None,
    scorer: DenoisingScorer,
) -> list[str | None]:
    """Why each sentence of a caption cannot be judged for a picture of z (1,Q,d); None where it
    can. The scorer is of the same picture.
    """
    count = len(sentence_spans(caption))
    if in_distribution is False:
        return [UNKNOWN_PICTURE] * count
    error, drawn_up_to = scorer.own_error(), verifier.settings.own_error
    if not math.isfinite(error):
        return [NO_NUMBER] * count
    if drawn_up_to is not None and error > drawn_up_to:
        return [UNKNOWN_PICTURE] * count
    if verifier.sentences is None:
        return [NO_RECORD] * count
    seen, others = model.read(z), model.read(verifier.references.to(z))
    return verifier.sentences.reasons(caption, SentenceReader(model.caption_decoder, seen, others))


def _not_judged(span: Span, caption: str, reason: str) -> SentenceSupport:
    return SentenceSupport.not_judged(span.of(caption), *span, reason)
