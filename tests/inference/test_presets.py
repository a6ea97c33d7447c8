"""The authors' settings: their post-processing case by case, and what reaches the models."""

from typing import Any

import pytest
from PIL import Image
from tests.inference.reconstructing import reconstruct_images
from tests.tiny import CAPTIONS, png

from vlv.errors import ConfigError
from vlv.inference.captioning import caption_images
from vlv.inference.presets import caption_settings, draw_settings, preset
from vlv.inference.records import ImageInput
from vlv.pipeline import VLV

AUTHORS = preset("authors")


@pytest.mark.parametrize(
    ("written", "caption"),
    [
        # Ends with ".": nothing is cut.
        ("A cube. A cone.", "A cube. A cone."),
        # Does not: cut after the last ".".
        ("A cube. A cone", "A cube."),
        ("A cube. Is it red?", "A cube."),
        ("A cube. Stop!", "A cube."),
        ('It says "go." Then', 'It says "go.'),
        ("It is 3.5 m high and", "It is 3."),
        # No "." at all: kept.
        ("A cube that never ends", "A cube that never ends"),
        ("Is it red? Yes", "Is it red? Yes"),
        # Repeats that are equal to the letter go, wherever they stand.
        ("A cube. A cone. A cube.", "A cube. A cone."),
        ("No! No! No.", "No! No."),
        ("Why? Why? A cube.", "Why? A cube."),
        ("a cube. A cube.", "a cube. A cube."),
        ('It says "go." It says "go." A cone.', 'It says "go." It says "go." A cone.'),
        # A sign without white space after it separates nothing.
        ("A cube.A cube.", "A cube.A cube."),
        # Joined with one blank.
        ("A cube.\n\nA cone.   A ball.", "A cube. A cone. A ball."),
        # First cut, then repeats.
        ("A cube. A cube. A cu", "A cube."),
        ("", ""),
    ],
)
@pytest.mark.parametrize("ended", [True, False])
def test_post_processing(written: str, caption: str, ended: bool) -> None:
    assert AUTHORS.captions.cleaning.apply(written, ended) == caption


def source(color: str) -> ImageInput:
    return ImageInput(color, png(color))


def spy(monkeypatch: pytest.MonkeyPatch, target: Any, name: str) -> list[dict[str, Any]]:
    """The keyword arguments of every call, which still does its work."""
    calls: list[dict[str, Any]] = []
    real = getattr(target, name)

    def recorded(*args: Any, **kwargs: Any) -> Any:
        calls.append(kwargs)
        return real(*args, **kwargs)

    monkeypatch.setattr(target, name, recorded)
    return calls


def test_the_settings_of_captions_reach_the_language_model(
    model: VLV, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = spy(monkeypatch, model.caption_decoder.lm, "generate")
    (made,) = caption_images(model, [source("red")], AUTHORS.captions)
    assert made.caption and made.caption in CAPTIONS["red"]
    (config,) = [call["generation_config"] for call in calls]
    assert (config.num_beams, config.max_new_tokens) == (4, 300)
    assert (config.early_stopping, config.do_sample) == (True, False)
    list(caption_images(model, [source("red")]))
    assert calls[1]["generation_config"].early_stopping is False


def test_the_settings_of_pictures_reach_the_decoder(
    model: VLV, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = spy(monkeypatch, model.decoder, "generate")
    (drawn,) = reconstruct_images(model, [source("red")], AUTHORS.drawing)
    assert isinstance(drawn.picture, Image.Image)
    (call,) = calls
    assert (call["guidance_scale"], call["num_inference_steps"]) == (2.0, 50)
    assert call["scheduler"] == "ddpm"


def test_what_is_given_wins() -> None:
    given = {"num_beams": 2, "max_new_tokens": None, "drop_unfinished": False}
    settings = caption_settings(AUTHORS, given)
    assert (settings.num_beams, settings.max_new_tokens, settings.early_stopping) == (2, 300, True)
    cut = "A cube. A cube. A cu"
    assert settings.cleaning.apply(cut, ended=False) == "A cube. A cu"
    drawing = draw_settings(AUTHORS, {"scheduler": "ddim", "seed": 7, "guidance_scale": None})
    assert (drawing.scheduler, drawing.seed, drawing.guidance_scale) == ("ddim", 7, 2.0)


def test_without_a_name_nothing_is_changed() -> None:
    usual = preset(None)
    assert caption_settings(usual, {}) == usual.captions == type(usual.captions)()
    assert draw_settings(usual, {}) == usual.drawing == type(usual.drawing)()
    assert usual.dtype is None
    with pytest.raises(ConfigError, match="authors"):
        preset("paper")


def test_what_belongs_to_the_model_is_named_where_it_differs(model: VLV) -> None:
    assert preset(None).differences(model) == []
    assert AUTHORS.differences(model) == ["crop_size None instead of 384"]
    settings = model.encoder.settings
    model.encoder.settings = settings.model_copy(update={"crop_size": 384, "prompt": "Draw it."})
    assert AUTHORS.differences(model) == ["prompt Draw it. instead of <MORE_DETAILED_CAPTION>"]
