"""Pictures through embeddings and through captions, composition, and their seeds."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.inference.reconstructing import reconstruct_images
from tests.tiny import CAPTIONS, plain, save_pictures

from vlv.errors import ConfigError, DatasetError
from vlv.inference.embeddings import SavedEmbeddings, save_embeddings, saved_as_encoded
from vlv.inference.encoding import encode_images
from vlv.inference.reconstruction import (
    DrawSettings,
    Reconstructed,
    compose_pictures,
    reconstruct_encoded,
)
from vlv.inference.records import ImageInput, Refused
from vlv.pipeline import VLV

FAST = DrawSettings(num_inference_steps=2, seed=5)


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture).astype(int)


def close(one: Image.Image, other: Image.Image) -> bool:
    """Equal but for the rounding of sums in another order."""
    return bool(np.abs(pixels(one) - pixels(other)).max() <= 1)


@pytest.fixture
def images(tmp_path: Path) -> list[ImageInput]:
    save_pictures(tmp_path)
    return [ImageInput.of_file(tmp_path / f"{color}.png") for color in CAPTIONS]


def drawn(results: list[Reconstructed | Refused]) -> list[Reconstructed]:
    assert all(isinstance(one, Reconstructed) for one in results)
    return [one for one in results if isinstance(one, Reconstructed)]


def test_a_picture_is_the_models_and_does_not_depend_on_its_company(
    model: VLV, images: list[ImageInput]
) -> None:
    together = drawn(list(reconstruct_images(model, images, FAST)))
    in_pairs = drawn(list(reconstruct_images(model, images, FAST, batch_size=2)))
    (alone,) = drawn(list(reconstruct_images(model, images[2:], FAST)))
    assert [one.name for one in together] == [source.name for source in images]
    assert all(close(a.picture, b.picture) for a, b in zip(together, in_pairs, strict=True))
    assert close(together[2].picture, alone.picture)
    (expected,) = model.reconstruct(plain("lime"), seeds=[5], num_inference_steps=2).images
    assert close(alone.picture, expected)
    assert "caption_decoder" not in model.loaded


def test_the_seed_and_the_guidance_scale_matter(model: VLV, images: list[ImageInput]) -> None:
    def draw(settings: DrawSettings) -> np.ndarray:
        return pixels(drawn(list(reconstruct_images(model, images[:1], settings)))[0].picture)

    one = draw(FAST)
    assert (draw(DrawSettings(num_inference_steps=2, seed=6)) != one).any()
    assert (draw(DrawSettings(num_inference_steps=2, seed=5, guidance_scale=8.0)) != one).any()
    assert (draw(DrawSettings(num_inference_steps=2, seed=5, scheduler="euler")) != one).any()


def test_a_bad_image_is_refused_in_its_place(model: VLV, images: list[ImageInput]) -> None:
    mixed = [images[0], ImageInput("bad", b"x"), images[1]]
    for via in ("embeddings", "caption", "both"):
        results = list(reconstruct_images(model, mixed, FAST, via=via, batch_size=2))
        assert [one.name for one in results] == [images[0].name, "bad", images[1].name]
        assert isinstance(results[1], Refused)
        assert results[1].reason == "unknown-format"


def test_via_caption_draws_what_the_caption_says(model: VLV, images: list[ImageInput]) -> None:
    results = drawn(list(reconstruct_images(model, images, FAST, via="caption", batch_size=2)))
    assert [one.caption for one in results] == list(CAPTIONS.values())
    expected = model.draw(list(CAPTIONS.values()), seeds=[5] * 3, num_inference_steps=2).images
    assert all(close(one.picture, other) for one, other in zip(results, expected, strict=True))
    assert not any(one.cut for one in results)


def test_via_both_draws_from_z_and_then_from_the_caption(
    model: VLV, images: list[ImageInput]
) -> None:
    many = DrawSettings(num_inference_steps=4, seed=5)
    mixed = [images[0], ImageInput("bad", b"x"), images[1]]
    encoded = encode_images(model, mixed, batch_size=2)
    made = reconstruct_encoded(model, encoded, many, via="both", caption_start=0.4, batch_size=2)
    results = [one for one in made if isinstance(one, Reconstructed)]
    texts = list(CAPTIONS.values())[:2]
    assert [one.caption for one in results] == texts
    z = model.encode([plain(color) for color in list(CAPTIONS)[:2]])
    expected = model.reconstruct(z, captions=texts, caption_start=0.4, **many.drawing(2)).images
    assert all(close(one.picture, other) for one, other in zip(results, expected, strict=True))


def test_a_caption_longer_than_the_text_tower_is_noted(model: VLV) -> None:
    assert model.text_tower.reads_whole(CAPTIONS["red"])
    assert not model.text_tower.reads_whole(CAPTIONS["red"] * 20)


def test_saved_embeddings_draw_what_their_images_draw(model: VLV, images: list[ImageInput]) -> None:
    z = model.encode([plain(color) for color in CAPTIONS]).cpu()
    saved = SavedEmbeddings(z, list(CAPTIONS), "tiny")
    of_z = drawn(list(reconstruct_encoded(model, saved_as_encoded(model, saved), FAST)))
    of_images = drawn(list(reconstruct_images(model, images, FAST)))
    assert [one.name for one in of_z] == list(CAPTIONS)
    assert all(close(a.picture, b.picture) for a, b in zip(of_z, of_images, strict=True))


@pytest.mark.parametrize("shape", [(1, 6, 17), (1, 78, 16)])
def test_embeddings_of_another_model_are_refused(model: VLV, shape: tuple[int, ...]) -> None:
    saved = SavedEmbeddings(torch.zeros(shape), ["a.png"], "some-other-model")
    with pytest.raises(ConfigError, match="some-other-model"):
        saved_as_encoded(model, saved)


def test_composition_of_images_and_of_saved_embeddings(model: VLV, tmp_path: Path) -> None:
    images = [tmp_path / "a.png", tmp_path / "b.png"]
    files = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for image, file, color in zip(images, files, CAPTIONS, strict=False):
        plain(color).save(image)
        save_embeddings(file, model.encode(plain(color)), [image.name], "tiny")
    keep = {"keep_a": 4, "keep_b": 2, "settings": FAST}
    a, b = images
    picture = compose_pictures(model, a, b, **keep)
    assert close(compose_pictures(model, *files, **keep), picture)
    assert close(compose_pictures(model, a, files[1], **keep), picture)
    assert not close(compose_pictures(model, b, a, **keep), picture)
    # All of A and nothing of B is A.
    (whole,) = model.reconstruct(plain("red"), seeds=[5], num_inference_steps=2).images
    assert close(compose_pictures(model, a, b, keep_a=6, keep_b=0, settings=FAST), whole)


def test_impossible_compositions_are_refused(model: VLV, tmp_path: Path) -> None:
    image, two = tmp_path / "a.png", tmp_path / "two.safetensors"
    plain("red").save(image)
    save_embeddings(two, torch.zeros(2, 6, 16), ["a", "b"], "tiny")
    with pytest.raises(ConfigError, match="Cannot keep 7"):
        compose_pictures(model, image, image, keep_a=7, keep_b=0, settings=FAST)
    with pytest.raises(ConfigError, match="of 2 images"):
        compose_pictures(model, image, two, keep_a=1, keep_b=1, settings=FAST)
    with pytest.raises(DatasetError, match="missing"):
        compose_pictures(
            model, image, tmp_path / "missing.safetensors", keep_a=1, keep_b=1, settings=FAST
        )
