"""Which parameters of a model a stage trains, and how the frozen ones are kept. Knows no stage.

A group is a list of parameters under a name, as the boxes' own `parts()` gives them.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from vlv.models.caption_decoder import CaptionDecoder
from vlv.models.diffusion_decoder import DiffusionDecoder
from vlv.models.encoder import VLVEncoder

EncoderGroup = Literal["vision", "encoder", "projection", "transformer", "queries", "phi"]
ParameterGroup = Literal[EncoderGroup, "psi", "language_model"]

# One name for several groups: "encoder" is the paper's E. The vision tower, which the authors
# froze, has its own switch.
COLLECTIVE: dict[str, tuple[str, ...]] = {
    "encoder": ("projection", "transformer", "queries", "phi")
}
PART_NAMES = get_args(ParameterGroup)
"""The names that `trainable` and `learning_rates` may use."""
ENCODER_GROUPS = frozenset({"vision", *COLLECTIVE, *COLLECTIVE["encoder"]})


def freeze_except(
    module: nn.Module, groups: Mapping[str, Sequence[nn.Parameter]], trainable: Sequence[str]
) -> None:
    """Freeze `module` except the groups named by `trainable`."""
    module.requires_grad_(False)
    for name in trainable:
        for group in COLLECTIVE.get(name, (name,)):
            for parameter in groups[group]:
                parameter.requires_grad_(True)


def round_frozen(module: nn.Module, keep_exact: tuple[str, ...] = ()) -> list[str]:
    """Keep frozen matrices in bfloat16, except those whose names begin with one of `keep_exact`.
    Biases, the weights of norms and buffers stay: they are small, and norms compute
    in float32. Returns the names.
    """
    rounded = []
    for name, parameter in module.named_parameters():
        matrix = parameter.ndim > 1
        if matrix and not parameter.requires_grad and not name.startswith(keep_exact):
            parameter.data = parameter.data.to(torch.bfloat16)
            rounded.append(name)
    return rounded


def checkpoint_gradients(
    encoder: VLVEncoder,
    decoder: DiffusionDecoder | None = None,
    caption_decoder: CaptionDecoder | None = None,
) -> None:
    """Compute activations again in the backward pass instead of keeping them.

    The switches are the libraries' own, except for Florence-2's vision tower, which has none. What
    is in eval mode because nothing in it trains (the text tower, a frozen language model) keeps its
    activations.
    """
    if decoder is not None:
        decoder.denoiser.enable_gradient_checkpointing()
    _switch_on(encoder.florence.language_model)
    if caption_decoder is not None:
        checkpoint_language_model(caption_decoder)
    for block in vision_blocks(encoder):
        block.forward = _checkpointed(block)


def checkpoint_language_model(caption_decoder: CaptionDecoder) -> None:
    """`checkpoint_gradients` of a caption decoder alone."""
    _switch_on(caption_decoder.lm)


def _switch_on(network: Any) -> None:
    # transformers is going to remove the name that version 5 began with.
    old = "gradient_checkpointing_enable"
    new = "activation_checkpointing_enable"
    getattr(network, new if hasattr(network, new) else old)({"use_reentrant": False})


def vision_blocks(encoder: VLVEncoder) -> list[nn.Module]:
    """The vision tower's blocks: a pair of spatial and channel attention each."""
    return [block for stage in encoder.florence.vision_tower.blocks for block in stage]


def _checkpointed(block: nn.Module) -> Any:
    compute = block.forward

    def forward(*inputs: Any, **named: Any) -> Any:
        if not torch.is_grad_enabled():
            return compute(*inputs, **named)
        return checkpoint(compute, *inputs, use_reentrant=False, **named)

    return forward
