"""A verifier for a model, from captions of which it is known whether their sentences are true.

Knows models and texts; who judged the captions is not its business.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from vlv.errors import ConfigError
from vlv.models.vlv import VLVModel
from vlv.sentences import split_sentences
from vlv.verification.evidence import SentenceEvidence, sentence_evidence
from vlv.verification.scorer import DenoisingScorer, VerifySettings
from vlv.verification.sentence_ood import Likelihood, SentenceDetector, SentenceReader, tail_bound
from vlv.verification.verifier import Verifier, require_true_sentences

# Reference pictures: the first of those that are given.
REFERENCES = 12
# The share of the pictures of the fit that count as too unlike them to be judged.
_UNLIKE = 0.005


@dataclass(frozen=True)
class Judged:
    """A caption of the picture at this place, and whether each of its sentences is true."""

    picture: int
    caption: str
    true: tuple[bool, ...]


@dataclass(frozen=True)
class TrainingCaptions:
    """What captions of training say, whether or not it is true: many such `captions`, and some
    `pairs` of a picture's place and a caption, to measure how likely the model finds them.
    """

    captions: Sequence[str]
    pairs: Sequence[tuple[int, str]]


def trusted(captions: Sequence[str]) -> list[Judged]:
    """Captions that are true of their pictures, those of the references left out, and, as false
    ones, each at the picture before its own: probabilities are then those among as many of both.

    Raises:
        ConfigError: there are fewer than twice the references.
    """
    if len(captions) < 2 * REFERENCES:
        raise ConfigError(
            f"{len(captions)} pictures with captions are too few to fit a verifier on; give at "
            f"least {2 * REFERENCES}, better hundreds"
        )
    places = range(REFERENCES, len(captions))
    return [
        Judged(at, caption, (true,) * len(split_sentences(caption)))
        for at, other in zip(places, (*places[1:], places[0]), strict=True)
        for caption, true in ((captions[at], True), (captions[other], False))
    ]


def fit_verifier(
    model: VLVModel,
    images: Sequence[Image.Image],
    judged: Sequence[Judged],
    training_captions: TrainingCaptions,
    settings: VerifySettings | None = None,
) -> Verifier:
    """From captions of `images`, the first `REFERENCES` of which are the references, and from what
    captions of training say. The model's weights do not change.

    Raises:
        ConfigError: too few sentences are true. This is checked before any work.
    """
    settings = settings or VerifySettings()
    require_true_sentences([true for one in judged for true in one.true])
    z = model.encode(images)
    references = z[:REFERENCES].half().to(z.dtype)  # as they are stored
    evidence: dict[int, list[SentenceEvidence]] = defaultdict(list)
    true: dict[int, list[bool]] = defaultdict(list)
    for one in judged:
        true[one.picture] += one.true
        evidence[one.picture] += sentence_evidence(
            model,
            images[one.picture],
            one.caption,
            references,
            settings,
            z=z[one.picture : one.picture + 1],
        )
    return Verifier.fit(
        references,
        list(evidence.values()),
        list(true.values()),
        settings,
        SentenceDetector.fit(
            training_captions.captions, _likelihoods(model, training_captions, z, references)
        ),
        tail_bound(_own_errors(model, images, z, settings), _UNLIKE),
    )


def _likelihoods(
    model: VLVModel, training_captions: TrainingCaptions, z: Tensor, references: Tensor
) -> list[Likelihood]:
    """Of every sentence of the pairs."""
    others, found = model.read(references), []
    for picture, caption in training_captions.pairs:
        seen = model.read(z[picture : picture + 1])
        reader = SentenceReader(model.caption_decoder, seen, others)
        sentences = split_sentences(caption)
        found += [reader.read(one, sentences[:at]) for at, one in enumerate(sentences)]
    return found


def _own_errors(
    model: VLVModel, images: Sequence[Image.Image], z: Tensor, settings: VerifySettings
) -> list[float]:
    """Of all pictures but the references."""
    return [
        DenoisingScorer(model, images[at], settings, z=z[at : at + 1]).own_error()
        for at in range(REFERENCES, len(images))
    ]
