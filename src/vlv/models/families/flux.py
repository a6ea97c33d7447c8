"""FLUX.1: T5, whose states are the tokens, and CLIP-L, whose pooled state alone is read; latents of
an `AutoencoderKL` with a shift, packed 2x2; rectified flow; and a transformer of double and single
blocks.

Shapes: B batch, Q embeddings, L positions; C latent channels, h,w latent size, N = hw/4 packed
positions; d1 width of CLIP, d2 that of T5, which is the width of c.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import (
    CLIPTextModel,
    CLIPTokenizer,
    PreTrainedTokenizerFast,
    T5EncoderModel,
)

from vlv.models.clip import clip_slot, last_states, pooled_state, token_embeddings
from vlv.models.conditioning import Conditioning, Slot
from vlv.models.families.family import FLOW_SAMPLERS, Family, TextEncoderConfigs
from vlv.models.noise_process import FlowNoise
from vlv.models.text_tower import SeveralEncoders

# What the pipeline gives T5 to read.
T5_POSITIONS = 512
# The guidance scale that a distilled network (FLUX.1-dev) reads where a loss is computed, as in
# diffusers' training scripts. In drawing it reads that of the picture.
LOSS_GUIDANCE = 3.5


class FluxTextTower(SeveralEncoders):
    """CLIP for the pooled state and T5 for the tokens, entered side by side."""

    family_name = "flux"
    text_encoder: Any
    text_encoder_2: Any

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The token embeddings of CLIP-L and T5."""
        width = int(self.text_encoder_2.config.d_model)
        return clip_slot("clip", self.text_encoder), Slot("t5", T5_POSITIONS, width)

    @property
    def conditioning_width(self) -> int:
        return int(self.text_encoder_2.config.d_model)

    @property
    def pooled_width(self) -> int:
        return int(self.text_encoder.config.hidden_size)

    @property
    def causal(self) -> bool:
        """Every token of T5 sees all others."""
        return False

    def forward(self, z: Tensor) -> Conditioning:
        """Conditioning c of z (B,Q,d1+d2): tokens (B,Q,d2), pooled (B,d1)."""
        clip, t5 = self.of_slots(z)
        return self._joined(clip, t5, None)

    def encode_ids(self, ids: Tensor) -> Conditioning:
        """Conditioning c of token ids (B,L) of both slots, one after another."""
        clip_ids, t5_ids = self.ids_of_slots(ids)
        t5 = self.text_encoder_2.get_input_embeddings()
        return self._joined(token_embeddings(self.text_encoder, clip_ids), t5(t5_ids), clip_ids)

    def _joined(self, clip: Tensor, t5: Tensor, clip_ids: Tensor | None) -> Conditioning:
        """The conditioning of token embeddings, with the ids of CLIP where there are some."""
        first = self.text_encoder
        pooled = pooled_state(first, last_states(first, clip), clip_ids)
        return Conditioning(self.text_encoder_2(inputs_embeds=t5).last_hidden_state, pooled)


class Flux(Family):
    """FLUX.1: dev, whose network was distilled from guidance and reads its scale, and schnell."""

    name = "flux"
    tower_class = FluxTextTower
    text_encoder_classes = {"text_encoder": CLIPTextModel, "text_encoder_2": T5EncoderModel}
    # T5's class takes a vocabulary of its own kind only; this one reads every tokenizer.json.
    tokenizer_classes = {
        "text_encoder": CLIPTokenizer,
        "text_encoder_2": PreTrainedTokenizerFast,
    }
    vae_defaults = {"shift_factor": 0.0}
    noise_class = FlowNoise
    denoiser_class_name = "FluxTransformer2DModel"
    scheduler_class_name = "FlowMatchEulerDiscreteScheduler"
    # The pipeline gives its own sigmas, which the method of Heun does not take.
    samplers = FLOW_SAMPLERS
    default_sampler = "euler"

    def denoise(
        self, network: Any, noisy: Tensor, timesteps: Tensor, c: Conditioning, image_size: int
    ) -> Tensor:
        guidance = None
        if network.config.guidance_embeds:
            guidance = torch.full((len(c),), LOSS_GUIDANCE, device=noisy.device)
        height, width = noisy.shape[-2:]
        predicted: Tensor = network(
            hidden_states=packed(noisy),
            timestep=timesteps / 1000,  # the network multiplies by as much
            guidance=guidance,
            pooled_projections=c.pooled,
            encoder_hidden_states=c.tokens,
            txt_ids=c.tokens.new_zeros(c.tokens.shape[1], 3),
            img_ids=positions(height // 2, width // 2, c.tokens),
        ).sample
        return unpacked(predicted, height, width)

    def widths_fault(
        self, text_encoders: TextEncoderConfigs, denoiser: Mapping[str, Any]
    ) -> str | None:
        for key, usual, width, whose in (
            (
                "joint_attention_dim",
                4096,
                text_encoders["text_encoder_2"].get("d_model", 512),
                "d_model of text_encoder_2",
            ),
            (
                "pooled_projection_dim",
                768,
                text_encoders["text_encoder"].get("hidden_size", 512),
                "hidden_size of text_encoder",
            ),
        ):
            if denoiser.get(key, usual) != width:
                return (
                    f"transformer.{key} ({denoiser.get(key, usual)}) must equal the {whose} "
                    f"({width})"
                )
        return None


def packed(latents: Tensor) -> Tensor:
    """Latents (B,C,h,w) as the transformer reads them: squares of 2x2, (B,N,4C)."""
    batch, channels, height, width = latents.shape
    squares = latents.view(batch, channels, height // 2, 2, width // 2, 2)
    return squares.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * 4)


def unpacked(sequence: Tensor, height: int, width: int) -> Tensor:
    """Latents (B,C,h,w) of their squares (B,N,4C)."""
    batch, _, values = sequence.shape
    squares = sequence.view(batch, height // 2, width // 2, values // 4, 2, 2)
    return squares.permute(0, 3, 1, 4, 2, 5).reshape(batch, values // 4, height, width)


def positions(rows: int, columns: int, like: Tensor) -> Tensor:
    """Where each square is (N,3): zero, row, column."""
    zero, row, column = torch.meshgrid(
        like.new_zeros(1),
        torch.arange(rows, device=like.device, dtype=like.dtype),
        torch.arange(columns, device=like.device, dtype=like.dtype),
        indexing="ij",
    )
    return torch.stack([zero, row, column], dim=-1).view(-1, 3)


FAMILY = Flux()
