"""Which numbers and names a config of unknown origin may hold, so that what is built from it fits.

Knows plain JSON values, no library and no file. The bounds are wide: every published model that VLV
is made of lies far inside.
"""

import math
import re
from collections.abc import Iterator
from typing import Any

# Attention that is part of the libraries. Other names are packages, or kernels fetched from a hub.
ATTENTION = ("eager", "sdpa")
DTYPES = ("auto", "float16", "bfloat16", "float32", "float64")
# Keys that name an implementation to compute with.
_IMPLEMENTATION = re.compile(r"_?(attn|experts)_implementation(_internal)?")
# Keys that name code to run.
_CODE = re.compile(r"auto_map|custom_\w+|trust_remote_code|kernel_config|use_kernels")
_LONGEST_TEXT = 100_000
# What diffusers writes for no bound on the steps of a DPM++ schedule.
_MAY_BE_INFINITE = frozenset(("lambda_min_clipped",))
_LONGEST_LIST = 4096

# Names of numbers -> the least and the most. The first that fits a name counts.
_NUMBERS = [
    (re.compile(pattern), least, most)
    for pattern, least, most in (
        (r"(.*_)?ids?|.*_index", -1, 10_000_000),
        (r"(.*_)?vocab_size", 0, 2_000_000),
        (r".*timesteps|.*steps(_offset)?", 0, 10_000),
        (r"(.*_)?(layers?|depths?|blocks?)(_per_block)?", 0, 512),
        (r"(.*_)?(heads?|groups?|experts?|head_dim)(_(per|for)_.*)?", 0, 4096),
        (r"(image|crop|sample)_size", 0, 4096),
        (r"patch_(size|stride|padding)|window_size|conv_\w+_kernel|downsample_padding", 0, 64),
        (r"max_temporal_embeddings|num_queries|norm_num_groups", 0, 4096),
        (r"(.*_)?(position_embeddings|n_positions|n_ctx|sliding_window|max_length)", 0, 20_000_000),
        (r"relative_attention_\w+", 1, 65_536),
        (r"(flow_)?shift|timestep_scale|query_pre_attn_scalar", 1e-6, 1e6),
        (
            r"(.*_)?(size|dims?|width|channels|d_model|d_ff|d_kv|n_embd|n_inner|hidden|rank)",
            0,
            400_000,
        ),
        (r"(.*_)?(dropout|layerdrop|drop_path_rate|drop|eps|range|std)", 0, 10),
        (r"mlp_ratio", 0, 64),
        (r".*", -1e12, 1e12),
    )
]
# Numbers, or lists of them, of which zero would divide, or build nothing.
# fmt: off
_POSITIVE = frozenset((
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "d_model", "encoder_layers", "decoder_layers",
    "encoder_attention_heads", "decoder_attention_heads", "encoder_ffn_dim", "decoder_ffn_dim",
    "vocab_size", "max_position_embeddings", "n_layer", "n_head", "n_embd", "n_positions",
    "embed_dim", "num_heads", "num_groups", "depths", "patch_size", "patch_stride",
    "window_size", "projection_dim", "mlp_ratio", "max_temporal_embeddings", "in_channels",
    "out_channels", "latent_channels", "block_out_channels", "layers_per_block",
    "norm_num_groups", "cross_attention_dim", "attention_head_dim", "sample_size",
    "num_train_timesteps", "image_size", "crop_size", "num_queries", "embedding_width",
    "conditioning_width", "sliding_window", "rope_theta", "d_ff", "d_kv", "num_layers",
    "num_cross_attention_heads", "cross_attention_head_dim", "caption_channels",
    "joint_attention_dim", "caption_projection_dim", "pooled_projection_dim", "pos_embed_max_size",
    "encoder_block_out_channels", "decoder_block_out_channels",
))
# fmt: on


def fault_of(config: Any) -> str | None:
    """What is wrong with a config by these bounds, in a few words; None where nothing is."""
    if not isinstance(config, dict):
        return f"it is no object but {_kind(config)}"
    return next(_faults(config, ""), None)


def code_in(value: Any) -> str | None:
    """The key of a config that names code to run; None where there is none."""
    if isinstance(value, list):
        return next((found for one in value if (found := code_in(one))), None)
    if not isinstance(value, dict):
        return None
    for key, inner in value.items():
        if key == "vocab":  # its keys are tokens
            continue
        if _CODE.fullmatch(key) and inner not in (None, False, {}, []):
            return str(key)
        if found := code_in(inner):
            return found
    return None


def _faults(config: dict[str, Any], path: str) -> Iterator[str]:
    for key, value in config.items():
        where = f"{path}{key}"
        if key == "transformers.js_config":  # which this library does not read
            continue
        if _IMPLEMENTATION.fullmatch(key):
            yield from _implementation(value, where)
        elif key in ("dtype", "torch_dtype"):
            if value is not None and (not isinstance(value, str) or value not in DTYPES):
                yield f"{where} is {shown(value)}, none of {', '.join(DTYPES)}"
        else:
            yield from _value_faults(key, value, where)


def _value_faults(key: str, value: Any, where: str) -> Iterator[str]:
    if isinstance(value, dict):
        yield from _faults(value, f"{where}.")
    elif isinstance(value, list):
        if len(value) > _LONGEST_LIST:
            yield f"{where} is a list of {len(value)}"
        elif key in _POSITIVE and not value:
            yield f"{where} is empty"
        for inner in value[:_LONGEST_LIST]:
            yield from _value_faults(key, inner, where)
    elif isinstance(value, str):
        if len(value) > _LONGEST_TEXT:
            yield f"{where} is a text of {len(value)} characters"
        elif key in _POSITIVE:
            yield f"{where} is {shown(value)}, no number"
    elif isinstance(value, bool):
        if key in _POSITIVE:
            yield f"{where} is {shown(value)}, no number"
    elif isinstance(value, int | float):
        yield from _number_faults(key, value, where)


def _number_faults(key: str, value: float, where: str) -> Iterator[str]:
    least, most = next((least, most) for name, least, most in _NUMBERS if name.fullmatch(key))
    if key in _MAY_BE_INFINITE and math.isinf(value):
        return
    if not math.isfinite(value):
        yield f"{where} is {shown(value)}"
    elif key in _POSITIVE and value <= 0:
        yield f"{where} is {shown(value)}, and must be above 0"
    elif value > most:
        yield f"{where} is {shown(value)}, beyond {most:,}"
    elif value < least:
        yield f"{where} is {shown(value)}, below {least:,}"


def _implementation(value: Any, where: str) -> Iterator[str]:
    if value is not None and (not isinstance(value, str) or value not in ATTENTION):
        yield f"{where} is {shown(value)}, where {' and '.join(ATTENTION)} are known"


def _kind(value: Any) -> str:
    names = {list: "a list", str: "a text", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number")


def shown(value: Any) -> str:
    """A value for a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 40 else text[:40] + "…"
