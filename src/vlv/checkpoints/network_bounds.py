"""What only the config of one kind of network can have wrong: sizes that do not divide each other,
and classes that are not built. bounds.py has what holds for any config.

Knows plain JSON values, no library and no file.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from vlv.checkpoints.bounds import fault_of, shown

# Blocks, and their layers together, of a U-Net or VAE.
_MOST_BLOCKS, _MOST_UNET_LAYERS = 8, 512
# The classes of diffusers that are built.
_VAES = ("AutoencoderKL", "AutoencoderDC")
_TRANSFORMERS = ("SD3Transformer2DModel", "SanaTransformer2DModel", "FluxTransformer2DModel")


def network_fault(config: dict[str, Any], kind: str) -> str | None:
    """`fault_of` a library's config, and what only a config of this kind can have wrong.

    kind: a part with a config (`vlv.checkpoints.parts`), or scheduler.
    """
    special = {
        "encoder": _florence,
        "text_tower": _text_tower,
        "text_encoder": _text_encoder,
        "text_encoder_2": _text_encoder,
        "text_encoder_3": _text_encoder,
        "unet": _unet,
        "transformer": _transformer,
        "vae": _vae,
        "scheduler": _scheduler,
        "language_model": _language_model,
    }[kind]
    return fault_of(config) or next(special(config), None)


def _florence(config: dict[str, Any]) -> Iterator[str]:
    vision, text = config.get("vision_config"), config.get("text_config")
    for name, part in (("vision_config", vision), ("text_config", text)):
        if not isinstance(part, dict):
            yield f"{name} is no object"
            return
    assert isinstance(vision, dict) and isinstance(text, dict)
    yield from _is(config, "model_type", "florence2")
    yield from _is(text, "model_type", "bart")
    yield from _at_most(text, "max_position_embeddings", 65_536)
    yield from _at_most(vision, "max_position_embeddings", 4096)
    stages = ("depths", "embed_dim", "num_heads", "num_groups", "patch_size", "patch_stride")
    lists = {
        name: vision[name] for name in (*stages, "patch_padding", "patch_prenorm") if name in vision
    }
    if any(not isinstance(one, list) for one in lists.values()):
        yield "vision_config has a single number where there is one for each stage"
    elif len({len(one) for one in lists.values()}) > 1:
        yield f"vision_config has lists of different lengths ({', '.join(lists)})"
    elif {"embed_dim", "num_heads", "num_groups"} <= lists.keys():
        shares = zip(lists["embed_dim"], lists["num_heads"], lists["num_groups"], strict=True)
        for width, heads, groups in shares:
            yield from _divides(width, heads, "vision_config.num_heads")
            yield from _divides(width, groups, "vision_config.num_groups")
    for side in ("encoder", "decoder"):
        name = f"{side}_attention_heads"
        yield from _divides(text.get("d_model"), text.get(name), f"text_config.{name}")


def _text_encoder(config: dict[str, Any]) -> Iterator[str]:
    """One of the encoders of a text tower, by what it says that it is."""
    kinds = {
        "clip_text_model": _text_tower,
        "clip": _text_tower,
        "t5": _t5,
        "gemma2": _gemma2,
    }
    yield from _is_one_of(config, "model_type", tuple(kinds))
    kind = config.get("model_type", "clip_text_model")
    if isinstance(kind, str) and kind in kinds:
        yield from kinds[kind](config)


def _t5(config: dict[str, Any]) -> Iterator[str]:
    """Heads of T5 have a width of their own (`d_kv`): nothing has to divide."""
    buckets, distance = (
        config.get(f"relative_attention_{name}", default)
        for name, default in (("num_buckets", 32), ("max_distance", 128))
    )
    # Positions far away share buckets by the logarithm of this ratio.
    if isinstance(buckets, int) and isinstance(distance, int) and not 4 <= buckets < 4 * distance:
        yield (
            f"relative_attention_num_buckets is {buckets}, where relative_attention_max_distance "
            f"is {distance}"
        )


def _gemma2(config: dict[str, Any]) -> Iterator[str]:
    heads, kept = config.get("num_attention_heads"), config.get("num_key_value_heads")
    yield from _divides(heads, kept, "num_key_value_heads")
    head = config.get("head_dim", 256)
    if isinstance(head, int) and head % 2:
        yield f"head_dim is {head}, and must be even"
    layers, kinds = config.get("num_hidden_layers", 26), config.get("layer_types")
    if isinstance(kinds, list) and len(kinds) != layers:
        yield f"layer_types has {len(kinds)} entries for {layers} layers"


def _text_tower(config: dict[str, Any]) -> Iterator[str]:
    yield from _at_most(config, "max_position_embeddings", 65_536)
    heads = config.get("num_attention_heads")
    yield from _divides(config.get("hidden_size"), heads, "num_attention_heads")


def _language_model(config: dict[str, Any]) -> Iterator[str]:
    # Kept as a square of zeros and ones by the families that call it so.
    yield from _at_most(config, "n_positions", 16_384)
    heads, kept = config.get("num_attention_heads"), config.get("num_key_value_heads")
    yield from _divides(heads, kept, "num_key_value_heads")
    if not isinstance(config.get("head_dim"), int):
        yield from _divides(config.get("hidden_size"), heads, "num_attention_heads")
    method = config.get("quantization_config")
    if isinstance(method, dict) and method.get("quant_method") != "bitsandbytes":
        yield f"quantization_config is of {shown(method.get('quant_method'))}, not bitsandbytes"


def _unet(config: dict[str, Any]) -> Iterator[str]:
    yield from _is(config, "_class_name", "UNet2DConditionModel")
    yield from _blocks(config)
    blocks = config.get("block_out_channels")
    if not isinstance(blocks, list):
        return
    layers = _each(config.get("layers_per_block", 2), len(blocks))
    inner = _each(config.get("transformer_layers_per_block", 1), len(blocks))
    if len(layers) != len(blocks) or len(inner) != len(blocks):
        yield "it names layers for another number of blocks than it has"
    elif sum(a * max(1, b) for a, b in zip(layers, inner, strict=True)) > _MOST_UNET_LAYERS:
        yield f"its blocks have more than {_MOST_UNET_LAYERS} layers together"


def _transformer(config: dict[str, Any]) -> Iterator[str]:
    yield from _is_one_of(config, "_class_name", _TRANSFORMERS)
    yield from _at_most(config, "pos_embed_max_size", 4096)
    name = config.get("_class_name")
    heads, head = config.get("num_attention_heads", 70), config.get("attention_head_dim", 32)
    if name == "SanaTransformer2DModel" and isinstance(heads, int) and isinstance(head, int):
        crossed = config.get("cross_attention_dim", 2240)
        if crossed != heads * head:
            yield f"cross_attention_dim is {shown(crossed)}, which is not {heads} heads of {head}"
        if config.get("guidance_embeds"):
            yield "guidance_embeds is set, as in Sana Sprint, which is not supported"


def _vae(config: dict[str, Any]) -> Iterator[str]:
    yield from _is_one_of(config, "_class_name", _VAES)
    if config.get("_class_name") == "AutoencoderDC":
        yield from _deep_compression(config)
    else:
        yield from _blocks(config)


def _deep_compression(config: dict[str, Any]) -> Iterator[str]:
    for side in ("encoder", "decoder"):
        blocks = config.get(f"{side}_block_out_channels", [])
        layers = config.get(f"{side}_layers_per_block", [])
        for name, value in (("block_out_channels", blocks), ("layers_per_block", layers)):
            if not isinstance(value, list) or len(value) > _MOST_BLOCKS:
                yield f"{side}_{name} is not a list of at most {_MOST_BLOCKS}"
                return
        if not all(isinstance(one, int) and 0 <= one <= 64 for one in layers):
            yield f"{side}_layers_per_block is {shown(layers)}, not numbers up to 64"
        head = config.get("attention_head_dim", 32)
        for channels in blocks:
            yield from _divides(channels, head, "attention_head_dim")


def _blocks(config: dict[str, Any]) -> Iterator[str]:
    for name in ("block_out_channels", "down_block_types", "up_block_types"):
        blocks = config.get(name, [])
        if not isinstance(blocks, list) or len(blocks) > _MOST_BLOCKS:
            yield f"{name} is not a list of at most {_MOST_BLOCKS}"
            return
    yield from _at_most(config, "layers_per_block", 64)
    groups = config.get("norm_num_groups")
    for channels in config.get("block_out_channels", []):
        yield from _divides(channels, groups, "norm_num_groups")


def _scheduler(config: dict[str, Any]) -> Iterator[str]:
    name = config.get("_class_name", "DDPMScheduler")
    if not (isinstance(name, str) and re.fullmatch(r"[A-Z]\w*Scheduler(Discrete)?", name)):
        yield f"_class_name is {shown(name)}, no scheduler of diffusers"
    betas = [config.get("beta_start", 0.0001), config.get("beta_end", 0.02)]
    for beta in betas:
        if isinstance(beta, bool) or not isinstance(beta, int | float) or not 0 < beta < 1:
            yield f"a beta is {shown(beta)}, not between 0 and 1"
    offset = config.get("steps_offset", 0)
    if isinstance(offset, bool) or not isinstance(offset, int):
        yield f"steps_offset is {shown(offset)}, no number"
    given = config.get("trained_betas")
    if given is not None and not (
        isinstance(given, list)
        and all(isinstance(beta, int | float) and 0 < beta < 1 for beta in given)
    ):
        yield "trained_betas are not numbers between 0 and 1"


def _is(config: dict[str, Any], key: str, wanted: str) -> Iterator[str]:
    if config.get(key, wanted) != wanted:
        yield f"{key} is {shown(config[key])}, where {wanted} is needed"


def _is_one_of(config: dict[str, Any], key: str, known: Sequence[str]) -> Iterator[str]:
    if config.get(key, known[0]) not in known:
        yield f"{key} is {shown(config[key])}, where one of {', '.join(known)} is needed"


def _at_most(config: dict[str, Any], key: str, most: int) -> Iterator[str]:
    value = config.get(key)
    numbers = value if isinstance(value, list) else [value]
    for number in numbers:
        if isinstance(number, int | float) and number > most:
            yield f"{key} is {shown(number)}, beyond {most:,}"


def _divides(width: Any, parts: Any, where: str) -> Iterator[str]:
    if isinstance(width, int) and isinstance(parts, int) and parts > 0 and width % parts:
        yield f"{where} is {parts}, which does not divide {width}"


def _each(value: Any, count: int) -> list[int]:
    """A number for each block; of a number for each layer of a block, the sum."""
    each = value if isinstance(value, list) else [value] * count
    return [sum(one) if isinstance(one, list) else one for one in each if _countable(one)]


def _countable(value: Any) -> bool:
    inner = value if isinstance(value, list) else [value]
    return all(isinstance(one, int) for one in inner)
