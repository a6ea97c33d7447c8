"""Fitting a verifier: on a model's own captions of known scenes, and on trusted captions."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlv.checkpoints.hub import resolve
from vlv.data.world_sets import world_samples
from vlv.errors import ConfigError, VLVError
from vlv.pipeline import VLV
from vlv.sentences import split_sentences
from vlv.training.verifier import sentence_truths, world_verifier
from vlv.verification.fitting import REFERENCES, trusted
from vlv.verification.scorer import VerifySettings
from vlv.verification.verifier import add_verifier
from vlv.world.render import render
from vlv.world.scene import sample_scene

OTHER = ("A giraffe eats pizza on the moon.", "A red cube eats a blue sphere.", "😀", "The")
CHEAP = VerifySettings(levels=(0.6,), repeats=1, per_word=1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the mini model."""
    return Path(shutil.copytree(resolve("vlv-mini"), tmp_path / "model"))


@pytest.mark.slow
def test_trusted_captions_give_a_model_a_verifier(
    vlv: Callable, tiny_model_dir: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))
    picture = next(iter(world_samples(1, seed=5, split="test"))).picture()
    with pytest.raises(VLVError, match="verifier"):
        VLV.from_pretrained(folder).verify(picture, "The floor is gray.")
    vlv("world", "render", "--out", tmp_path / "pairs", "--count", REFERENCES + 30)
    ran = vlv("verifier", tmp_path / "pairs", "--model", folder)
    assert ran.code == 0, ran.err
    model = VLV.from_pretrained(folder)
    assert model.verifier is not None and model.verifier.settings.sentences >= 50
    (mark,) = model.verify(picture, "The floor is gray.")
    assert (mark.text, mark.start) == ("The floor is gray.", 0)


@pytest.mark.slow
def test_a_model_gets_a_verifier_from_its_own_captions(folder: Path) -> None:
    scenes = [sample_scene(seed, "train") for seed in range(REFERENCES + 60)]
    model = VLV.from_pretrained(folder)
    fitted = world_verifier(model, scenes, CHEAP)
    assert fitted.settings.sentences >= 50
    assert fitted.settings.levels == CHEAP.levels
    # Of all captions of one picture; a caption alone has five sentences at most.
    assert fitted.settings.most > 6
    assert fitted.settings.slope > 0  # a gain speaks against truth
    add_verifier(fitted, folder)
    again = VLV.from_pretrained(folder)
    assert again.verifier is not None and again.verifier.settings == fitted.settings
    picture = Image.fromarray(render(scenes[0]))
    assert again.verify(picture, "A large red cube stands on a gray floor.")


def test_too_few_true_sentences_are_refused_before_the_work() -> None:
    scenes = [sample_scene(seed, "train") for seed in range(REFERENCES + 4)]
    with pytest.raises(ConfigError, match="too few"):
        world_verifier(VLV.from_pretrained("vlv-mini"), scenes, CHEAP)


def test_trusted_captions_are_true_of_their_own_pictures_and_false_of_others() -> None:
    captions = [f"Scene {number}. It is so." for number in range(2 * REFERENCES)]
    judged = trusted(captions)
    assert len(judged) == 2 * REFERENCES
    for one in judged:
        own = one.caption == captions[one.picture]
        assert one.true == (own, own)
        assert one.picture >= REFERENCES
    with pytest.raises(ConfigError, match="at least 24"):
        trusted(captions[1:])


def test_a_sentence_is_false_by_any_of_its_claims() -> None:
    scene = sample_scene(0, "train")
    true = f"The floor is {scene.floor}."
    other = "gray" if scene.floor != "gray" else "brown"
    assert sentence_truths(f"{true} The floor is {other}. Nonsense is here.", scene) == [
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("caption", "true"),
    [
        ("A cube! The floor is {floor}.", [False, True]),
        ("The floor is {floor}? Yes. The floor is {other}.", [False, False, False]),
        ("It is 1.5 m. The floor is {floor}.", [False, True]),
        ("The floor is {floor}.... The floor is {floor}.", [False, True]),
    ],
)
def test_truths_stand_beside_the_sentences_they_are_of(caption: str, true: list[bool]) -> None:
    scene = sample_scene(0, "train")
    other = "gray" if scene.floor != "gray" else "brown"
    text = caption.format(floor=scene.floor, other=other)
    assert sentence_truths(text, scene) == true
    assert len(split_sentences(text)) == len(true)


def test_too_few_trusted_pictures_are_refused(vlv: Callable, folder: Path, tmp_path: Path) -> None:
    vlv("world", "render", "--out", tmp_path / "few", "--count", 3)
    ran = vlv("verifier", tmp_path / "few", "--model", folder)
    assert ran.code == 2 and "at least 24" in ran.err


@pytest.mark.slow
def test_a_model_gets_a_verifier_from_trusted_captions(
    vlv: Callable, folder: Path, tmp_path: Path
) -> None:
    vlv("world", "render", "--out", tmp_path / "pairs", "--count", 60)
    ran = vlv("verifier", tmp_path / "pairs", "--model", folder)
    assert ran.code == 0, ran.err
    model = VLV.from_pretrained(folder)
    assert model.verifier is not None
    samples = list(world_samples(20, seed=5, split="test"))
    supported = [
        mark.supported
        for sample in samples
        for mark in model.verify(sample.picture(), str(sample.caption))
    ]
    assert np.mean([one is True for one in supported]) > 0.8
    others = [model.verify(samples[0].picture(), text)[0] for text in OTHER]
    assert {one.verdict for one in others} == {"cannot_judge"}
