"""`VLV.verify` says what it cannot judge: other sentences, other pictures, and older verifiers."""

import shutil
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from vlv.checkpoints.hub import resolve
from vlv.data.world_sets import world_samples
from vlv.evaluation.ood_pictures import other_pictures, overlaid
from vlv.evaluation.ood_sentences import OTHER_SENTENCES
from vlv.pipeline import VLV
from vlv.verification.scorer import DenoisingScorer
from vlv.verification.verify import UNKNOWN_PICTURE, reasons_not_to_judge
from vlv.world.counterfactual import wrong_caption
from vlv.world.scene import sample_scene

# A part of them each; `vlv eval verify` puts all to many scenes.
SENTENCES = list(chain.from_iterable(many[::4] for many in OTHER_SENTENCES.values()))


@pytest.fixture(scope="module")
def scene() -> tuple[Image.Image, str]:
    (sample,) = world_samples(1, seed=13, split="test")
    return sample.picture(), str(sample.caption)


def verdicts(mini: VLV, image: Image.Image, caption: str) -> list[str]:
    return [one.verdict for one in mini.verify(image, caption)]


def ended(sentences: list[str]) -> list[str]:
    """With a full stop where there is no end, so that each stays a sentence of its own."""
    return [one if one[-1] in ".!?" else f"{one}." for one in sentences]


def what_not_to_judge(mini: VLV, image: Image.Image, caption: str) -> list[str | None]:
    """The reasons, without the evidence that `VLV.verify` would gather against the others."""
    verifier = mini.verifier
    assert verifier is not None
    z, (in_distribution,) = mini.encode_and_detect(image)
    scorer = DenoisingScorer(mini, image, verifier.settings.verify, z=z)
    return reasons_not_to_judge(mini, verifier, caption, z, in_distribution, scorer)


def test_sentences_of_other_things_are_not_vouched_for(
    mini: VLV, scene: tuple[Image.Image, str]
) -> None:
    image, true = scene
    # Together, so that the picture is looked at once; what holds is judged beside them.
    marks = mini.verify(image, "\n".join([true, *ended(SENTENCES)]))
    assert marks[0].verdict == "supported"
    supported = [mark.text for mark in marks if mark.start > len(true) and mark.supported]
    assert len(supported) <= 0.02 * len(SENTENCES), supported


@pytest.mark.parametrize(
    "sentence",
    [
        "A photo of a cat sleeping on a sofa.",
        "A red cube eats a blue sphere.",
        "There is no red cube.",
        "The left is on the right.",
        "A large red cube; the floor is gray!",
        "A giraffe. " * 5,
        "The",
    ],
)
def test_it_says_so_with_a_reason(mini: VLV, scene: tuple[Image.Image, str], sentence: str) -> None:
    for mark in mini.verify(scene[0], sentence):
        assert mark.verdict == "cannot_judge"
        assert mark.supported is None and mark.probability is None and mark.score is None
        assert mark.reason and "captions of training" in mark.reason


def test_true_and_false_captions_of_scenes_are_judged(mini: VLV) -> None:
    rng = np.random.default_rng(0)
    # A sentence about one object has few words to exchange.
    scenes = [one for one in world_samples(20, seed=21) if len(one.meta["scene"]["objects"]) == 1]
    short = [one for one in scenes if str(one.caption).count(".") == 1]
    for kind, sample in zip(("floor", "color"), short[:2], strict=True):
        scene = sample_scene(int(sample.meta["seed"]), "test")
        found = verdicts(mini, sample.picture(), wrong_caption(scene, kind, rng))
        assert "unsupported" in found and "cannot_judge" not in found
    reasons = [
        what_not_to_judge(mini, one.picture(), str(one.caption))
        for one in world_samples(12, seed=24)
    ]
    unknown = [many for many in reasons if UNKNOWN_PICTURE in many]
    assert len(unknown) <= 1  # of 1,000 scenes 2.8% are out of distribution
    refused = [why for many in reasons for why in many if why not in (None, UNKNOWN_PICTURE)]
    assert not refused, refused


def test_the_other_sentences_of_a_caption_are_judged_where_they_stand(
    mini: VLV, scene: tuple[Image.Image, str]
) -> None:
    image, true = scene
    alone = mini.verify(image, true)
    caption = f"  A cat sleeps on a sofa. {true} Thank you!"
    marks = mini.verify(image, caption)
    assert [caption[one.start : one.end] for one in marks] == [one.text for one in marks]
    assert [one.verdict for one in marks[1:-1]] == [one.verdict for one in alone]
    assert [one.score for one in marks[1:-1]] == pytest.approx([one.score for one in alone])
    for one in (marks[0], marks[-1]):
        assert one.verdict == "cannot_judge"


def test_pictures_that_the_model_does_not_know_are_not_judged(
    mini: VLV, scene: tuple[Image.Image, str]
) -> None:
    image, true = scene
    pictures = [many[0] for many in overlaid([image]).values()]
    pictures += [named[min(named)] for named in other_pictures().values()]
    found = [verdicts(mini, one, f"{true} A cat sleeps.") for one in pictures]
    every = list(chain.from_iterable(found))
    assert every.count("supported") <= 0.02 * len(every)
    (mark, *_) = mini.verify(pictures[-1], true)
    assert mark.reason == UNKNOWN_PICTURE


def test_what_is_known_of_the_picture_is_not_asked_again(
    mini: VLV, scene: tuple[Image.Image, str]
) -> None:
    image, true = scene
    z, (in_distribution,) = mini.encode_and_detect(image)
    again = mini.verify(image, true, z=z, in_distribution=in_distribution)
    # As text, since a standard error that is not known is no number, which equals nothing.
    assert str(again) == str(mini.verify(image, true))
    marks = mini.verify(image, true, z=z, in_distribution=False)
    assert {one.verdict for one in marks} == {"cannot_judge"}


def test_a_verifier_without_a_record_of_captions_judges_nothing(
    scene: tuple[Image.Image, str], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(resolve("vlv-mini"), tmp_path / "model"))
    (folder / "verifier" / "vlv_sentences.json").unlink()
    marks = VLV.from_pretrained(folder).verify(*scene)
    assert {one.verdict for one in marks} == {"cannot_judge"}
    assert all(one.reason and "vlv verifier" in one.reason for one in marks)


def test_a_decoder_that_overflows_vouches_for_nothing(scene: tuple[Image.Image, str]) -> None:
    model = VLV.from_pretrained("vlv-mini")
    with torch.no_grad():
        next(model.decoder.denoiser.parameters()).fill_(torch.inf)
    marks = model.verify(*scene)
    assert {one.verdict for one in marks} == {"cannot_judge"}
    assert all(one.reason and "no finite number" in one.reason for one in marks)


def test_a_photograph_is_not_called_supported(mini: VLV) -> None:
    photograph = other_pictures()["photographs"]["chelsea"]
    (mark,) = mini.verify(photograph, "A giraffe eats pizza on the moon.")
    assert (mark.verdict, mark.supported) == ("cannot_judge", None)


def test_words_over_a_scene_are_noticed(mini: VLV, scene: tuple[Image.Image, str]) -> None:
    image = scene[0].resize((256, 256), Image.Resampling.BICUBIC)
    ImageDraw.Draw(image).text((20, 90), "FOR SALE", "white", font_size=50)
    assert set(verdicts(mini, image, scene[1])) == {"cannot_judge"}
