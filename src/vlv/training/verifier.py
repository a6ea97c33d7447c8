"""A verifier for a model of the world: fitted on captions that the model itself writes of scenes
whose truth is known.
"""

from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import torch
from PIL import Image

from vlv.errors import WorldError
from vlv.models.vlv import VLVModel
from vlv.sentences import split_sentences
from vlv.verification.fitting import REFERENCES, Judged, TrainingCaptions, fit_verifier
from vlv.verification.scorer import VerifySettings
from vlv.verification.verifier import Verifier, require_true_sentences
from vlv.world.counterfactual import ERRORS, wrong_caption
from vlv.world.language import Verdict, judge, read_caption, short_caption
from vlv.world.render import render
from vlv.world.scene import Scene, sample_scene

# Scenes whose captions are judged.
_SCENES = 160
_LONGEST = 128
# Of the scenes; far beyond those of any training set.
_FIRST_SEED = 2_000_000
# Captions of training scenes whose words are counted.
_CAPTIONS = 20_000
# Errors planted in true captions of each scene, of all kinds in turn: true sentences beside errors
# are calibrated on too.
_PLANTED = 3
# Captions of the world say a thing in one way, and the decoder does not heed numbers of objects,
# which are listed anyway. Three nats, twenty times as likely, count about as much as a threshold.
_SETTINGS = VerifySettings(levels=(0.2, 0.45, 0.9), per_nat=0.005)


def verifier_scenes() -> list[Scene]:
    """Scenes like those of training that no training has seen, so that marks are measured on
    pictures as new to the decoder as those of users.
    """
    return [sample_scene(_FIRST_SEED + at, "train") for at in range(REFERENCES + _SCENES)]


def world_verifier(
    model: VLVModel, scenes: Sequence[Scene], settings: VerifySettings | None = None
) -> Verifier:
    """A verifier from captions of the scenes, except the first, the references.

    Those of the model are samples at temperature 1: they have more errors than the likeliest ones,
    and their true sentences are of the same kind. Others are true but for a planted error.

    Raises:
        ConfigError: too few sentences of the model are true.
    """
    images = [Image.fromarray(render(scene)) for scene in scenes]
    judged = []
    for at in range(REFERENCES, len(scenes)):
        (caption,) = sampled_captions(model, model.encode(images[at]), seed=at)
        captions = [caption, *planted_captions(scenes[at], at, _PLANTED).values()]
        judged += [Judged(at, one, tuple(sentence_truths(one, scenes[at]))) for one in captions]
    require_true_sentences([true for one in judged for true in one.true])
    return fit_verifier(
        model, images, judged, world_training_captions(scenes), settings or _SETTINGS
    )


def world_training_captions(scenes: Sequence[Scene]) -> TrainingCaptions:
    """Captions of training scenes, and of each of `scenes` but the references its own caption and
    that of the scene before it.
    """
    captions = [
        short_caption(sample_scene(seed, "train"), np.random.default_rng(seed))
        for seed in range(_CAPTIONS)
    ]
    own = [short_caption(scene, np.random.default_rng(at)) for at, scene in enumerate(scenes)]
    places = range(REFERENCES, len(scenes))
    return TrainingCaptions(captions, [(at, own[said]) for at in places for said in (at, at - 1)])


def planted_captions(
    scene: Scene, at: int, planted: int, errors: Sequence[str] = ERRORS, seed: int = 0
) -> dict[str, str]:
    """True captions of scene number `at` with one error each, by kind. Kinds take turns."""
    rng = np.random.default_rng([seed, at])
    captions = {}
    for number in range(planted):
        kind = errors[(at * planted + number) % len(errors)]
        with suppress(WorldError):  # no room for this kind in this scene
            captions[kind] = wrong_caption(scene, kind, rng)
    return captions


def sampled_captions(
    model: VLVModel,
    z: torch.Tensor,
    seed: int,
    count: int = 1,
    *,
    temperature: float = 1.0,
    max_new_tokens: int = _LONGEST,
) -> list[str]:
    """Samples for z (B,Q,d), the `count` of each side by side; torch's global generator stays as
    it was.
    """
    decoder, seen = model.caption_decoder, model.read(z)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = decoder.generate(
            seen,
            num_beams=1,
            do_sample=True,
            temperature=temperature,
            num_return_sequences=count,
            max_new_tokens=max_new_tokens,
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
