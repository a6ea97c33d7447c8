"""Captions image by image: order, refusals, batches, sampling, and what is loaded for them."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.tiny import CAPTIONS, learn, plain, png

from vlv.errors import ConfigError
from vlv.inference.captioning import CaptionSettings, caption_images
from vlv.inference.loading import open_model
from vlv.inference.postprocess import Cleaning
from vlv.inference.records import Captioned, ImageInput, Refused
from vlv.pipeline import VLV

# Nothing is removed from captions.
WHOLE = Cleaning(drop_unfinished=False, drop_repeated=False)


def good_sources() -> list[ImageInput]:
    return [ImageInput(color, png(color)) for color in CAPTIONS]


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_one_caption_an_image_in_order(model: VLV, batch_size: int) -> None:
    results = list(caption_images(model, good_sources(), batch_size=batch_size))
    assert [(one.name, one.caption) for one in results] == list(CAPTIONS.items())
    assert all(one.ended and one.tokens > 3 for one in results)


def test_a_bad_image_is_refused_in_its_place(model: VLV, tmp_path: Path) -> None:
    red, blue, lime = good_sources()
    bad = [
        ImageInput("torn", png("red")[:40]),
        ImageInput("text", b"not an image"),
        ImageInput.of_file(tmp_path / "missing.png"),
    ]
    sources = [bad[0], red, bad[1], blue, bad[2], lime]
    for batch_size in (1, 2, 6):
        results = list(caption_images(model, sources, batch_size=batch_size))
        assert [one.name for one in results] == [one.name for one in sources]
        assert [one.reason for one in results if isinstance(one, Refused)] == [
            "truncated",
            "unknown-format",
            "unreadable",
        ]
        captions = [one.caption for one in results if isinstance(one, Captioned)]
        assert captions == list(CAPTIONS.values())


def test_results_come_batch_by_batch(model: VLV) -> None:
    taken = []

    def sources() -> Iterator[ImageInput]:
        for source in good_sources() * 2:
            taken.append(source.name)
            yield source

    results = caption_images(model, sources(), batch_size=1)
    assert taken == []
    next(results)
    assert len(taken) in (1, 2)  # the next one may be decoded already, but no more


def test_pictures_of_any_size_share_a_batch(model: VLV) -> None:
    sources = [ImageInput(c, png(c, (40 + 9 * i, 17))) for i, c in enumerate(CAPTIONS)]
    results = list(caption_images(model, sources))
    assert [one.caption for one in results] == list(CAPTIONS.values())


def test_a_caption_that_was_cut_off_is_mended_unless_asked_not_to(model: VLV) -> None:
    (red,) = good_sources()[:1]
    first = "A red cube stands on the left."
    whole = next(iter(caption_images(model, [red])))
    assert isinstance(whole, Captioned)
    limit = whole.tokens - 1

    def caption(cleaning: Cleaning) -> Captioned:
        settings = CaptionSettings(max_new_tokens=limit, cleaning=cleaning)
        (result,) = caption_images(model, [red], settings)
        assert isinstance(result, Captioned)
        return result

    mended, raw = caption(Cleaning()), caption(Cleaning(False, False))
    assert not mended.ended and not raw.ended
    assert mended.caption == first
    assert raw.caption.startswith(first + " The floor")


def test_min_new_tokens(model: VLV) -> None:
    (blue,) = good_sources()[1:2]
    settings = CaptionSettings(min_new_tokens=30, max_new_tokens=40)
    (result,) = caption_images(model, [blue], settings)
    assert isinstance(result, Captioned)
    assert result.tokens >= 30


def test_samples_follow_the_seed_and_leave_the_callers_generator_alone(model: VLV) -> None:
    def sample(seed: int) -> list[str]:
        settings = CaptionSettings(temperature=3.0, seed=seed, max_new_tokens=20)
        results = caption_images(model, good_sources(), settings, batch_size=2)
        return [one.caption if isinstance(one, Captioned) else one.reason for one in results]

    first = sample(1)
    state = torch.get_rng_state()
    assert sample(1) == first
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(5)
    assert sample(1) == first
    assert sample(2) != first


def test_batches_of_a_seed_are_sampled_independently(model: VLV) -> None:
    settings = CaptionSettings(temperature=3.0, max_new_tokens=20)
    red = good_sources()[0]
    one, other = caption_images(model, [red, red], settings, batch_size=1)
    assert one != other


def test_an_empty_caption_is_a_refusal(model: VLV) -> None:
    learn(model, {"red": ""}, steps=40)
    (result,) = caption_images(model, good_sources()[:1])
    assert isinstance(result, Refused)
    assert result.reason == "empty-caption"
    assert "red" in result.message


def test_several_captions_an_image_are_the_best_beams(model: VLV) -> None:
    settings = CaptionSettings(num_beams=4, num_return_sequences=3, max_new_tokens=30)
    for batch_size in (1, 2):
        results = list(caption_images(model, good_sources(), settings, batch_size=batch_size))
        assert [one.texts[0] for one in results] == list(CAPTIONS.values())
        assert all(len(set(one.texts)) == len(one.texts) == 3 for one in results)
    alone = list(caption_images(model, good_sources()))
    assert [one.caption for one in alone] == [one.caption for one in results]
    assert all(len(one.captions) == 1 for one in alone)
    texts = model.caption([plain("red"), plain("blue")], num_beams=2, num_return_sequences=2)
    assert (len(texts), texts[0], texts[2]) == (4, CAPTIONS["red"], CAPTIONS["blue"])


def test_several_samples_an_image_follow_the_seed(model: VLV) -> None:
    settings = CaptionSettings(
        temperature=3.0, num_return_sequences=5, max_new_tokens=12, cleaning=Cleaning(False, False)
    )
    (first,), (again,) = (
        tuple(caption_images(model, good_sources()[:1], settings)) for _ in range(2)
    )
    assert isinstance(first, Captioned) and first == again
    assert len(first.captions) == 5 and len(set(first.texts)) > 1


def test_empty_captions_among_several_are_left_out(model: VLV) -> None:
    learn(model, {"red": ""}, steps=40)
    settings = CaptionSettings(num_return_sequences=3, max_new_tokens=20)
    (result,) = caption_images(model, good_sources()[:1], settings)
    assert isinstance(result, Captioned)
    assert len(result.captions) < 3 and all(result.texts)


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_return_sequences": 5},
        {"num_return_sequences": 0, "temperature": 1.0},
        {"num_return_sequences": 3, "temperature": 1.0, "num_beams": 2},
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_p": float("nan"), "temperature": 1.0},
        {"max_new_tokens": 0},
        {"banned_words": "cat"},
        {"top_p": 0.0, "temperature": 1.0},
        {"top_p": 0.5},
        {"min_new_tokens": 10, "max_new_tokens": 5},
        {"seed": -1},
        {"num_beams": 2.5},
        {"num_beams": "4"},
        {"temperature": "1"},
        {"forced_start": 3},
    ],
)
def test_impossible_settings_are_refused(wrong: dict) -> None:
    name = next(iter(wrong))
    with pytest.raises(ConfigError, match=name):
        CaptionSettings(**wrong)


def test_numbers_of_numpy_become_numbers_that_a_job_can_record() -> None:
    settings = CaptionSettings(num_beams=np.int64(1), temperature=np.float32(0.5), seed=np.uint8(3))
    assert json.dumps([settings.num_beams, settings.temperature, settings.seed]) == "[1, 0.5, 3]"


def test_sampling_uses_one_beam_unless_asked_otherwise() -> None:
    assert CaptionSettings().generation()["num_beams"] == 4
    assert CaptionSettings(temperature=1.0).generation()["num_beams"] == 1
    assert CaptionSettings(temperature=1.0, num_beams=3).generation()["num_beams"] == 3


def test_captioning_opens_no_diffusion_decoder(tiny_model_dir: Path) -> None:
    model = open_model(tiny_model_dir)
    (result,) = caption_images(model, good_sources()[:1])
    assert isinstance(result, Captioned)
    assert model.loaded == ["encoder", "text_tower", "caption_decoder"]


@pytest.mark.slow
def test_captioning_loads_neither_the_diffusion_decoder_nor_its_pipelines(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    """In a process of its own, since other tests have imported everything."""
    (tmp_path / "red.png").write_bytes(png("red"))
    script = f"""
import sys
from pathlib import Path
from vlv.inference.captioning import caption_images
from vlv.inference.records import ImageInput
from vlv.inference.loading import open_model
model = open_model({str(tiny_model_dir)!r})
(result,) = caption_images(model, [ImageInput.of_file(Path({str(tmp_path / "red.png")!r}))])
print(result.caption)
print(model.loaded, [name for name in sys.modules if name.startswith("diffusers.pipelines.")])
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    caption, loaded = ran.stdout.splitlines()
    assert caption == CAPTIONS["red"]
    assert loaded == "['encoder', 'text_tower', 'caption_decoder'] []"


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("number", [1, 4])
def test_captions_of_the_first_embeddings_read_no_others(
    model: VLV, monkeypatch: pytest.MonkeyPatch, number: int, beams: int
) -> None:
    settings = {"num_beams": beams, "max_new_tokens": 12}
    z = model.encode([plain(color) for color in CAPTIONS])[:, :number]
    expected = model.caption_from_z(z, **settings)
    prefills: list[int] = []

    def count(_module: object, _args: object, given: dict, _out: object) -> None:
        if given.get("inputs_embeds") is not None:
            prefills.append(given["inputs_embeds"].shape[1])

    handle = model.caption_decoder.lm.base_model.register_forward_hook(count, with_kwargs=True)
    made = list(
        caption_images(
            model,
            good_sources(),
            CaptionSettings(num_queries=number, cleaning=WHOLE, **settings),
        )
    )
    handle.remove()
    texts = [one.caption for one in made if isinstance(one, Captioned)]
    assert texts == [text for text in expected if text] and texts
    # The whole prefill of each batch: what is not read costs nothing.
    longest = max(prefills)
    assert longest <= number
    with pytest.raises(ConfigError, match="num_queries must be 1 to 6"):
        list(caption_images(model, good_sources(), CaptionSettings(num_queries=7)))


def test_captions_begin_as_they_are_asked_to(model: VLV) -> None:
    start = "A red cube"
    for beams in (1, 3):
        settings = CaptionSettings(num_beams=beams, forced_start=start, max_new_tokens=20)
        for result in caption_images(model, good_sources(), settings):
            assert isinstance(result, Captioned)
            assert result.caption.startswith(start)
            assert result.tokens <= 20
    (red,) = caption_images(model, good_sources()[:1], CaptionSettings(forced_start=start))
    assert isinstance(red, Captioned) and red.caption == CAPTIONS["red"]


def test_banned_words_are_not_written(model: VLV) -> None:
    for beams in (1, 4):
        settings = CaptionSettings(num_beams=beams, banned_words=("Red", "the"), max_new_tokens=25)
        for result in caption_images(model, good_sources(), settings):
            assert isinstance(result, Captioned)
            assert not {"red", "the"} & set(result.caption.lower().replace(".", "").split())


def test_what_was_refused_before_keeps_its_place(model: VLV) -> None:
    refused = Refused("shard", "unreadable", "the shard is damaged")
    red, *_ = good_sources()
    results = list(caption_images(model, [refused, red, refused]))
    assert results[0] == results[2] == refused
    assert isinstance(results[1], Captioned) and results[1].in_distribution is None
