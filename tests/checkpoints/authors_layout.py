"""Synthetic checkpoints in the layout of the paper's authors, and the published parts under them.

Every name is spelled out here as the original code spells it: Florence-2's own modelling code,
transformers 4's CLIP and Qwen2, diffusers' VAE and U-Net. Nothing is taken from a native model.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from tests.tiny import TEXTS, TINY
from torch import Tensor
from transformers import Florence2Config

from vlv.checkpoints.authors.conversion import ConversionReport, convert_authors
from vlv.models.tokenizers import (
    train_clip_tokenizer,
    train_florence_tokenizer,
    train_qwen2_tokenizer,
)

State = dict[str, Tensor]
Parts = tuple[Path, Path, Path]

# Two blocks in one stage and shared key-value heads, so that indices and groups matter.
VISION = {**TINY["encoder"]["florence"]["vision_config"], "depths": [1, 2]}
BART = {**TINY["encoder"]["florence"]["text_config"], "activation_function": "gelu"}
CLIP = {**TINY["text_tower"], "hidden_act": "gelu", "layer_norm_eps": 1e-5}
QWEN = {
    **TINY["language_model"],
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1_000_000.0,
}
VAE = TINY["vae"]
UNET = {**TINY["unet"], "use_linear_projection": True}
SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
QUERIES = 6
PROMPT = "Describe with a paragraph what is shown in the image."

florence_tokenizer = train_florence_tokenizer(TEXTS)
clip_tokenizer = train_clip_tokenizer(TEXTS)
qwen_tokenizer = train_qwen2_tokenizer(TEXTS)


def base_parts(folder: Path, *, hidden_act: str = "gelu", qwen: dict[str, Any] = QWEN) -> Parts:
    """Encoder, decoder and language model as published, without weights: configs and tokenizers.

    The sizes of vocabularies and of position tables are those of the published base models; a
    checkpoint may have others.
    """
    encoder, decoder, language_model = (
        folder / name for name in ("Florence-2", "stable-diffusion", "Qwen2.5")
    )
    text = {"model_type": "bart", "vocab_size": len(florence_tokenizer), **BART}
    config = Florence2Config(vision_config=VISION, text_config=text)
    config.architectures = ["Florence2ForConditionalGeneration"]
    config.save_pretrained(encoder)
    florence_tokenizer.save_pretrained(encoder)
    # What the tables of positions have room for.
    _write(encoder / "preprocessor_config.json", {"size": {"height": 32, "width": 32}})

    _write(
        decoder / "text_encoder" / "config.json",
        {
            "architectures": ["CLIPTextModel"],
            "model_type": "clip_text_model",
            "bos_token_id": 0,
            "eos_token_id": 2,
            "pad_token_id": 1,
            "projection_dim": 8,
            "torch_dtype": "float32",
            "vocab_size": len(clip_tokenizer),
            **CLIP,
            "hidden_act": hidden_act,
        },
    )
    clip_tokenizer.save_pretrained(decoder / "tokenizer")
    _write(decoder / "vae" / "config.json", {"_class_name": "AutoencoderKL", **VAE})
    _write(decoder / "unet" / "config.json", {"_class_name": "UNet2DConditionModel", **UNET})
    _write(
        decoder / "scheduler" / "scheduler_config.json",
        {"_class_name": "PNDMScheduler", "_diffusers_version": "0.8.0", **SCHEDULER},
    )

    end = qwen_tokenizer.eos_token_id
    _write(
        language_model / "config.json",
        {
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            "hidden_act": "silu",
            "bos_token_id": end,
            "eos_token_id": end,
            "sliding_window": 256,
            "use_sliding_window": False,
            "torch_dtype": "bfloat16",
            "vocab_size": len(qwen_tokenizer),
            **qwen,
        },
    )
    qwen_tokenizer.save_pretrained(language_model)
    return encoder, decoder, language_model


def authors_state(
    seed: int,
    stage: int,
    *,
    positions: int = BART["max_position_embeddings"],
    with_decoder: bool | None = None,
    vocab_padding: int = 0,
    prefix: str = "",
    qwen: dict[str, Any] = QWEN,
) -> State:
    """Every tensor of a checkpoint of stage 1 or 2 under its original name.

    positions: rows of BART's position tables without their two extra ones; with_decoder: VAE and
    U-Net are there (None: in stage 1 only); vocab_padding: rows of Florence-2's and Qwen2's
    embeddings beyond their tokenizers; prefix: "" or "module."; qwen: sizes of the language model.
    """
    # Each part draws for itself, so that the others do not change with its sizes.
    draw, of_florence, of_clip, of_qwen, of_decoder = (_Draw(5 * seed + i) for i in range(5))
    width, conditioning, lm_width = BART["d_model"], CLIP["hidden_size"], qwen["hidden_size"]
    vlv = {
        **{f"model.{k}": v for k, v in _florence(of_florence, positions, vocab_padding)},
        "query_embed": draw.normal(1, QUERIES, width),
        **dict(draw.linear("language_proj.0", width, width)),
        **dict(draw.linear("language_proj.2", width, conditioning)),
        **{f"text_encoder.text_model.{k}": v for k, v in _clip(of_clip)},
    }
    if with_decoder if with_decoder is not None else stage == 1:
        for part, kind, sizes in (
            ("vae", AutoencoderKL, VAE),
            ("unet", UNet2DConditionModel, UNET),
        ):
            vlv |= {f"{part}.{k}": v for k, v in _diffusers(of_decoder, kind, sizes)}
    if stage == 1:
        return {prefix + name: tensor for name, tensor in vlv.items()}
    state = {
        **{f"qwen2_model.{k}": v for k, v in _qwen(of_qwen, qwen, vocab_padding)},
        **{f"VLV_model.{k}": v for k, v in vlv.items()},
        **dict(draw.linear("mlp.layers.0", conditioning, lm_width)),
        **dict(draw.linear("mlp.layers.2", lm_width, lm_width)),
    }
    return {prefix + name: tensor for name, tensor in state.items()}


def write_shards(state: State, folder: Path, stem: str, suffix: str, count: int = 3) -> Path:
    """The state as shards with an index beside them, as transformers writes them."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [f"{stem}-{i + 1:05}-of-{count:05}.{suffix}" for i in range(count)]
    where = {name: files[i % count] for i, name in enumerate(state)}
    for file in files:
        part = {name: state[name] for name in state if where[name] == file}
        if suffix == "safetensors":
            save_file(_apart(part), folder / file)
        else:
            torch.save(part, folder / file)
    total = sum(tensor.nbytes for tensor in state.values())
    _write(
        folder / f"{stem}.{suffix}.index.json",
        {"metadata": {"total_size": total}, "weight_map": where},
    )
    return folder


def write_safetensors(state: State, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(_apart(state), path)
    return path


def write_torch(state: Any, path: Path, *, legacy: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    return path


# The forms in which such checkpoints are found.
STORED: dict[str, Callable[[State, Path], Path]] = {
    "pt": lambda state, folder: write_torch(state, folder / "model.pt"),
    "pt in a folder": lambda state, folder: write_torch(state, folder / "model.pt").parent,
    "bin in a folder": lambda state, folder: (
        write_torch(state, folder / "pytorch_model.bin").parent
    ),
    "legacy pt": lambda state, folder: write_torch(state, folder / "model.pt", legacy=True),
    "safetensors": lambda state, folder: write_safetensors(state, folder / "model.safetensors"),
    "safetensors shards": lambda state, folder: write_shards(state, folder, "model", "safetensors"),
    "bin shards": lambda state, folder: write_shards(state, folder, "pytorch_model", "bin"),
    "module.": lambda state, folder: write_torch(
        {f"module.{name}": tensor for name, tensor in state.items()}, folder / "model.pt"
    ),
    "shared memory": lambda state, folder: write_torch(_tied(state), folder / "model.pt"),
    "training state": lambda state, folder: write_torch(
        {
            "step": 200_000,
            "model_state_dict": state,
            "optimizer_state_dict": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": []},
            "scheduler_state_dict": {"last_epoch": 3, "_last_lr": [1e-5], "lr_lambdas": [None]},
        },
        folder / "checkpoint_200000.pt",
    ),
}


def convert(source: Path, out: Path, parts: Parts, **options: Any) -> ConversionReport:
    encoder, decoder, language_model = parts
    return convert_authors(
        source, out, encoder=encoder, decoder=decoder, language_model=language_model, **options
    )


class _Draw:
    """Seeded weights of a size that keeps activations of order one."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int, std: float = 1.0) -> Tensor:
        return std * torch.randn(shape, generator=self.generator)

    def linear(
        self, name: str, inputs: int, outputs: int, bias: bool = True, std: float = 1.0
    ) -> Iterator[tuple[str, Tensor]]:
        yield f"{name}.weight", self.normal(outputs, inputs, std=std * inputs**-0.5)
        if bias:
            yield f"{name}.bias", self.normal(outputs, std=0.1)

    def conv(self, name: str, outputs: int, inputs: int, size: int) -> Iterator[tuple[str, Tensor]]:
        yield (
            f"{name}.weight",
            self.normal(outputs, inputs, size, size, std=(inputs * size * size) ** -0.5),
        )
        yield f"{name}.bias", self.normal(outputs, std=0.1)

    def norm(self, name: str, width: int) -> Iterator[tuple[str, Tensor]]:
        yield f"{name}.weight", 1 + self.normal(width, std=0.2)
        yield f"{name}.bias", self.normal(width, std=0.1)


def _florence(draw: _Draw, positions: int, vocab_padding: int) -> Iterator[tuple[str, Tensor]]:
    """Florence-2 as `Florence2ForConditionalGeneration` of its own repository."""
    widths = VISION["embed_dim"]
    for i, width in enumerate(widths):
        inputs = widths[i - 1] if i else 3
        yield from draw.conv(f"vision_tower.convs.{i}.proj", width, inputs, VISION["patch_size"][i])
        normed = inputs if VISION["patch_prenorm"][i] else width
        yield from draw.norm(f"vision_tower.convs.{i}.norm", normed)
    for i, width in enumerate(widths):
        for j in range(VISION["depths"][i]):
            for block, attention in (
                ("spatial_block", "window_attn"),
                ("channel_block", "channel_attn"),
            ):
                name = f"vision_tower.blocks.{i}.{j}.{block}"
                yield from draw.conv(f"{name}.conv1.fn.dw", width, 1, 3)
                yield from draw.norm(f"{name}.{attention}.norm", width)
                yield from draw.linear(f"{name}.{attention}.fn.qkv", width, 3 * width)
                yield from draw.linear(f"{name}.{attention}.fn.proj", width, width)
                yield from draw.conv(f"{name}.conv2.fn.dw", width, 1, 3)
                yield from draw.norm(f"{name}.ffn.norm", width)
                yield from draw.linear(f"{name}.ffn.fn.net.fc1", width, 4 * width)
                yield from draw.linear(f"{name}.ffn.fn.net.fc2", 4 * width, width)
    last, inner = widths[-1], VISION["projection_dim"]
    # A bare parameter that multiplies from the right.
    yield "image_projection", draw.normal(last, inner, std=last**-0.5)
    yield from draw.norm("image_proj_norm", inner)
    rows = VISION["max_position_embeddings"]
    yield "image_pos_embed.row_embeddings.weight", draw.normal(rows, last // 2)
    yield "image_pos_embed.column_embeddings.weight", draw.normal(rows, last - last // 2)
    yield (
        "visual_temporal_embed.pos_idx_to_embed",
        draw.normal(VISION["max_temporal_embeddings"], last),
    )
    for name, tensor in _bart(draw, positions, vocab_padding):
        yield f"language_model.{name}", tensor


def _bart(draw: _Draw, positions: int, vocab_padding: int) -> Iterator[tuple[str, Tensor]]:
    width = BART["d_model"]
    shared = draw.normal(len(florence_tokenizer) + vocab_padding, width)
    yield "final_logits_bias", torch.zeros(1, shared.shape[0])
    yield "model.shared.weight", shared
    for side in ("encoder", "decoder"):
        name = f"model.{side}"
        yield f"{name}.embed_tokens.weight", shared.clone()
        yield f"{name}.embed_positions.weight", draw.normal(positions + 2, width)
        yield from draw.norm(f"{name}.layernorm_embedding", width)
        for i in range(BART[f"{side}_layers"]):
            layer = f"{name}.layers.{i}"
            for attention in ("self_attn",) if side == "encoder" else ("self_attn", "encoder_attn"):
                for part in ("k_proj", "v_proj", "q_proj", "out_proj"):
                    yield from draw.linear(f"{layer}.{attention}.{part}", width, width)
                yield from draw.norm(f"{layer}.{attention}_layer_norm", width)
            inner = BART[f"{side}_ffn_dim"]
            yield from draw.linear(f"{layer}.fc1", width, inner)
            yield from draw.linear(f"{layer}.fc2", inner, width)
            yield from draw.norm(f"{layer}.final_layer_norm", width)
    yield "lm_head.weight", shared.clone()


def _clip(draw: _Draw) -> Iterator[tuple[str, Tensor]]:
    width, inner = CLIP["hidden_size"], CLIP["intermediate_size"]
    yield "embeddings.token_embedding.weight", draw.normal(len(clip_tokenizer), width)
    positions = CLIP["max_position_embeddings"]
    yield "embeddings.position_embedding.weight", draw.normal(positions, width)
    for i in range(CLIP["num_hidden_layers"]):
        name = f"encoder.layers.{i}"
        for part in ("k_proj", "v_proj", "q_proj", "out_proj"):
            yield from draw.linear(f"{name}.self_attn.{part}", width, width)
        yield from draw.norm(f"{name}.layer_norm1", width)
        yield from draw.linear(f"{name}.mlp.fc1", width, inner)
        yield from draw.linear(f"{name}.mlp.fc2", inner, width)
        yield from draw.norm(f"{name}.layer_norm2", width)
    yield from draw.norm("final_layer_norm", width)


def _qwen(draw: _Draw, sizes: dict[str, Any], vocab_padding: int) -> Iterator[tuple[str, Tensor]]:
    width, inner = sizes["hidden_size"], sizes["intermediate_size"]
    kept = width * sizes["num_key_value_heads"] // sizes["num_attention_heads"]
    embedding = draw.normal(len(qwen_tokenizer) + vocab_padding, width, std=0.5)
    # Long enough that captions end by themselves, at different lengths.
    embedding[qwen_tokenizer.eos_token_id] *= 3
    yield "model.embed_tokens.weight", embedding
    for i in range(sizes["num_hidden_layers"]):
        name = f"model.layers.{i}"
        for part, outputs in (("q_proj", width), ("k_proj", kept), ("v_proj", kept)):
            yield from draw.linear(f"{name}.self_attn.{part}", width, outputs)
        yield from draw.linear(f"{name}.self_attn.o_proj", width, width, bias=False)
        yield from draw.linear(f"{name}.mlp.gate_proj", width, inner, bias=False)
        yield from draw.linear(f"{name}.mlp.up_proj", width, inner, bias=False)
        yield from draw.linear(f"{name}.mlp.down_proj", inner, width, bias=False)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield f"{name}.{norm}.weight", 1 + draw.normal(width, std=0.2)
    yield "model.norm.weight", 1 + draw.normal(width, std=0.2)
    yield "lm_head.weight", embedding.clone()


def _diffusers(draw: _Draw, kind: Any, sizes: dict[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """A network of diffusers, whose names have not changed since."""
    for name, like in kind(**sizes).state_dict().items():
        shape = tuple(like.shape)
        if like.dim() > 1:
            yield name, draw.normal(*shape, std=like[0].numel() ** -0.5)
        else:
            # The weights of group and layer norms are the only vectors that start as ones.
            yield name, draw.normal(*shape, std=0.1) + float(bool((like == 1).all()))


def _tied(state: State) -> State:
    """Equal tensors of a module are one in memory, and PyTorch stores them so."""
    one: dict[bytes, Tensor] = {}
    return {
        name: one.setdefault(tensor.contiguous().numpy().tobytes(), tensor)
        for name, tensor in state.items()
    }


def _apart(state: State) -> State:
    """safetensors refuses tensors that share memory."""
    return {name: tensor.contiguous().clone() for name, tensor in state.items()}


def _write(path: Path, data: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=2))
