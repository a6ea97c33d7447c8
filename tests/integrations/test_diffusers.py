"""`VLVPipeline` draws what `VLV.reconstruct` draws, and composes with other pipelines."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
    UniPCMultistepScheduler,
)
from peft import LoraConfig
from PIL import Image
from tests.tiny import CAPTIONS, plain, quick_verifier_dir, tiny_model_dir

from vlv import VLV, VLVPipeline
from vlv.data.world_sets import world_samples
from vlv.errors import CheckpointError, ConfigError

__all__ = ["quick_verifier_dir", "tiny_model_dir"]

PICTURES = [plain(color) for color in list(CAPTIONS)[:2]]
SEEDS = [3, 4]
STEPS = 2


@pytest.fixture(scope="module")
def model(tiny_model_dir: Path) -> VLV:
    return VLV.from_pretrained(tiny_model_dir)


@pytest.fixture
def pipe(tiny_model_dir: Path) -> VLVPipeline:
    opened = VLVPipeline.from_pretrained(tiny_model_dir)
    opened.set_progress_bar_config(disable=True)
    return opened


def seeded() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in SEEDS]


def same(first: list[Image.Image], second: list[Image.Image]) -> bool:
    pairs = zip(first, second, strict=True)
    return all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in pairs)


@pytest.mark.parametrize("guidance_scale", [1.0, 2.0])
def test_pictures_are_those_of_reconstruct_pixel_for_pixel(
    model: VLV, pipe: VLVPipeline, guidance_scale: float
) -> None:
    asked: dict[str, Any] = {"num_inference_steps": STEPS, "guidance_scale": guidance_scale}
    wanted = model.reconstruct(PICTURES, seeds=SEEDS, **asked).images
    assert same(pipe(PICTURES, generator=seeded(), **asked).images, wanted)
    z = model.encode(PICTURES)
    assert torch.equal(pipe.encode_image_to_z(PICTURES), z)
    assert same(pipe(z=z, generator=seeded(), **asked).images, wanted)
    assert not same(wanted[:1], wanted[1:])


def test_schedulers_can_be_exchanged_and_are_saved(
    model: VLV, pipe: VLVPipeline, tmp_path: Path
) -> None:
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    asked: dict[str, Any] = {"num_inference_steps": STEPS}
    wanted = model.reconstruct(PICTURES, seeds=SEEDS, scheduler="euler", **asked).images
    assert same(pipe(PICTURES, generator=seeded(), **asked).images, wanted)
    pipe.save_pretrained(tmp_path / "saved")
    again = VLVPipeline.from_pretrained(tmp_path / "saved")
    assert isinstance(again.scheduler, EulerDiscreteScheduler)
    assert same(again(PICTURES, generator=seeded(), **asked).images, wanted)
    whole = VLV.from_pretrained(tmp_path / "saved")
    assert whole.caption(PICTURES) == model.caption(PICTURES)
    usual = model.reconstruct(PICTURES, seeds=SEEDS, **asked).images
    assert same(whole.reconstruct(PICTURES, seeds=SEEDS, **asked).images, usual)


def test_a_callback_sees_each_step_and_can_stop(pipe: VLVPipeline) -> None:
    seen: list[tuple[int, torch.Size]] = []

    def look(at: VLVPipeline, step: int, timestep: int, tensors: dict) -> dict:
        assert at is pipe
        seen.append((step, tensors["latents"].shape))
        at._interrupt = step == 1
        return tensors

    pipe(PICTURES, num_inference_steps=4, callback_on_step_end=look)
    assert seen == [(0, (2, 4, 4, 4)), (1, (2, 4, 4, 4))]


def test_other_pipelines_take_its_components_and_its_embeddings(
    model: VLV, pipe: VLVPipeline
) -> None:
    positive, negative = pipe.encode_z(pipe.encode_image_to_z(PICTURES))
    drawing = {"num_inference_steps": STEPS, "guidance_scale": 2.0}
    plain_pipe = StableDiffusionPipeline.from_pipe(pipe, requires_safety_checker=False)
    plain_pipe.set_progress_bar_config(disable=True)
    drawn = plain_pipe(
        prompt_embeds=positive,
        negative_prompt_embeds=negative,
        generator=seeded(),
        height=32,
        width=32,
        **drawing,
    ).images
    assert same(drawn, model.reconstruct(PICTURES, seeds=SEEDS, **drawing).images)
    others = {name: part for name, part in pipe.components.items() if name != "encoder"}
    changing = StableDiffusionImg2ImgPipeline(**others, requires_safety_checker=False)
    changing.set_progress_bar_config(disable=True)
    changed = changing(
        image=PICTURES, prompt_embeds=positive, negative_prompt_embeds=negative, strength=1.0
    )
    assert changed.images[0].size == (32, 32)
    back = VLVPipeline.from_pipe(plain_pipe, encoder=pipe.encoder)
    back.set_progress_bar_config(disable=True)
    assert same(back(PICTURES, generator=seeded(), **drawing).images, drawn)


def test_a_pipeline_of_components_saves_a_model_that_draws(
    model: VLV, pipe: VLVPipeline, tmp_path: Path
) -> None:
    made = VLVPipeline(**{k: v for k, v in pipe.components.items() if v is not None})
    made.save_pretrained(tmp_path / "drawing")
    again = VLV.from_pretrained(tmp_path / "drawing")
    asked: dict[str, Any] = {"seeds": SEEDS, "num_inference_steps": STEPS}
    assert same(
        again.reconstruct(PICTURES, **asked).images, model.reconstruct(PICTURES, **asked).images
    )


def test_a_lora_is_merged_before_a_model_is_saved(pipe: VLVPipeline, tmp_path: Path) -> None:
    pipe.unet.add_adapter(LoraConfig(target_modules=["to_q"], init_lora_weights=False))
    with pytest.raises(ConfigError, match=r"unet has adapters of peft.*fuse_lora"):
        pipe.save_pretrained(tmp_path / "model")
    assert not list(tmp_path.iterdir())
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    pipe.save_pretrained(tmp_path / "model")
    again = VLVPipeline.from_pretrained(tmp_path / "model")
    asked: dict[str, Any] = {"num_inference_steps": STEPS}
    merged = pipe(PICTURES, generator=seeded(), **asked).images
    assert same(again(PICTURES, generator=seeded(), **asked).images, merged)


def test_what_captions_follows_the_pipeline(pipe: VLVPipeline) -> None:
    before = pipe.as_vlv().caption(PICTURES)
    pipe.to(torch.bfloat16)
    assert len(pipe.as_vlv().caption(PICTURES)) == len(before)
    assert pipe.as_vlv().caption_decoder.lm.dtype == torch.bfloat16


def test_its_model_verifies_whatever_the_sampler(quick_verifier_dir: Path) -> None:
    (scene,) = world_samples(1, seed=11, split="test")
    picture, caption = scene.picture(), str(scene.caption).split(".")[0] + "."
    wanted = VLV.from_pretrained(quick_verifier_dir).verify(picture, caption)
    assert [mark.verdict for mark in wanted] == ["supported"]
    pipe = VLVPipeline.from_pretrained(quick_verifier_dir)
    kinds = (UniPCMultistepScheduler, EulerDiscreteScheduler, DDIMScheduler)
    for kind in (DPMSolverMultistepScheduler, *kinds):
        pipe.scheduler = kind.from_config(pipe.scheduler.config)
        assert pipe.as_vlv().verify(picture, caption) == wanted
        assert isinstance(pipe.scheduler, kind)


def test_its_model_draws_with_every_sampler_as_if_it_were_opened_so(
    model: VLV, pipe: VLVPipeline
) -> None:
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    for scheduler in ("dpm++", "dpm++sde", "ddim", "euler"):
        asked: dict[str, Any] = {"seeds": SEEDS, "num_inference_steps": 4, "scheduler": scheduler}
        wanted = model.reconstruct(PICTURES, **asked).images
        assert same(pipe.as_vlv().reconstruct(PICTURES, **asked).images, wanted), scheduler
    made = VLVPipeline(**{k: v for k, v in pipe.components.items() if v is not None})
    asked["scheduler"] = "euler"
    assert same(made.as_vlv().reconstruct(PICTURES, **asked).images, wanted)
    pipe.scheduler = FlowMatchEulerDiscreteScheduler()
    with pytest.raises(CheckpointError, match=r"FlowMatchEuler.* a flow, and the model needs DDPM"):
        pipe.as_vlv()


def test_a_negative_prompt_takes_the_place_of_the_empty_text(pipe: VLVPipeline) -> None:
    asked: dict[str, Any] = {"num_inference_steps": STEPS, "guidance_scale": 3.0}

    def drawn(negative: Any, **more: Any) -> list[Image.Image]:
        given = {**asked, **more, "negative_prompt": negative, "generator": seeded()}
        return pipe(PICTURES, **given).images

    cube, both = drawn("a cube"), drawn(["a cube", "a sphere"])
    plainly = pipe(PICTURES, generator=seeded(), **asked).images
    assert same(drawn(""), plainly) and same(drawn(None), plainly)
    assert not same(cube[:1], plainly[:1])
    assert same(both[:1], cube[:1]) and not same(both[1:], cube[1:])
    z = pipe.encode_image_to_z(PICTURES)
    given = pipe(z=z, negative_prompt="a cube", generator=seeded(), **asked).images
    assert same(given, cube)
    # It is what its text is to the tower: as many tokens as z has.
    away = pipe.text_tower.encode_text(["a cube"]).tokens[:, : z.shape[1]]
    made = pipe.arguments_of_z(z, negative_prompt="a cube")["negative_prompt_embeds"]
    assert torch.equal(made, away.repeat(2, 1, 1))
    # Without guidance nothing is steered away from.
    off = pipe(PICTURES, generator=seeded(), num_inference_steps=STEPS, guidance_scale=1.0).images
    assert same(drawn("a cube", guidance_scale=1.0), off)
    with pytest.raises(ConfigError, match="3 negative prompts for 2 pictures"):
        drawn(["a", "b", "c"])


def test_a_prompt_is_drawn_as_by_the_text_to_image_model(model: VLV, pipe: VLVPipeline) -> None:
    texts = ["a red cube", "a blue sphere"]
    asked: dict[str, Any] = {"num_inference_steps": STEPS, "guidance_scale": 2.0}
    wanted = model.draw(texts, seeds=SEEDS, **asked).images
    assert same(pipe(prompt=texts, generator=seeded(), **asked).images, wanted)
    assert pipe.scheduler.config.algorithm_type == "sde-dpmsolver++"


def test_wrong_use_is_named(pipe: VLVPipeline, tiny_model_dir: Path) -> None:
    with pytest.raises(ConfigError, match="only one of them"):
        pipe(PICTURES, z=torch.zeros(1, 6, 16))
    with pytest.raises(ConfigError, match="only one of them"):
        pipe()
    with pytest.raises(ConfigError, match="guidance_scale must be a finite number"):
        pipe(PICTURES, guidance_scale=float("nan"))
    with pytest.raises(ConfigError, match="no use for variant='fp16'"):
        VLVPipeline.from_pretrained(tiny_model_dir, variant="fp16")
