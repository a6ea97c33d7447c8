"""The paper's two stages with random weights: what each lever changes, beside the plain procedure.

    python benchmarks/paper_scale.py stage1 --device cuda --config configs/paper/stage1-80gb.yaml
    python benchmarks/paper_scale.py stage2 --device cuda --config configs/paper/stage2-80gb.yaml
    python benchmarks/paper_scale.py stage1 --size smoke --json FILE

Plain is the authors' procedure: float32, attention as matrix products, the VAE in every step, one
draw of noise on a picture. Each lever is added to it alone, and then all of them in turn. Of every
round the ratio to the plain step of the same round counts; of the rounds the median. A step is
forward and backward; the update is the same for all ways. Nothing is downloaded.

`--size full` has the published sizes. `--size smoke`, for a CPU, keeps their widths with few
layers: 1 vision block a stage, 2 layers a transformer, one residual block a level, the upper two of
the U-Net's four levels; and its pictures are small. Its ratios are those of this reduced step.
`--device meta` computes nothing and counts FLOPs, in seconds.
"""

import argparse
import copy
import json
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers.models.attention import AttentionMixin
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from reduced import LAYERS, _full_width, numbered_words
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    CLIPTextConfig,
    CLIPTextModel,
    Florence2Config,
    Florence2Model,
    PreTrainedModel,
)

from vlv.checkpoints.published import default_base_model, known_base_models
from vlv.checkpoints.skeleton import skeleton
from vlv.models.caption_decoder import CaptionDecoder
from vlv.models.diffusion_decoder import DiffusionDecoder
from vlv.models.encoder import TASK_PROMPTS, VLVEncoder
from vlv.models.families.stable_diffusion import CLIPTextTower
from vlv.models.tokenizers import train_clip_tokenizer, train_florence_tokenizer
from vlv.training.compiling import compile_blocks
from vlv.training.cost.flops import counting
from vlv.training.objectives.encoding import StageBoxes
from vlv.training.recipes import recipe_config
from vlv.training.samples.source import Batch
from vlv.training.stages import stage1, stage2
from vlv.training.stages.encoding import EncoderStageConfig
from vlv.training.stages.stage2 import Stage2Config

SMOKE_PICTURE, SMOKE_ENCODER = 96, 192
CAPTION_TOKENS = 227  # of the paper's captions, on average


@dataclass(frozen=True)
class Way:
    """How a step is computed."""

    fused: bool = False
    bf16: bool = False
    latents: bool = False
    draws: int = 1
    compiled: bool = False


LEVERS: dict[str, dict[str, Any]] = {
    "fused attention": {"fused": True},
    "bf16 autocast": {"bf16": True},
    "latents from a cache": {"latents": True},
    "4 draws a picture": {"draws": 4},
    "compiled blocks": {"compiled": True},
}


def ways(names: list[str]) -> dict[str, Way]:
    """The plain way, each lever alone, and all of them added in turn."""
    found, sum_of = {"plain": Way()}, Way()
    found |= {name: replace(Way(), **LEVERS[name]) for name in names}
    for number, name in enumerate(names):
        sum_of = replace(sum_of, **LEVERS[name])
        if number > 0:
            found["+ " + " + ".join(names[: number + 1])] = sum_of
    return found


def full_boxes(config: EncoderStageConfig, device: str) -> StageBoxes:
    """The published sizes."""
    name = "Qwen/Qwen2.5-0.5B"  # stage 1 has no language model
    if isinstance(config, Stage2Config) and config.language_model is not None:
        name = f"Qwen/{config.language_model.name}"
    model = skeleton(device=device, dtype=torch.float32, language_model=name)
    return StageBoxes(
        encoder=model.encoder,
        text_tower=model.text_tower,
        decoder=model.decoder,
        image_size=model.decoder.image_size,
        caption_decoder=model.caption_decoder if isinstance(config, Stage2Config) else None,
    )


def smoke_boxes(config: EncoderStageConfig) -> StageBoxes:
    """The published widths with few layers, for small pictures."""
    parts = _full_width()
    prompts = list(TASK_PROMPTS.values()) * 2
    tower = CLIPTextTower(
        CLIPTextModel(CLIPTextConfig(**parts["text_tower"])), train_clip_tokenizer(prompts)
    )
    settings = parts["settings"].model_copy(
        update={"image_size": SMOKE_ENCODER, "crop_size": SMOKE_PICTURE}
    )
    encoder = VLVEncoder(
        Florence2Model(Florence2Config(**parts["florence"])),
        train_florence_tokenizer(prompts),
        settings,
        tower.slot_widths,
    )
    unet = {
        **parts["unet"],
        "block_out_channels": [320, 640],
        "attention_head_dim": [5, 10],
        "down_block_types": ["CrossAttnDownBlock2D"] * 2,
        "up_block_types": ["CrossAttnUpBlock2D"] * 2,
    }
    decoder = DiffusionDecoder.from_config(parts["vae"], unet, parts["scheduler"], SMOKE_PICTURE)
    captions = None
    if isinstance(config, Stage2Config):
        language = parts["language_model"]
        # As many fewer words as layers, so that the head keeps its share of the work.
        layers = known_base_models("language_model")[default_base_model("language_model")].config
        language["vocab_size"] = language["vocab_size"] * LAYERS // layers["num_hidden_layers"]
        lm = AutoModelForCausalLM.from_config(AutoConfig.for_model(**language))
        captions = CaptionDecoder(lm, numbered_words(language["vocab_size"]), tower.width)
    return StageBoxes(encoder, tower, decoder, SMOKE_PICTURE, captions)


def make_batch(objective: Any, config: EncoderStageConfig, size: int, way: Way) -> Batch:
    """Random pictures, noise, and captions of the paper's mean length."""
    side, latent = objective.image_size, objective.decoder.latent_shape
    device = objective.device
    batch: Batch = {
        "image": torch.randint(0, 256, (size, side, side, 3), dtype=torch.uint8, device=device),
        "noise": torch.randn(size, way.draws, *latent, device=device),
        "u": torch.rand(size, way.draws, device=device),
        "posterior_noise": torch.randn(size, *latent, device=device),
    }
    if way.latents:
        batch["latents"] = torch.randn(size, way.draws, *latent, device=device)
    if isinstance(config, Stage2Config):
        words = objective.caption_decoder.lm.config.vocab_size
        batch["caption_ids"] = torch.randint(0, words, (size, CAPTION_TOKENS), device=device)
        batch["caption_length"] = torch.full((size,), CAPTION_TOKENS)
    return batch


def set_attention(module: nn.Module, fused: bool) -> None:
    for part in module.modules():
        if isinstance(part, PreTrainedModel):
            part.set_attn_implementation("sdpa" if fused else "eager")
        elif isinstance(part, AttentionMixin):
            part.set_attn_processor(AttnProcessor2_0() if fused else AttnProcessor())


@contextmanager
def in_way(objective: Any, way: Way) -> Iterator[None]:
    """Inside, the objective computes that way."""
    set_attention(objective, way.fused)
    names = compile_blocks(objective) if way.compiled else []
    cast = torch.autocast(objective.device.type, torch.bfloat16) if way.bf16 else nullcontext()
    try:
        with cast:
            yield
    finally:
        for name in names:
            objective.get_submodule(name)._compiled_call_impl = None


def step(objective: Any, batch: Batch) -> None:
    loss, _ = objective(batch)
    loss.backward()
    for parameter in objective.parameters():
        parameter.grad = None


def seconds(device: torch.device, call: Callable[[], None]) -> float:
    """On a GPU by the clock, once all work is done; on a CPU in this process's own time."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        torch.cuda.synchronize()
        return time.perf_counter() - start
    start = time.process_time()
    call()
    return time.process_time() - start


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of the best of several square products: the device's peak, as far as it is reached."""
    side = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side**3 / min(seconds(device, lambda: (a @ b, None)[1]) for _ in range(5))


def emptied(objective: Any) -> Any:
    """The objective on the meta device; its weights stay where they are."""
    memo: dict[int, Any] = {}
    for tensor in objective.parameters():
        memo[id(tensor)] = nn.Parameter(tensor.to("meta"), tensor.requires_grad)
    for tensor in objective.buffers():
        memo[id(tensor)] = tensor.to("meta")
    return copy.deepcopy(objective, memo)


def count(empty: Any, config: EncoderStageConfig, size: int, way: Way) -> int:
    """FLOPs of forward and backward; nothing is computed."""
    batch = make_batch(empty, config, size, way)
    # Neither compiling nor the precision changes them, and the meta device knows no autocast.
    way = replace(way, compiled=False, bf16=False)
    with in_way(empty, way), counting() as counter:
        step(empty, batch)
    return counter.get_total_flops()


def count_work(empty: Any, config: EncoderStageConfig, size: int) -> list[dict[str, Any]]:
    """A row for each way that has FLOPs of its own."""
    found = {"plain": Way(), "latents from a cache": Way(latents=True)}
    if not isinstance(config, Stage2Config):
        found |= {f"{n} draws a picture": Way(draws=n) for n in (2, 4, 8)}
        found["+ latents from a cache + 4 draws a picture"] = Way(latents=True, draws=4)
    work = {name: count(empty, config, size, way) / size for name, way in found.items()}
    return [
        {
            "way": name,
            "tflop_per_image": work[name] / 1e12,
            "tflop_per_draw": work[name] / found[name].draws / 1e12,
            "draws_ratio_to_plain": work["plain"] / work[name] * found[name].draws,
        }
        for name in found
    ]


def measure(objective: Any, config: EncoderStageConfig, arguments: Any) -> list[dict[str, Any]]:
    """A row for each way."""
    device, size = objective.device, arguments.batch
    objective.train()
    if device.type == "meta":
        return count_work(objective, config, size)
    names = [name for name in LEVERS if arguments.compile or name != "compiled blocks"]
    if isinstance(config, Stage2Config):
        names.remove("4 draws a picture")
    chosen = ways(names)
    empty = emptied(objective)
    work = {name: count(empty, config, size, way) for name, way in chosen.items()}
    times: dict[str, list[float]] = {name: [] for name in chosen}
    memory = {}
    for rounds in range(arguments.rounds + 1):
        for name, way in chosen.items():
            # Not timed: on GPUs kernels are chosen, on CPUs memory is taken once.
            warm_up = rounds == 0
            if warm_up and device.type == "cpu" and name != "plain" and not way.compiled:
                continue
            batch = make_batch(objective, config, size, way)
            with in_way(objective, way):
                if warm_up:
                    step(objective, batch)
                    continue
                if device.type == "cuda":
                    torch.cuda.reset_peak_memory_stats()
                times[name].append(seconds(device, lambda b=batch: step(objective, b)))
                if device.type == "cuda":
                    memory[name] = torch.cuda.max_memory_allocated() / 2**30
    rates = {False: matrix_rate(device, torch.float32), True: matrix_rate(device, torch.bfloat16)}
    rows = []
    for name, way in chosen.items():
        ratios = [a / b for a, b in zip(times["plain"], times[name], strict=True)]
        taken = statistics.median(times[name])
        rows.append(
            {
                "way": name,
                "images_per_second": size / taken,
                "draws_per_second": size * way.draws / taken,
                "tokens_per_second": size * CAPTION_TOKENS / taken
                if isinstance(config, Stage2Config)
                else None,
                "tflop_per_image": work[name] / size / 1e12,
                "images_ratio_to_plain": statistics.median(ratios),
                "images_ratio_range": [min(ratios), max(ratios)],
                "draws_ratio_to_plain": statistics.median(ratios) * way.draws,
                "share_of_matrix_rate": work[name] / taken / rates[way.bf16],
                "peak_gib": memory.get(name),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=("stage1", "stage2"))
    parser.add_argument("--config", type=Path, help="a recipe; configs/paper/STAGE.yaml if none")
    parser.add_argument("--size", choices=("full", "smoke"), default="full")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=1, help="pictures of a micro-batch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--compile", action="store_true", help="torch.compile is a lever too")
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    recipe = arguments.config or Path(f"configs/paper/{arguments.stage}.yaml")
    config = recipe_config(recipe).model_copy(
        update={"frozen_dtype": None, "gradient_checkpointing": None}
    )
    torch.manual_seed(0)
    smoke = arguments.size == "smoke"
    boxes = smoke_boxes(config) if smoke else full_boxes(config, arguments.device)
    build = stage2.make_objective if arguments.stage == "stage2" else stage1.make_objective
    objective = build(config, boxes).to(arguments.device)
    settings = objective.encoder.settings
    objective.encoder.settings = settings.model_copy(update={"crop_size": boxes.image_size})
    rows = measure(objective, config, arguments)
    name = torch.cuda.get_device_name() if arguments.device.startswith("cuda") else arguments.device
    figures = {
        "stage": arguments.stage,
        "recipe": recipe.name,
        "size": arguments.size,
        "device": name,
        "threads": torch.get_num_threads(),
        "batch": arguments.batch,
        "rounds": arguments.rounds,
        "picture_px": boxes.image_size,
        "encoder_px": settings.image_size,
        "million_parameters": sum(p.numel() for p in objective.parameters()) / 1e6,
        # Linux counts in KiB.
        "process_peak_gib": None
        if arguments.device == "meta"
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "ways": rows,
    }
    print(count_table(rows) if arguments.device == "meta" else table(rows))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def markdown(figures: dict[str, Any]) -> str:
    """The table of a recorded run, and what it was made on."""
    facts = [
        f"{figures['million_parameters']:.0f}M parameters",
        f"pictures of {figures['picture_px']} px, {figures['encoder_px']} px for the encoder",
        f"batches of {figures['batch']}, {figures['rounds']} rounds",
        f"{figures['device']} with {figures['threads']} thread",
        f"at most {figures['process_peak_gib']:.1f} GiB of memory",
    ]
    tokens = figures["ways"][0]["tokens_per_second"]
    if tokens is not None:
        facts.append(f"captions of {CAPTION_TOKENS} tokens; plain: {tokens:.0f} tokens/s")
    return f"{table(figures['ways'])}\n\n" + "\n".join(f"- {fact}" for fact in facts)


def count_table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| | TFLOP an image | TFLOP a draw | draws for the same FLOPs, of plain |",
        "|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['way']} | {row['tflop_per_image']:.2f} | {row['tflop_per_draw']:.2f} | "
            f"{row['draws_ratio_to_plain']:.2f} |"
        )
    return "\n".join(lines)


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| | images/s, of plain (range) | draws/s, of plain | TFLOP an image | share of peak |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        least, most = row["images_ratio_range"]
        lines.append(
            f"| {row['way']} | {row['images_ratio_to_plain']:.2f} ({least:.2f} to {most:.2f}) | "
            f"{row['draws_ratio_to_plain']:.2f} | {row['tflop_per_image']:.3f} | "
            f"{row['share_of_matrix_rate']:.0%} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
