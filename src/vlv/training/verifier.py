"""A verifier for a model of the world: fitted on captions that the model itself writes of scenes
that it was trained on, whose truth is known. The model's weights do not change.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from vlv.models.sentences import split_sentences
from vlv.models.verification import VerifySettings, sentence_evidence
from vlv.models.verifier import Verifier, add_verifier, require_true_sentences
from vlv.models.vlv import VLV
from vlv.world.language import Verdict, judge, read_caption
from vlv.world.scene import Scene

# Pictures that tell what might have been said, and scenes whose captions are judged.
REFERENCES, VERIFIER_SCENES = 12, 160
_LONGEST = 128


def fit_verifier(
    folder: Path,
    images: Sequence[Image.Image],
    scenes: Sequence[Scene],
    settings: VerifySettings | None = None,
) -> Verifier:
    """Put a verifier into a model folder. The first `REFERENCES` scenes are the references.

    Captions are samples at temperature 1: they have more errors than the likeliest ones, and their
    true sentences are of the same kind.

    Raises:
        ConfigError: the model writes hardly a true sentence.
    """
    settings = settings or VerifySettings()
    model = VLV.from_pretrained(folder)
    z = model.encode(images)
    references = z[:REFERENCES].half().to(z.dtype)
    captions = {
        at: sampled_captions(model, z[at : at + 1], seed=at)[0]
        for at in range(REFERENCES, len(scenes))
    }
    truth = [
        true for at, caption in captions.items() for true in sentence_truths(caption, scenes[at])
    ]
    require_true_sentences(truth)  # before all the work
    evidence = [
        found
        for at, caption in captions.items()
        for found in sentence_evidence(
            model, images[at], caption, references, settings, z=z[at : at + 1]
        )
    ]
    verifier = Verifier.fit(references, evidence, truth, settings)
    add_verifier(verifier, folder)
    return verifier


def sampled_captions(model: VLV, z: torch.Tensor, seed: int, count: int = 1) -> list[str]:
    """Samples at temperature 1 for z (1,Q,d); torch's global generator stays as it was."""
    captioner, seen = model.captioner, model.read(z)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        made = captioner.generate(
            seen,
            num_beams=1,
            do_sample=True,
            num_return_sequences=count,
            max_new_tokens=_LONGEST,
        )
    return [one.text for one in made]


def sentence_truths(caption: str, scene: Scene) -> list[bool]:
    """Whether each sentence claims nothing false of the scene; one that cannot be read does."""
    claims = read_caption(caption)
    verdicts = judge(claims, scene)
    false = {
        claim.sentence
        for claim, verdict in zip(claims, verdicts, strict=True)
        if verdict == Verdict.FALSE
    }
    return [at not in false for at in range(len(split_sentences(caption)))]
