"""A verifier for any model, from pictures whose captions are trusted.

The sentences of a picture's own caption are the true ones. For false ones there are captions of
other pictures, so that probabilities are those among as many of both; the false-alarm rate needs
true sentences only.
"""

from collections.abc import Sequence

import torch
from PIL import Image

from vlv.errors import ConfigError
from vlv.models.verification import VerifySettings, sentence_evidence
from vlv.models.verifier import Verifier
from vlv.models.vlv import VLV

REFERENCES = 12


def fit_on_pairs(
    model: VLV, images: Sequence[Image.Image], captions: Sequence[str], settings: VerifySettings
) -> Verifier:
    """From pictures and captions that are true of them; the first `REFERENCES` are the references.

    Raises:
        ConfigError: too few pictures, or too few sentences.
    """
    if len(images) < 2 * REFERENCES:
        raise ConfigError(
            f"{len(images)} pictures with captions are too few to fit a verifier on; give at least "
            f"{2 * REFERENCES}, better hundreds"
        )
    z = model.encode(images)
    references = z[:REFERENCES].half().to(z.dtype)
    evidence, truth = [], []
    for at in range(REFERENCES, len(images)):
        other = at + 1 if at + 1 < len(images) else REFERENCES
        for caption, true in ((captions[at], True), (captions[other], False)):
            own = z[at : at + 1]
            found = sentence_evidence(model, images[at], caption, references, settings, z=own)
            evidence += found
            truth += [true] * len(found)
    return Verifier.fit(references.to(torch.float32), evidence, truth, settings)
