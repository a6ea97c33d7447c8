"""What a row of the speedrun changes beside fields of `Stage1Config`. Knows no loop and no cost."""

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from vlv.models.encoder import VLVEncoder
from vlv.training.objectives.stage1 import Stage1Objective
from vlv.world.language import short_caption
from vlv.world.scene import sample_scene

# Captions whose mean is taken, and pictures that phi is fitted on.
_CAPTIONS, _FITTED_ON = 256, 32


class Levers(BaseModel):
    """What a row changes that is no field of `Stage1Config`.

    cached_latents: the VAE runs once for each picture. phi_at_text: z begins as token embeddings of
    the text tower, see `begin_at_text`. frozen_vision_steps: so long the vision tower does not
    train. encoder_image_size: of pictures as the encoder sees them, in pixels. num_queries: so many
    embeddings z instead of the 77 of the model. wide_start: fresh matrices keep the size of what
    they multiply (standard deviation 1 / sqrt(fan-in)); the library draws all of them with 0.02.
    whitened_phi: phi begins with what differs between pictures, and the vision tower with larger
    matrices, as with `phi_start: whitened`; the pictures are those of the narrow world.
    """

    model_config = ConfigDict(extra="forbid")

    cached_latents: bool = False
    phi_at_text: Literal["mean", "empty", "captions"] | None = None
    frozen_vision_steps: int = Field(0, ge=0)
    encoder_image_size: int | None = Field(None, gt=0)
    num_queries: int | None = Field(None, gt=0)
    wide_start: bool = False
    whitened_phi: bool = False


def reshape(encoder: VLVEncoder, levers: Levers, picture: int) -> None:
    """Give a fresh encoder the sizes of a row; pictures have `picture` pixels a side."""
    settings = encoder.settings
    if levers.encoder_image_size is not None:
        changes = {"image_size": levers.encoder_image_size, "crop_size": picture}
        settings = settings.model_copy(update=changes)
    if levers.num_queries is not None:
        settings = settings.model_copy(update={"num_queries": levers.num_queries})
        encoder.queries = nn.Parameter(encoder.queries.detach()[:, : levers.num_queries].clone())
    encoder.settings = settings


@torch.no_grad()
def start_wide(encoder: VLVEncoder) -> None:
    """Draw the matrices of a fresh Florence-2 again; see `Levers.wide_start`."""
    for module in encoder.florence.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.weight.normal_(std=module.weight[0].numel() ** -0.5)


@torch.no_grad()
def begin_at_text(objective: Stage1Objective, kind: str, images: NDArray[np.uint8]) -> None:
    """Phi's last layer is fitted so that z begins as token embeddings of the text tower: their mean
    at every place, or by place those of the empty text, or their means over captions of scenes
    that no run sees as pairs.
    """
    tower, encoder = objective.text_tower, objective.encoder
    last = encoder.phi[-1]
    table = tower.clip.embeddings.token_embedding.weight
    queries = encoder.settings.num_queries
    if kind == "mean":
        wanted = table.mean(0).expand(queries, -1)
    else:
        rng = np.random.default_rng(0)
        texts = [""]
        if kind == "captions":
            texts = [short_caption(sample_scene(seed), rng) for seed in range(_CAPTIONS)]
        wanted = tower.token_embeddings(texts)[0].mean(0)[:queries]
    inner = _entering(encoder, last, images[:_FITTED_ON]).mean(0)  # (Q, D)
    # Ridge regression, so that what differs between images stays small beside it.
    centre = inner.mean(0)
    gap, aim = inner - centre, wanted - wanted.mean(0)
    ridge = gap.square().mean() * len(gap)
    square = gap.T @ gap
    weight = torch.linalg.solve(square + 0.01 * ridge * torch.eye(len(square)), gap.T @ aim).T
    last.weight.mul_(0.1).add_(weight)
    last.bias.copy_(wanted.mean(0) - last.weight @ centre)


def _entering(encoder: VLVEncoder, module: nn.Module, images: NDArray[np.uint8]) -> Tensor:
    """What a module of phi gets for the pictures (n, Q, D)."""
    seen: list[Tensor] = []
    handle = module.register_forward_pre_hook(lambda _module, given: seen.append(given[0]))
    encoder(encoder.preprocess_uint8(torch.from_numpy(images.copy())))
    handle.remove()
    return seen[0]
