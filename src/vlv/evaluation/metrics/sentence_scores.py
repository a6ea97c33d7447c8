"""Scores of the sentences of captions: ours, and others to compare it with.

The larger a score is, the less the picture supports the sentence.
"""

from dataclasses import replace

import torch
from PIL import Image
from torch import Tensor

from vlv.models.vlv import VLVModel
from vlv.sentences import sentence_spans
from vlv.verification.evidence import SentenceEvidence, sentence_evidence
from vlv.verification.scorer import DenoisingScorer, VerifySettings

OURS = "best other word"
DECODER_ALONE = "best other word, without the caption decoder"
LIKE_EMBEDDINGS = "best other word, against the embeddings"
OMISSION = "sentence left out"
AGAINST_NONE = "sentence against none"
DISTANCE = "distance of the sentence from the embeddings"
CLASSIFIER = "error under the sentence"
LIKELIHOOD = "language model: mean"
LEAST_LIKELY = "language model: least likely token"
# In the order of the table. DECODER_ALONE is what OURS is with a `per_nat` of 0. AGAINST_NONE and
# CLASSIFIER are the scores of DiffusionITM and of Diffusion Classifier, for one sentence. The
# scores "against the embeddings" compare a prediction with that under the picture's own embeddings
# rather than with the noise. The last two need no decoder.
SCORES = (
    OURS,
    DECODER_ALONE,
    LIKE_EMBEDDINGS,
    OMISSION,
    AGAINST_NONE,
    CLASSIFIER,
    DISTANCE,
    LIKELIHOOD,
    LEAST_LIKELY,
)


def sentence_scores(
    model: VLVModel,
    image: Image.Image,
    caption: str,
    references: Tensor,
    settings: VerifySettings,
    z: Tensor,
) -> tuple[list[SentenceEvidence], dict[str, list[float]]]:
    """The evidence about each sentence of a caption, and its scores by name."""
    evidence = sentence_evidence(model, image, caption, references, settings, z=z)
    alone = [
        replace(one, changes=tuple(replace(change, expected=0.0) for change in one.changes))
        for one in evidence
    ]
    texts = [one.text for one in evidence]
    near = replace(settings, against="embeddings")
    nearer = sentence_evidence(model, image, caption, references, near, z=z)
    distances = DenoisingScorer(model, image, near, z=z).errors(texts)
    single = DenoisingScorer(model, image, settings).errors(["", *texts])
    relative = ((single[1:] - single[:1]) / single[:1].mean(2, keepdim=True)).mean((1, 2))
    tokens = token_log_likelihoods(model, z, caption)
    return evidence, {
        OURS: [one.gain for one in evidence],
        DECODER_ALONE: [one.gain for one in alone],
        LIKE_EMBEDDINGS: [one.gain for one in nearer],
        OMISSION: [max(c.gain for c in one.changes if not c.word) for one in evidence],
        AGAINST_NONE: relative.tolist(),
        CLASSIFIER: single[1:].mean((1, 2)).tolist(),
        DISTANCE: distances.mean((1, 2)).tolist(),
        LIKELIHOOD: [-sum(many) / len(many) for many in tokens],
        LEAST_LIKELY: [-min(many) for many in tokens],
    }


@torch.no_grad()
def token_log_likelihoods(model: VLVModel, z: Tensor, caption: str) -> list[list[float]]:
    """Log-likelihoods of the tokens of each sentence, given the picture's z (1,Q,d)."""
    caption_decoder = model.caption_decoder
    encoded = caption_decoder.tokenizer(
        caption, add_special_tokens=False, return_offsets_mapping=True
    )
    found = caption_decoder.log_probabilities(model.read(z), encoded["input_ids"])
    each = found.gather(1, torch.tensor(encoded["input_ids"], device=found.device)[:, None])[:, 0]
    spans = sentence_spans(caption)
    grouped: list[list[float]] = [[] for _ in spans]
    for (_, end), value in zip(encoded["offset_mapping"], each.tolist(), strict=True):
        grouped[next((i for i, span in enumerate(spans) if end <= span.end), -1)].append(value)
    return grouped
