"""Evidence against sentences: the decoder finds a planted error and says what would be right."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image

from vlv.data.world_sets import world_samples
from vlv.errors import CheckpointError, ConfigError
from vlv.pipeline import VLV
from vlv.sentences import sentence_spans
from vlv.verification.alternatives import grounded_words
from vlv.verification.evidence import relative_gains, sentence_evidence
from vlv.verification.scorer import DenoisingScorer, VerifySettings, make_draws
from vlv.verification.verdicts import why
from vlv.world.render import render
from vlv.world.scene import sample_scene


@pytest.fixture(scope="module")
def scene() -> tuple[Image.Image, str, str]:
    """A held-out picture with a true caption, and the same caption with one colour exchanged."""
    (sample,) = world_samples(1, seed=13, split="test")
    true = str(sample.caption)
    color = sample.meta["scene"]["objects"][0]["color"]
    other = "blue" if color != "blue" else "red"
    return sample.picture(), true, true.replace(color, other, 1)


def test_words_that_the_picture_decides_are_facts_and_exchanged_for_their_like(mini: VLV) -> None:
    (sample,) = world_samples(1, seed=13, split="test")
    caption = str(sample.caption)
    seen = mini.read(mini.encode(sample.picture()))
    assert mini.verifier is not None
    words = grounded_words(mini.caption_decoder, seen, mini.read(mini.verifier.references), caption)
    found = {caption[word.start : word.end]: word for word in words}
    facts = sample.meta["scene"]["objects"][0]
    assert {facts["color"], facts["shape"]} <= found.keys()
    assert not {"a", "the"} & found.keys()
    colors = {"red", "green", "blue", "yellow", "purple", "cyan", "orange", "white"}
    exchanged = {other.word for other in found[facts["color"]].alternatives}
    assert exchanged <= colors - {facts["color"]}

    # A true caption leaves the model sure of most words, and what it nearly wrote is left.
    others = mini.read(mini.verifier.references)
    nearly = grounded_words(mini.caption_decoder, seen, others, caption, least_log_odds=-4.0)
    assert sum(len(word.alternatives) for word in nearly) < sum(
        len(word.alternatives) for word in words
    )
    assert all(one.log_odds >= -4.0 for word in nearly for one in word.alternatives)


def test_a_sure_language_model_leaves_log_odds_finite(
    scene: tuple[Image.Image, str, str],
) -> None:
    """Where it rounds probabilities to 0, of the word in a caption or of another one."""
    image, _, wrong = scene
    model = VLV.from_pretrained("vlv-mini")
    decoder = model.caption_decoder
    with torch.no_grad():
        decoder.lm.base_model.norm.weight.mul_(20)
    assert model.verifier is not None
    seen, others = model.read(model.encode(image)), model.read(model.verifier.references)
    expected = decoder.log_probabilities(seen, decoder.tokenizer(wrong)["input_ids"])
    assert expected.exp().min() == 0
    words = grounded_words(decoder, seen, others, wrong)
    odds = [other.log_odds for word in words for other in word.alternatives]
    assert odds and max(odds) > 100 and np.isfinite(odds).all()


def test_the_name_of_a_special_token_is_plain_text(
    mini: VLV, scene: tuple[Image.Image, str, str]
) -> None:
    image, true, _ = scene
    decoder, seen = mini.caption_decoder, mini.read(mini.encode(image))
    assert mini.verifier is not None
    text = f"Yes.{decoder.tokenizer.eos_token} {true}"
    encoded = decoder.tokenizer(
        text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
    )
    ids = encoded["input_ids"]
    expected = decoder.log_probabilities(seen, ids)
    words = grounded_words(decoder, seen, mini.read(mini.verifier.references), text)
    behind = [word for word in words if word.start > text.index(">")]
    assert behind
    for word in behind:
        at = next(at for at, (_, end) in enumerate(encoded["offset_mapping"]) if end == word.end)
        for other in word.alternatives:
            (token,) = decoder.tokenizer(f" {other.word}", add_special_tokens=False)["input_ids"]
            odds = float(expected[at, token] - expected[at, ids[at]])
            assert other.log_odds == pytest.approx(odds, abs=1e-4)


def test_a_planted_error_is_found_and_the_right_word_named(
    mini: VLV, scene: tuple[Image.Image, str, str]
) -> None:
    image, true, wrong = scene
    assert all(one.supported for one in mini.verify(image, true))
    marks = mini.verify(image, wrong)
    (bad,) = [one for one in marks if not one.supported]
    assert bad.better is not None
    better = wrong[: bad.better.start] + bad.better.word + wrong[bad.better.end :]
    assert better == true
    assert [wrong[one.start : one.end] for one in marks] == [one.text for one in marks]
    assert min(marks, key=lambda one: one.probability) is bad


@pytest.mark.parametrize("against", ["noise", "embeddings"])
def test_the_caption_that_is_true_explains_the_picture_better(
    mini: VLV, scene: tuple[Image.Image, str, str], against: Literal["noise", "embeddings"]
) -> None:
    image, true, wrong = scene
    settings = VerifySettings(against=against)
    scores = DenoisingScorer(mini, image, settings).score([wrong, true, ""])
    assert scores[1] > max(scores[0], scores[2])
    known = DenoisingScorer(mini, image, settings, z=mini.encode(image))
    assert known.score([wrong, true, ""]) == pytest.approx(scores)


def test_evidence_is_the_same_every_time_and_global_randomness_is_left_alone(
    mini: VLV, scene: tuple[Image.Image, str, str]
) -> None:
    image, true, _ = scene
    settings = VerifySettings(levels=(0.6,), repeats=4, per_word=1)
    references = mini.encode(image)
    torch.manual_seed(5)
    first = sentence_evidence(mini, image, true, references, settings)
    torch.rand(3)
    assert sentence_evidence(mini, image, true, references, settings) == first
    torch.manual_seed(5)
    expected = torch.rand(4)
    torch.manual_seed(5)
    sentence_evidence(mini, image, true, references, settings)
    assert torch.equal(torch.rand(4), expected)


def test_captions_longer_than_the_text_tower_reads_are_judged_sentence_by_sentence(
    mini: VLV, scene: tuple[Image.Image, str, str]
) -> None:
    image, true, wrong = scene
    long = " ".join([true, wrong, true, true])
    assert not mini.text_tower.reads_whole(long)
    marks = mini.verify(image, long)
    assert [one.text for one in marks] == [span.of(long) for span in sentence_spans(long)]
    unsupported = [one.start for one in marks if not one.supported]
    assert any(len(true) < start < len(true) + len(wrong) for start in unsupported)
    assert np.isfinite(DenoisingScorer(mini, image, VerifySettings()).score([long])[0])


def test_noise_comes_in_opposite_pairs_of_a_seed_alone(mini: VLV) -> None:
    latents = torch.zeros(1, 8, 8, 8)
    draws = make_draws(mini.decoder, latents, (0.3, 1.0), 2, seed=3)
    assert draws.timesteps.tolist() == [300, 300, 999, 999]
    assert torch.equal(draws.noise[0], -draws.noise[1])
    again = make_draws(mini.decoder, latents, (0.3, 1.0), 2, seed=3)
    assert torch.equal(draws.noise, again.noise)
    assert make_draws(mini.decoder, latents, (0.5,), 3).noise.shape == (3, 8, 8, 8)


def test_a_pair_of_opposite_draws_is_one_observation() -> None:
    before = torch.tensor([[4.0, 4.0, 4.0, 4.0], [2.0, 2.0, 2.0, 2.0]])
    # Of equal draws in a pair, the second one tells nothing new.
    pairs = torch.tensor([[0.4, 0.4, 0.8, 0.8], [0.2, 0.2, 0.4, 0.4]])
    gains, error = relative_gains(before, before - pairs)
    assert gains == pytest.approx((0.15, 0.15))
    assert error == pytest.approx(np.std([0.1, 0.2], ddof=1) / 2**0.5)
    # Where the draws of a pair are opposite, the mean is certain.
    assert relative_gains(before, before - pairs[:, [0, 2, 0, 2]])[1] == pytest.approx(0, abs=1e-7)
    assert np.isnan(relative_gains(before[:, :2], before[:, :2] - pairs[:, :2])[1])


def test_the_error_of_a_gain_is_that_of_a_ratio() -> None:
    """Errors of 12 independent pairs, whose sizes vary far more than the share by which they fall:
    the spread of the gain over many such sets is what each of them says.
    """
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(400):
        size = torch.rand(2, 12, generator=generator).add(0.2).repeat_interleave(2, dim=1)
        fall = 0.8 + 0.02 * torch.randn(2, 12, generator=generator).repeat_interleave(2, dim=1)
        gains, error = relative_gains(size, size * (1 - fall))
        found.append((np.mean(gains), error))
    means, errors = np.array(found).T
    assert np.sqrt(np.square(errors).mean()) == pytest.approx(means.std(), rel=0.15)


def test_a_caption_without_a_sentence_has_no_evidence(mini: VLV) -> None:
    assert mini.verify(Image.new("RGB", (64, 64)), "  ") == []


@pytest.mark.parametrize("wrong", [{"levels": ()}, {"levels": (0.0,)}, {"repeats": 0}])
def test_settings_that_mean_nothing_are_refused(wrong: dict) -> None:
    with pytest.raises(ConfigError):
        VerifySettings(**wrong)


def test_verify_takes_one_image_and_one_text(mini: VLV) -> None:
    image = Image.new("RGB", (64, 64))
    for images, caption in (([image, image], "A cube."), (image, ["A cube."])):
        with pytest.raises(ConfigError, match="one image and its caption"):
            mini.verify(images, caption)  # type: ignore[arg-type]


def test_a_model_without_a_verifier_says_so(tiny_model_dir: Path) -> None:
    with pytest.raises(CheckpointError, match="no verifier"):
        VLV.from_pretrained(tiny_model_dir).verify(Image.new("RGB", (64, 64)), "A red cube.")


def test_the_verifier_of_a_model_is_saved_with_it(mini: VLV, tmp_path: Path) -> None:
    assert mini.verifier is not None
    mini.save_pretrained(tmp_path / "model", components=["verifier"])
    again = VLV.from_pretrained(tmp_path / "model").verifier
    assert again is not None and again.settings == mini.verifier.settings
    assert torch.equal(again.references, mini.verifier.references)


def picture(seed: int) -> Image.Image:
    return Image.fromarray(render(sample_scene(seed, "test")))


def test_beside_a_wrong_light_true_sentences_are_not_accused(mini: VLV) -> None:
    """Judged in the caption as it is, this neighbour gains 0.13, far beyond any threshold."""
    verifier = mini.verifier
    assert verifier is not None
    caption = (
        "On a black floor, there is a large shiny yellow cylinder on the right side of the front "
        "row. Light falls from the right."
    )
    about, light = sentence_evidence(
        mini, picture(70025), caption, verifier.references, verifier.settings.verify
    )
    assert light.best is not None and light.best.word == "left"
    assert light.gain > 0.02 > 0.01 > about.gain
    marks = verifier.marks([about, light])
    assert [one.supported for one in marks] == [True, False]
    assert [caption[one.start : one.end] for one in marks] == [one.text for one in marks]


def test_a_number_at_the_start_of_a_caption_is_a_word_that_the_picture_decides(mini: VLV) -> None:
    """Captions begin in many ways, so that a number is unlikely there for any picture."""
    assert mini.verifier is not None
    decoder, others = mini.caption_decoder, mini.read(mini.verifier.references)
    counted = [(seed, sample_scene(seed, "test")) for seed in range(60002, 60012)]
    numbers = {2: ("Three", "Two"), 3: ("Two", "Three")}
    several = [(seed, scene) for seed, scene in counted if len(scene.objects) in numbers]
    assert len(several) > 5
    for seed, scene in several:
        wrong, right = numbers[len(scene.objects)]
        caption = f"{wrong} objects stand on a {scene.floor} floor lit from the {scene.light}."
        seen = mini.read(mini.encode(picture(seed)))
        first = grounded_words(decoder, seen, others, caption)[0]
        assert (first.start, first.end) == (0, len(wrong)), seed
        (other,) = first.alternatives
        assert other.word == right and other.log_odds > 3, seed


def test_a_number_that_the_decoder_does_not_heed_is_asked_of_the_caption_decoder(mini: VLV) -> None:
    verifier = mini.verifier
    assert verifier is not None
    right = "There are three objects on a black floor with light from the right."
    settings = replace(verifier.settings.verify, levels=(0.6,), per_nat=0.005)
    image = picture(60006)
    wrong = right.replace("three", "two", 1)
    found = {
        caption: sentence_evidence(mini, image, caption, verifier.references, settings)[0]
        for caption in (right, wrong)
    }
    assert found[right].gain < 0.01
    best = found[wrong].best
    assert best is not None and best.word == "three"
    assert abs(best.gain) < 0.01 < best.expected == best.evidence
    (mark, *_) = verifier.marks([found[wrong]])
    assert mark.supported is False
    assert why(wrong, mark) == "“three” for “two” (the caption decoder expects it)"
    alone = replace(settings, per_nat=0.0)
    assert sentence_evidence(mini, image, wrong, verifier.references, alone)[0].gain < 0.01
