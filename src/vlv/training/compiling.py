"""`torch.compile` of the blocks that networks repeat, each on its own.

A block is compiled once for all of its kind that have the same sizes, which takes seconds where a
whole network takes minutes. `nn.Module.compile` leaves modules and the names of their parameters as
they are. Gradient checkpointing stays around a block: what is computed again is the compiled one.
"""

import torch
from diffusers.models.attention import BasicTransformerBlock, JointTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.sana_transformer import SanaTransformerBlock
from diffusers.models.transformers.transformer_flux import (
    FluxSingleTransformerBlock,
    FluxTransformerBlock,
)
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.florence2.modeling_florence2 import (
    Florence2VisionChannelBlock,
    Florence2VisionSpatialBlock,
)

# Layers of transformers' text models (CLIP, BART, Qwen2) are of the first kind.
_BLOCKS = (
    GradientCheckpointingLayer,
    Florence2VisionSpatialBlock,
    Florence2VisionChannelBlock,
    BasicTransformerBlock,
    ResnetBlock2D,
    JointTransformerBlock,
    FluxTransformerBlock,
    FluxSingleTransformerBlock,
    SanaTransformerBlock,
)
# Sizes that one kind of block comes in: channels and sides of a U-Net, lengths of captions. Beyond
# PyTorch's limit of 8 it would go on without compiling.
_SIZES = 64


def compile_blocks(module: nn.Module) -> list[str]:
    """Compile every block of `module` at its first call; returns their names."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _SIZES)
    torch._dynamo.config.accumulated_recompile_limit = max(
        torch._dynamo.config.accumulated_recompile_limit, 16 * _SIZES
    )
    names: list[str] = []
    for name, block in module.named_modules():
        if isinstance(block, _BLOCKS) and not name.startswith(tuple(f"{one}." for one in names)):
            # PyTorch keeps what it compiled by the class, and takes what differs between two blocks
            # of it for dynamic. Its compiler fails on dynamic channels; only lengths of texts vary.
            texts = isinstance(block, GradientCheckpointingLayer)
            block.compile(dynamic=None if texts else False)
            names.append(name)
    return names
