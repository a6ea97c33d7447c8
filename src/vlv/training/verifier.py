"""A verifier for a model of the world: fitted on captions that the model itself writes of scenes
whose truth is known. The model's weights do not change.
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
from vlv.world.render import render
from vlv.world.scene import Scene, sample_scene

# Pictures that tell what might have been said, and scenes whose captions are judged.
REFERENCES, VERIFIER_SCENES = 12, 160
_LONGEST = 128
# Of the scenes; far beyond those of any training set.
_FIRST_SEED = 2_000_000


def verifier_scenes() -> list[Scene]:
    """Scenes like those of training that no training has seen: to the decoder the pictures that it
    learned from are more plausible than others, and doubts of their captions smaller.
    """
    return [sample_scene(_FIRST_SEED + at, "train") for at in range(REFERENCES + VERIFIER_SCENES)]


def fit_verifier(
    folder: Path, scenes: Sequence[Scene], settings: VerifySettings | None = None
) -> Verifier:
    """Put a verifier into a model folder. The first `REFERENCES` scenes are the references.

    Captions are samples at temperature 1: they have more errors than the likeliest ones, and their
    true sentences are of the same kind.

    Raises:
        ConfigError: the model writes hardly a true sentence.
    """
    settings = settings or VerifySettings()
    model = VLV.from_pretrained(folder)
    images = [Image.fromarray(render(scene)) for scene in scenes]
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
