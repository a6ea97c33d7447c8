"""`VLVPipeline` on every family: the library's pipeline, with an image or z in."""

from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from tests.tiny import plain

from vlv import VLV, VLVPipeline
from vlv.integrations.diffusers import pipeline_class
from vlv.models.families import FAMILIES

PICTURES = [plain("red"), plain("blue")]
SEEDS = [3, 4]


def seeded() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in SEEDS]


def pixels(images: list[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(one) for one in images])


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_what_it_draws_is_what_the_model_draws(
    model: VLV, tmp_path: Path, guidance_scale: float
) -> None:
    name = model.decoder.family.name
    model.save_pretrained(tmp_path / "model")
    model = VLV.from_pretrained(tmp_path / "model", device="cpu")
    pipe = VLVPipeline.from_pretrained(tmp_path / "model")
    pipe.set_progress_bar_config(disable=True)
    assert type(pipe) is pipeline_class(name)
    assert isinstance(pipe, getattr(diffusers, FAMILIES[name].pipeline))
    asked = {"num_inference_steps": 2, "guidance_scale": guidance_scale}

    wanted = pixels(model.reconstruct(PICTURES, seeds=SEEDS, **asked).images)
    assert not np.array_equal(wanted[0], wanted[1])
    z = pipe.encode_image_to_z(PICTURES)
    assert torch.allclose(z, model.encode(PICTURES))
    for drawn in (
        pipe(PICTURES, generator=seeded(), **asked),
        pipe(z=z, generator=seeded(), **asked),
    ):
        assert np.array_equal(pixels(drawn.images), wanted)

    texts = ["a red cube", "the floor is gray"]
    expected = pixels(model.draw(texts, seeds=SEEDS, **asked).images)
    assert np.array_equal(pixels(pipe(prompt=texts, generator=seeded(), **asked).images), expected)


def test_a_pipeline_of_components_saves_a_model_that_draws(model: VLV, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "model")
    model = VLV.from_pretrained(tmp_path / "model", device="cpu")
    pipe = VLVPipeline.from_pretrained(tmp_path / "model")
    family = model.decoder.family
    asked = {"num_inference_steps": 2, "seeds": SEEDS}
    wanted = pixels(model.reconstruct(PICTURES, **asked).images)

    pipe.save_pretrained(tmp_path / "again")
    again = VLV.from_pretrained(tmp_path / "again", device="cpu")
    assert np.array_equal(pixels(again.reconstruct(PICTURES, **asked).images), wanted)
    assert again.manifest.components == model.manifest.components

    parts = {name: part for name, part in pipe.components.items() if part is not None}
    library = {name: part for name, part in parts.items() if name != "encoder"}
    base = getattr(diffusers, family.record.pipeline)
    plain_pipe = base(**{**family.pipeline_parts(), **library})
    made = type(pipe).from_pipe(plain_pipe, encoder=pipe.encoder)
    assert made.encoder is pipe.encoder and made.denoiser is pipe.denoiser
    made.set_progress_bar_config(disable=True)
    size = {"height": 32, "width": 32}
    drawn = made(PICTURES, num_inference_steps=2, generator=seeded(), **size).images
    assert np.array_equal(pixels(drawn), wanted)
    assert made.as_vlv().manifest.config.family == family.name
