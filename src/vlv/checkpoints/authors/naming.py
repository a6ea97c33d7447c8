"""The names of tensors in the paper authors' checkpoints, and what they are called here.

Knows names only. The authors' Florence-2 is the one with code of its own, which names its tensors
otherwise than transformers' class; a name here is (component, tensor), as in a model folder.
"""

import re
from dataclasses import dataclass
from typing import Literal

from vlv.checkpoints.parts import PartName

Stage = Literal[1, 2]

STAGE2_PREFIX = "VLV_model."
_FLORENCE = "model."

# Original Florence-2 -> transformers' Florence2Model; each is applied, in order.
_TO_NATIVE = [
    (re.compile(r"^(vision_tower\.convs\.\d+)\.proj\."), r"\1.conv."),
    (re.compile(r"\.(conv[12])\.fn\.dw\."), r".\1."),
    (re.compile(r"\.(window_attn|channel_attn)\.norm\."), r".norm1."),
    (re.compile(r"\.(window_attn|channel_attn)\.fn\."), r".\1."),
    (re.compile(r"\.ffn\.norm\."), r".norm2."),
    (re.compile(r"\.ffn\.fn\.net\."), r".ffn."),
    (re.compile(r"^image_projection$"), "multi_modal_projector.image_projection.weight"),
    (re.compile(r"^image_pos_embed\."), "multi_modal_projector.image_position_embed."),
    (re.compile(r"^(image_proj_norm|visual_temporal_embed)\."), r"multi_modal_projector.\1."),
    (re.compile(r"^language_model\.model\."), "language_model."),
]
# And back. The block says which attention a norm1 belongs to.
_TO_ORIGINAL = [
    (re.compile(r"^(vision_tower\.convs\.\d+)\.conv\."), r"\1.proj."),
    (re.compile(r"\.(conv[12])\.(?=weight|bias)"), r".\1.fn.dw."),
    (re.compile(r"\.(window_attn|channel_attn)\."), r".\1.fn."),
    (re.compile(r"\.spatial_block\.norm1\."), ".spatial_block.window_attn.norm."),
    (re.compile(r"\.channel_block\.norm1\."), ".channel_block.channel_attn.norm."),
    (re.compile(r"\.norm2\."), ".ffn.norm."),
    (re.compile(r"\.ffn\.(fc[12])\."), r".ffn.fn.net.\1."),
    (re.compile(r"^multi_modal_projector\.image_projection\.weight$"), "image_projection"),
    (re.compile(r"^multi_modal_projector\.image_position_embed\."), "image_pos_embed."),
    (re.compile(r"^multi_modal_projector\."), ""),
    (re.compile(r"^language_model\."), "language_model.model."),
]
TRANSPOSED = "multi_modal_projector.image_projection.weight"

# The token embeddings, of which the authors' modules save copies.
_SHARED = "language_model.shared.weight"
_FLORENCE_COPIES = (
    "language_model.lm_head.weight",
    "language_model.model.encoder.embed_tokens.weight",
    "language_model.model.decoder.embed_tokens.weight",
)


@dataclass(frozen=True)
class Target:
    """Where a tensor of the authors' belongs: its part and its name there."""

    part: PartName
    name: str


@dataclass(frozen=True)
class Unused:
    """A tensor that VLV does not compute with, why, and of what it may be a copy."""

    reason: str
    copy_of: Target | None = None


def stage_of(names: set[str]) -> Stage:
    """Which stage a checkpoint is of, by the names in it."""
    return 2 if any(name.startswith(STAGE2_PREFIX) for name in names) else 1


def strip_wrapper(name: str) -> str:
    """The name without the `module.` that parallel wrappers put in front, however often."""
    while name.startswith("module."):
        name = name.removeprefix("module.")
    return name


def to_ours(name: str, stage: Stage) -> Target | Unused | None:
    """What a name of the authors' (without `module.`) stands for; None if it is unknown."""
    if stage == 2:
        if name.startswith("mlp.layers."):
            return Target("psi", name.removeprefix("mlp.layers."))
        if name.startswith("qwen2_model."):
            if name.endswith(".rotary_emb.inv_freq"):
                return Unused("rotary frequencies, which the config gives")
            return Target("language_model", name.removeprefix("qwen2_model."))
        if not name.startswith(STAGE2_PREFIX):
            return None
        name = name.removeprefix(STAGE2_PREFIX)
    if name == "query_embed":
        return Target("head", "queries")
    if name.startswith("language_proj."):
        return Target("head", "phi." + name.removeprefix("language_proj."))
    if name.startswith(_FLORENCE):
        return _florence(name.removeprefix(_FLORENCE))
    if name.startswith("text_encoder."):
        # transformers 5 dropped the level `text_model`.
        name = name.removeprefix("text_encoder.").removeprefix("text_model.")
        if name == "embeddings.position_ids":
            return Unused("the numbers of the positions")
        return Target("text_tower", name)
    if name.startswith("vae."):
        return Target("vae", name.removeprefix("vae."))
    if name.startswith("unet."):
        return Target("unet", name.removeprefix("unet."))
    return None


def to_authors(target: Target, stage: Stage) -> str:
    """The authors' name of a tensor of ours; `to_ours` undoes it."""
    if target.part == "psi":
        return "mlp.layers." + target.name
    if target.part == "language_model":
        return "qwen2_model." + target.name
    prefix = STAGE2_PREFIX if stage == 2 else ""
    if target.part == "head":
        if target.name == "queries":
            return prefix + "query_embed"
        return prefix + "language_proj." + target.name.removeprefix("phi.")
    if target.part == "encoder":
        return prefix + _FLORENCE + _rename(target.name, _TO_ORIGINAL)
    if target.part == "text_tower":
        return f"{prefix}text_encoder.text_model.{target.name}"
    return f"{prefix}{target.part}.{target.name}"


def florence_copies(stage: Stage) -> list[str]:
    """The authors' names of the tensors that their Florence-2 saves as copies of its embeddings."""
    prefix = STAGE2_PREFIX if stage == 2 else ""
    return [prefix + _FLORENCE + name for name in _FLORENCE_COPIES]


def _florence(name: str) -> Target | Unused:
    if name == "language_model.final_logits_bias":
        return Unused("Florence-2's head over words, which queries never reach")
    if name in _FLORENCE_COPIES:
        return Unused("Florence-2's words, which queries never reach", Target("encoder", _SHARED))
    return Target("encoder", _rename(name, _TO_NATIVE))


def _rename(name: str, rules: list[tuple[re.Pattern[str], str]]) -> str:
    for pattern, replacement in rules:
        name = pattern.sub(replacement, name)
    return name
