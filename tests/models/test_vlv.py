"""The composed model's use: one or many images, seeds, composition."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from vlv.data.images import load_image
from vlv.errors import ConfigError
from vlv.models.preprocessing import decoder_pixels
from vlv.pipeline import VLV


def _pixels(images: list[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(image).astype(int) for image in images])


def test_encode_takes_one_image_or_many_in_batches(model: VLV, images: list[Image.Image]) -> None:
    z = model.encode(images)
    assert z.shape == (3, 6, 16)
    assert not z.requires_grad
    assert torch.allclose(model.encode(images, batch_size=2), z, atol=1e-5)
    assert torch.allclose(model.encode(images[1]), z[1:2], atol=1e-5)
    with pytest.raises(ConfigError, match="no images"):
        model.encode([])


@pytest.mark.parametrize("number", [1, 4, 6])
def test_the_first_embeddings_are_used_alone(
    model: VLV, images: list[Image.Image], number: int
) -> None:
    z = model.encode(images, num_queries=number)
    assert torch.allclose(z, model.encode(images)[:, :number], atol=1e-5)
    settings = {"seeds": [4, 5, 6], "num_inference_steps": 2}
    drawn = model.reconstruct(images, num_queries=number, **settings).images
    of_all = model.reconstruct(model.encode(images), num_queries=number, **settings).images
    assert (_pixels(drawn) == _pixels(model.reconstruct(z, **settings).images)).all()
    assert np.abs(_pixels(drawn) - _pixels(of_all)).max() <= 1
    whole = model.reconstruct(images, **settings).images
    assert (np.abs(_pixels(drawn) - _pixels(whole)).max() > 1) == (number < 6)


@pytest.mark.parametrize("number", [0, 7, -1])
def test_there_must_be_as_many_embeddings(
    model: VLV, images: list[Image.Image], number: int
) -> None:
    with pytest.raises(ConfigError, match=f"num_queries must be 1 to 6, .* not {number}$"):
        model.encode(images, num_queries=number)
    with pytest.raises(ConfigError, match="num_queries must be 1 to 6"):
        model.reconstruct(model.encode(images), num_queries=number, num_inference_steps=2)
    with pytest.raises(ConfigError, match="num_queries must be 1 to 6"):
        model.caption(images, num_queries=number)


def test_captions_come_in_the_order_of_the_images(model: VLV, images: list[Image.Image]) -> None:
    captions = model.caption(images, batch_size=2, num_beams=2, max_new_tokens=8)
    assert len(captions) == 3
    z = model.encode(images)
    assert model.caption_from_z(z, num_beams=2, max_new_tokens=8) == captions
    made = model.caption_decoder.generate(model.read(z), num_beams=2, max_new_tokens=8)
    assert [one.text for one in made] == captions


def test_images_and_their_embeddings_draw_the_same(model: VLV, images: list[Image.Image]) -> None:
    settings = {"seeds": [4, 5, 6], "num_inference_steps": 2}
    of_images = model.reconstruct(images, **settings).images
    of_z = model.reconstruct(model.encode(images), **settings).images
    in_batches = model.reconstruct(images, batch_size=2, **settings).images
    assert (_pixels(of_images) == _pixels(of_z)).all()
    assert np.abs(_pixels(of_images) - _pixels(in_batches)).max() <= 1
    (single,) = model.reconstruct(images[2], seeds=[6], num_inference_steps=2).images
    assert np.abs(_pixels(of_images[2:]) - _pixels([single])).max() <= 1


def _file(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def _files() -> dict[str, bytes]:
    """Images whose stored samples are not what a viewer shows."""
    rng = np.random.default_rng(0)
    rgba = Image.fromarray(rng.integers(0, 255, (20, 12, 4), np.uint8), "RGBA")
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    palette = rgba.convert("RGB").quantize(8)
    deep = Image.fromarray(np.linspace(0, 65535, 240).reshape(20, 12).astype(np.uint16))
    return {
        "RGBA": _file(rgba, "PNG"),
        "LA": _file(rgba.convert("LA"), "PNG"),
        "transparent color": _file(palette, "PNG", transparency=3),
        "16 bits": _file(deep, "PNG"),
        "CMYK": _file(rgba.convert("RGB").convert("CMYK"), "JPEG", quality=95),
        "turned": _file(rgba.convert("RGB"), "PNG", exif=turned),
    }


@pytest.mark.parametrize("name", sorted(_files()))
def test_images_of_every_mode_are_seen_as_the_command_shows_them(model: VLV, name: str) -> None:
    data = _files()[name]
    opened, shown = Image.open(io.BytesIO(data)), load_image(data)
    assert torch.equal(model.encode(opened), model.encode(shown))
    drawing = {"seeds": [1], "num_inference_steps": 1}
    pictures = [_pixels(model.reconstruct(one, **drawing).images) for one in (opened, shown)]
    assert np.array_equal(*pictures)
    size = model.decoder.image_size
    assert np.array_equal(decoder_pixels(opened, size), decoder_pixels(shown, size))


def test_a_generator_decides_all_pictures(model: VLV, images: list[Image.Image]) -> None:
    def draw(seed: int, batch_size: int = 16) -> np.ndarray:
        generator = torch.Generator().manual_seed(seed)
        pictures = model.reconstruct(
            images, generator=generator, num_inference_steps=2, batch_size=batch_size
        )
        return _pixels(pictures.images)

    assert (draw(1) == draw(1)).all()
    assert np.abs(draw(1) - draw(1, batch_size=1)).max() <= 1
    assert (draw(1) != draw(2)).any()
    with pytest.raises(ConfigError, match="not both"):
        model.reconstruct(images, generator=torch.Generator(), seeds=[1, 2, 3])
    with pytest.raises(ConfigError, match=r"one for each picture, such as \[3\]"):
        model.reconstruct(images, seeds=3)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"one torch\.Generator, .* not list; `seeds`"):
        model.draw("a cube", generator=[torch.Generator()])  # type: ignore[arg-type]


def test_guidance_uses_the_empty_text_s_context(model: VLV, images: list[Image.Image]) -> None:
    settings = {"seeds": [1, 2, 3], "num_inference_steps": 3}
    drawn = model.reconstruct(images, guidance_scale=5.0, **settings).images
    c = model.condition(model.encode(images))
    expected = model.decoder.generate(
        c, uncond=model.text_tower.unconditional(1, 6), guidance_scale=5.0, **settings
    )
    assert (_pixels(drawn) == _pixels(expected)).all()


def test_a_text_is_drawn_from_its_own_conditioning(model: VLV) -> None:
    settings = {"seeds": [3], "num_inference_steps": 2}
    (drawn,) = model.draw(["a red cube"], **settings).images
    z, _ = model.text_tower.token_embeddings(["a red cube"])
    (expected,) = model.reconstruct(z, **settings).images
    assert (_pixels([drawn]) == _pixels([expected])).all()


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_a_caption_takes_the_place_of_z_in_the_last_steps(
    model: VLV, images: list[Image.Image], guidance_scale: float
) -> None:
    settings = {"seeds": [1, 2, 3], "num_inference_steps": 4, "guidance_scale": guidance_scale}
    texts = ["a red cube", "a sphere", "two cones"]
    of_z = _pixels(model.reconstruct(images, **settings).images)

    def drawn(start: float, **fewer: int) -> np.ndarray:
        both = {"captions": texts, "caption_start": start}
        return _pixels(model.reconstruct(images, **both, **fewer, **settings, batch_size=2).images)

    # No step is that late.
    assert np.abs(drawn(0.9999) - of_z).max() <= 1
    late, early = drawn(0.7), drawn(0.2)
    assert np.abs(late - of_z).max() > 1
    assert np.abs(late - early).max() > 1
    assert np.abs(drawn(0.7, num_queries=3) - late).max() > 1


def test_z_of_a_text_followed_by_the_text_is_the_text(model: VLV) -> None:
    settings = {"seeds": [3], "num_inference_steps": 4}
    (drawn,) = model.draw(["a red cube"], **settings).images
    z, _ = model.text_tower.token_embeddings(["a red cube"])
    (both,) = model.reconstruct(z, captions="a red cube", caption_start=0.5, **settings).images
    assert np.abs(_pixels([drawn]) - _pixels([both])).max() <= 1
    (other,) = model.reconstruct(z, captions="a sphere", caption_start=0.5, **settings).images
    assert np.abs(_pixels([drawn]) - _pixels([other])).max() > 1


@pytest.mark.parametrize(
    ("captions", "start", "fault"),
    [
        (["one"], 0.5, "Got 1 captions for 3 images"),
        (["a", "b", "c"], 0.0, "between 0 and 1, not at 0"),
        (["a", "b", "c"], 1.0, "between 0 and 1, not at 1"),
        (["a", "b", "c"], float("nan"), "between 0 and 1, not at nan"),
    ],
)
def test_captions_that_cannot_take_the_place_of_z_are_refused(
    model: VLV, images: list[Image.Image], captions: list[str], start: float, fault: str
) -> None:
    with pytest.raises(ConfigError, match=fault):
        model.reconstruct(images, captions=captions, caption_start=start)


def test_composition_joins_the_first_embeddings_of_both(
    model: VLV, images: list[Image.Image]
) -> None:
    a, b = images[0], images[1]
    settings = {"seeds": [3], "num_inference_steps": 2}
    z_a, z_b = model.encode(a), model.encode(b)
    (drawn,) = model.compose(a, b, 4, 5, **settings).images
    joined = torch.cat([z_a[:, :4], z_b[:, :5]], dim=1)
    (expected,) = model.reconstruct(joined, **settings).images
    assert (_pixels([drawn]) == _pixels([expected])).all()
    (last,) = model.compose(a, b, 4, 2, "trailing", **settings).images
    at_their_places = torch.cat([z_a[:, :4], z_b[:, 4:]], dim=1)
    (expected,) = model.reconstruct(at_their_places, **settings).images
    assert (_pixels([last]) == _pixels([expected])).all()
    (only_a,) = model.compose(z_a, z_b, 6, 0, **settings).images
    (itself,) = model.reconstruct(a, **settings).images
    assert (_pixels([only_a]) == _pixels([itself])).all()


@pytest.mark.parametrize(("keep_a", "keep_b"), [(7, 1), (-1, 3), (0, 0)])
def test_impossible_compositions_are_refused(
    model: VLV, images: list[Image.Image], keep_a: int, keep_b: int
) -> None:
    with pytest.raises(ConfigError, match=f"Cannot keep {keep_a} and {keep_b}"):
        model.compose(images[0], images[1], keep_a, keep_b)


def test_a_composition_must_fit_the_text_tower(model: VLV, images: list[Image.Image]) -> None:
    z = torch.zeros(1, 50, 16)
    with pytest.raises(ConfigError, match="1 to 77"):
        model.compose(z, z, 40, 38)
    with pytest.raises(ConfigError, match="as many of each"):
        model.compose(images, images[0], 2, 2)


def test_embeddings_of_another_shape_are_refused(model: VLV, images: list[Image.Image]) -> None:
    """Those of one image without a batch dimension would be broadcast to a picture of nothing."""
    z = model.encode(images)
    refused = {
        r"\(6, 16\); z\[None\] are those of one": z[0],
        r"not \(0, 6, 16\)": z[:0],
        r"not \(3, 78, 16\)": z.repeat(1, 13, 1),
        r"1 to 77, 16\), not \(3, 6, 15\)": z[..., :15],
    }
    for message, wrong in refused.items():
        with pytest.raises(ConfigError, match=message):
            model.reconstruct(wrong, num_inference_steps=1)
        if len(wrong):
            with pytest.raises(ConfigError, match=message):
                model.caption_from_z(wrong, num_beams=1, max_new_tokens=1)
    of_z = VLV.from_boxes(
        encoder=model.encoder, caption_decoder=model.caption_decoder, captions_from="z"
    )
    assert len(of_z.caption_from_z(z, num_beams=1, max_new_tokens=1)) == 3
    for wrong in (z[0], z[..., :15], z.repeat(1, 2, 1)):
        with pytest.raises(ConfigError, match=r"1 to 6, 16\), not"):
            of_z.caption_from_z(wrong, num_beams=1, max_new_tokens=1)
    alone = VLV.from_boxes(caption_decoder=model.caption_decoder, captions_from="z")
    assert len(alone.caption_from_z(z, num_beams=1, max_new_tokens=1)) == 3
    with pytest.raises(ConfigError, match="Embeddings z have the shape"):
        model.compose(z[0], z[0], 2, 2, num_inference_steps=1)


def test_a_text_by_itself_is_one_text(model: VLV) -> None:
    settings = {"seeds": [3], "num_inference_steps": 1}
    (alone,) = model.draw("a red cube", **settings).images
    (listed,) = model.draw(["a red cube"], **settings).images
    assert (_pixels([alone]) == _pixels([listed])).all()
    with pytest.raises(ConfigError, match="no texts to draw"):
        model.draw([])


@pytest.mark.parametrize("count", [1, 4])
def test_every_image_has_its_seed_before_any_is_drawn(model: VLV, count: int) -> None:
    z = torch.zeros(2, 6, 16)
    with pytest.raises(ConfigError, match=f"Got {count} seeds for 2 pictures"):
        model.reconstruct(z, seeds=[0] * count, batch_size=1, num_inference_steps=1)
    with pytest.raises(ConfigError, match=r"Seeds must be whole numbers .*, got \[1, 1\.5\]"):
        model.reconstruct(z, seeds=[1, 1.5], batch_size=1, num_inference_steps=1)
    with pytest.raises(ConfigError, match="batch_size must be at least 1, not 0"):
        model.reconstruct(z, batch_size=0)


def test_what_is_no_picture_is_reported(model: VLV, images: list[Image.Image]) -> None:
    for wrong in ("scene.png", np.zeros((8, 8, 3), np.uint8), model.encode(images)):
        with pytest.raises(ConfigError, match="Images are PIL images"):
            model.caption([wrong])  # type: ignore[list-item]
    for alone, advice in (
        ("scene.png", "load_image"),
        (Path("scene.png"), "load_image"),
        (b"bytes", "load_image"),
        (np.zeros((8, 8, 3), np.uint8), "fromarray"),
        (torch.tensor(0.0), "caption_from_z"),
        (None, "a list of them"),
    ):
        kind = type(alone).__name__
        with pytest.raises(ConfigError, match=f"PIL images, not {kind}: .*{advice}"):
            model.encode(alone)  # type: ignore[arg-type]


def test_settings_without_a_meaning_are_errors(model: VLV, images: list[Image.Image]) -> None:
    with pytest.raises(ConfigError, match="a temperature above 0 samples"):
        model.caption(images, do_sample=True)
    with pytest.raises(ConfigError, match="num_beams must be 1 or more, not 0"):
        model.caption(images, num_beams=0)
    z = model.encode(images, batch_size=np.int64(2))
    for wrong in (
        {"num_beams": "2"},
        {"num_beams": 2, "num_return_sequences": 3},
        {"beams": 2},
        {"batch_size": "auto"},
    ):
        with pytest.raises(ConfigError, match=next(reversed(wrong))):
            model.caption_from_z(z, **wrong)
    with pytest.raises(ConfigError, match="batch_size must be a whole number, not 'auto'"):
        model.encode(images, batch_size="auto")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"num_queries must be a whole number, not 2\.5"):
        model.encode(images, num_queries=2.5)  # type: ignore[arg-type]


def test_embeddings_may_be_an_array(model: VLV, images: list[Image.Image]) -> None:
    z, few = model.encode(images), {"num_beams": 1, "max_new_tokens": 4}
    assert model.caption_from_z(z.numpy(), **few) == model.caption_from_z(z, **few)
    with pytest.raises(ConfigError, match=r"Embeddings z are a tensor .* not list"):
        model.caption_from_z(z.tolist(), **few)
