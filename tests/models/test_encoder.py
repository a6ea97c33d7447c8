import numpy as np
import pytest
import torch
from PIL import Image

from vlv.pipeline import VLV


def test_z_has_one_embedding_a_query(model: VLV, images: list[Image.Image]) -> None:
    pixels = model.encoder.preprocess(images)
    assert pixels.shape == (3, 3, 32, 32)
    z = model.encoder(pixels)
    assert z.shape == (3, 6, 16)
    assert z.dtype == torch.float32
    assert (z[0] - z[1]).abs().max() > 1e-3


def test_preprocess_normalises_with_the_settings(model: VLV) -> None:
    red = Image.new("RGB", (32, 32), (255, 0, 51))
    values = model.encoder.preprocess([red])[0, :, 5, 7]
    settings = model.encoder.settings
    expected = (np.array([1.0, 0.0, 0.2]) - settings.image_mean) / settings.image_std
    np.testing.assert_allclose(values.numpy(), expected, rtol=1e-5)


def test_preprocess_of_bytes_gives_the_same_values(model: VLV, images: list[Image.Image]) -> None:
    stacked = torch.from_numpy(np.stack([np.asarray(image) for image in images]))
    assert torch.equal(model.encoder.preprocess_uint8(stacked), model.encoder.preprocess(images))
    with pytest.raises(ValueError, match="expected uint8"):
        model.encoder.preprocess_uint8(stacked[:, :16])


def test_preprocess_squeezes_other_sizes_into_the_square(model: VLV) -> None:
    left_black = Image.new("L", (90, 40), 0)
    left_black.paste(255, (45, 0, 90, 40))
    values = model.encoder.preprocess([left_black])
    assert values.shape == (1, 3, 32, 32)
    assert (values[0, :, :, :14] < 0).all()
    assert (values[0, :, :, 18:] > 0).all()


def test_the_prompt_is_the_sentence_that_the_task_token_stands_for(model: VLV) -> None:
    text = model.encoder.tokenizer.decode(model.encoder.prompt_ids[0], skip_special_tokens=True)
    assert text == "Describe with a paragraph what is shown in the image."
    assert model.encoder.prompt_ids[0, 0] == model.encoder.tokenizer.bos_token_id
    assert model.encoder.prompt_ids[0, -1] == model.encoder.tokenizer.eos_token_id


def test_the_prompt_is_part_of_the_input(model: VLV, images: list[Image.Image]) -> None:
    pixels = model.encoder.preprocess(images)
    before = model.encoder(pixels)
    model.encoder.prompt_ids[0, 3] += 1
    assert (model.encoder(pixels) - before).abs().max() > 1e-4


def test_queries_see_earlier_queries_only(model: VLV, images: list[Image.Image]) -> None:
    pixels = model.encoder.preprocess(images)
    before = model.encoder(pixels)
    with torch.no_grad():
        model.encoder.queries[0, 3] += torch.randn(24)
    after = model.encoder(pixels)
    assert torch.allclose(before[:, :3], after[:, :3], atol=1e-6)
    assert (before[:, 3:] - after[:, 3:]).abs().amax((0, 2)).min() > 1e-4


@pytest.mark.parametrize("number", [1, 3, 6])
def test_the_first_queries_are_the_same_without_the_others(
    model: VLV, images: list[Image.Image], number: int
) -> None:
    tokens = model.encoder.image_tokens(model.encoder.preprocess(images))
    whole, first = model.encoder.embed(tokens), model.encoder.embed(tokens, number)
    assert first.shape == (3, number, 16)
    torch.testing.assert_close(first, whole[:, :number], atol=1e-5, rtol=0)


def test_an_image_does_not_depend_on_its_batch(model: VLV, images: list[Image.Image]) -> None:
    together = model.encoder(model.encoder.preprocess(images))
    alone = model.encoder(model.encoder.preprocess(images[1:2]))
    assert torch.allclose(together[1:2], alone, atol=1e-5)


def test_parts_hold_every_parameter_once(model: VLV) -> None:
    parts = model.encoder.parts()
    ids = [id(parameter) for part in parts.values() for parameter in part]
    assert sorted(ids) == sorted(id(parameter) for parameter in model.encoder.parameters())
    assert parts["queries"] == [model.encoder.queries]
    vision = {id(parameter) for parameter in model.encoder.florence.vision_tower.parameters()}
    assert {id(parameter) for parameter in parts["vision"]} == vision
