"""Batches: a number, or as many as the memory holds."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.inference.reconstructing import reconstruct_images
from tests.tiny import CAPTIONS, png

from vlv.errors import ConfigError
from vlv.inference.batching import Batches, batch_size
from vlv.inference.captioning import CaptionSettings, caption_images
from vlv.inference.encoding import encode_images
from vlv.inference.reconstruction import DrawSettings
from vlv.inference.records import ImageInput
from vlv.pipeline import VLV


@pytest.fixture
def images() -> list[ImageInput]:
    return [ImageInput(color, png(color)) for color in [*CAPTIONS] * 3]


def test_sizes_as_they_are_written() -> None:
    assert (batch_size("8"), batch_size("auto")) == (8, "auto")
    for wrong in ("0", "-1", "many", "1.5", ""):
        with pytest.raises(ConfigError, match="1 or more, or auto"):
            batch_size(wrong)


@pytest.mark.parametrize("wrong", [0, -1, 2.5, "many"])
def test_a_wrong_size_is_no_reason_to_caption_nothing(model: VLV, wrong: Any) -> None:
    with pytest.raises(ConfigError, match="1 or more, or auto"):
        model.caption(Image.new("RGB", (8, 8)), batch_size=wrong)


def limit(module: torch.nn.Module, rows: int, error: Exception, seen: list[int]) -> None:
    """A memory that holds no more than so many rows of a module's input."""

    def refuse(_: Any, args: Any, kwargs: Any) -> None:
        given = [*args, *kwargs.values()]
        count = next(one.shape[0] for one in given if isinstance(one, torch.Tensor))
        seen.append(count)
        if count > rows:
            raise error

    module.register_forward_pre_hook(refuse, with_kwargs=True)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
        MemoryError(),
    ],
)
def test_captions_do_not_depend_on_the_memory(
    model: VLV, images: list[ImageInput], error: Exception
) -> None:
    encoded, written = [], []
    limit(model.encoder.phi, 4, error, encoded)
    limit(model.caption_decoder.psi, 2, error, written)
    results = list(caption_images(model, images, batch_size="auto"))
    assert [(one.name, one.caption) for one in results] == list(CAPTIONS.items()) * 3
    # Halved once for good: the batch, its half, and from then on what went well.
    assert encoded == [9, 4, 4, 1]
    assert written == [9, 4, 2, 2, 2, 2, 1]


def test_pictures_do_not_depend_on_the_memory(model: VLV, images: list[ImageInput]) -> None:
    settings = DrawSettings(num_inference_steps=1, guidance_scale=1.0)
    expected = [
        next(iter(reconstruct_images(model, [one], settings))).picture for one in images[:3]
    ]
    limit(model.decoder.unet, 1, torch.OutOfMemoryError("out"), [])
    drawn = list(reconstruct_images(model, images[:3], settings, batch_size="auto"))
    for one, other in zip(drawn, expected, strict=True):
        # Equal but for the rounding of sums in another order.
        difference = np.asarray(one.picture).astype(int) - np.asarray(other).astype(int)
        assert np.abs(difference).max() <= 1


def test_what_is_no_lack_of_memory_is_not_tried_again(model: VLV, images: list[ImageInput]) -> None:
    seen: list[int] = []
    limit(model.encoder.phi, 1, RuntimeError("shapes do not match"), seen)
    with pytest.raises(RuntimeError, match="shapes"):
        list(encode_images(model, images, batch_size="auto"))
    assert seen == [9]


def test_a_number_is_kept_and_one_image_may_be_too_much(
    model: VLV, images: list[ImageInput]
) -> None:
    limit(model.encoder.phi, 0, torch.OutOfMemoryError("out"), [])
    with pytest.raises(torch.OutOfMemoryError):
        list(encode_images(model, images, batch_size=4))
    with pytest.raises(ConfigError, match="even with one image at a time"):
        list(encode_images(model, images, batch_size="auto"))


def test_what_was_tried_is_free_before_it_is_tried_again() -> None:
    alive: list[int] = []

    class Big:
        def __init__(self) -> None:
            alive.append(1)

        def __del__(self) -> None:
            alive.pop()

    def work(part: list[int]) -> list[int]:
        assert not alive
        kept = Big()
        if len(part) > 1:
            raise MemoryError
        assert kept
        return part

    assert Batches("auto").run(work, [1, 2, 3]) == [1, 2, 3]


def test_samples_depend_neither_on_the_batch_size_nor_on_the_memory(
    model: VLV, images: list[ImageInput]
) -> None:
    settings = CaptionSettings(temperature=3.0, max_new_tokens=12, num_return_sequences=2)
    expected = list(caption_images(model, images, settings, batch_size=1))
    assert len({tuple(one.texts) for one in expected}) > 3  # type: ignore[union-attr]
    assert list(caption_images(model, images, settings, batch_size=4)) == expected
    seen: list[int] = []
    limit(model.caption_decoder.lm, 5, torch.OutOfMemoryError("out"), seen)
    assert list(caption_images(model, images, settings, batch_size="auto")) == expected
    # Prompts of 18 sequences; of half of them, and their tokens; from then on what fits.
    assert seen[:4] == [9, 5, 9, 4] and max(seen[4:]) <= 4


def test_a_sequence_may_be_too_much(model: VLV, images: list[ImageInput]) -> None:
    settings = CaptionSettings(num_beams=1)
    limit(model.caption_decoder.lm, 0, torch.OutOfMemoryError("out"), [])
    with pytest.raises(ConfigError, match="even with one image at a time"):
        list(caption_images(model, images, settings, batch_size="auto"))
    with pytest.raises(torch.OutOfMemoryError):
        list(caption_images(model, images, settings, batch_size=4))


def test_samples_of_several_beams_depend_on_the_batch_so_that_auto_is_refused(
    model: VLV, images: list[ImageInput]
) -> None:
    settings = CaptionSettings(temperature=1.0, num_beams=2)
    with pytest.raises(ConfigError, match="give a number"):
        caption_images(model, images, settings, batch_size="auto")


def test_what_was_encoded_and_the_boxes_can_be_trained(
    tiny_model_dir: Path, images: list[ImageInput]
) -> None:
    """Nothing that outlives the work belongs to torch's inference mode."""
    model = VLV.from_pretrained(tiny_model_dir)
    list(caption_images(model, images[:1]))
    (encoded,) = encode_images(model, images[:1])
    assert not encoded.z.is_inference()
    ids, lengths = model.caption_decoder.tokenise([CAPTIONS["red"]])
    model.caption_decoder(model.read(encoded.z[None]), ids, lengths).backward()
    assert model.caption_decoder.psi[0].weight.grad is not None
    model.encoder(torch.zeros(1, 3, 32, 32)).sum().backward()
    assert model.encoder.queries.grad is not None
