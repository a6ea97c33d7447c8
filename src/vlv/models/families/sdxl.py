"""Stable Diffusion XL: two CLIP text encoders, latents of an `AutoencoderKL`, DDPM noise, and a
U-Net that also reads a pooled state and sizes of pictures (arXiv 2307.01952).

Shapes: B batch, Q embeddings, L positions (77); C latent channels, h,w latent size; d1, d2 widths
of the two CLIPs, whose sum is the width of c; p width of the pooled state.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import (
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from vlv.models.clip import (
    clip_slot,
    penultimate_and_last_states,
    penultimate_states,
    pooled_state,
    token_embeddings,
)
from vlv.models.conditioning import Conditioning, Slot
from vlv.models.config import SCHEDULER
from vlv.models.families.family import DDPM_SAMPLERS, Family, TextEncoderConfigs
from vlv.models.noise_process import DDPMNoise
from vlv.models.text_tower import SeveralEncoders

# What the pipeline's config says of guidance. A model folder has no pipeline's config: the value
# stands in the config of the second text encoder.
EMPTY_IS_ZERO = "force_zeros_for_empty_prompt"


class SDXLTextTower(SeveralEncoders):
    """Two CLIPs whose states stand side by side; the pooled state is the second one's."""

    family_name = "sdxl"
    text_encoder: Any
    text_encoder_2: Any

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The token embeddings of CLIP-L and OpenCLIP-bigG."""
        return (
            clip_slot("clip_l", self.text_encoder),
            clip_slot("clip_g", self.text_encoder_2.text_model),
        )

    @property
    def conditioning_width(self) -> int:
        return self.width

    @property
    def pooled_width(self) -> int:
        return int(self.text_encoder_2.config.projection_dim)

    def forward(self, z: Tensor) -> Conditioning:
        """Conditioning c of z (B,Q,d1+d2): tokens (B,Q,d1+d2), pooled (B,p)."""
        clip_l, clip_g = self.of_slots(z)
        return self._joined(clip_l, clip_g, None)

    def encode_ids(self, ids: Tensor) -> Conditioning:
        """Conditioning c of token ids (B,2L) of both slots, one after another."""
        ids_l, ids_g = self.ids_of_slots(ids)
        return self._joined(
            token_embeddings(self.text_encoder, ids_l),
            token_embeddings(self.text_encoder_2.text_model, ids_g),
            ids_g,
        )

    @property
    def unconditional_is_a_text(self) -> bool:
        return not getattr(self.text_encoder_2.config, EMPTY_IS_ZERO, True)

    def unconditional(self, batch: int, length: int | None = None) -> Conditioning:
        """What guidance steers away from: zeros in the published model, which was trained with
        zeros where a caption was dropped; T("") where the pipeline's config says so.
        """
        if self.unconditional_is_a_text:
            return super().unconditional(batch, length)
        given = next(self.text_encoder_2.parameters())
        return Conditioning(
            given.new_zeros(batch, length or self.positions, self.width),
            given.new_zeros(batch, self.pooled_width),
        )

    def _joined(self, clip_l: Tensor, clip_g: Tensor, ids_g: Tensor | None) -> Conditioning:
        """The conditioning of token embeddings, with the second CLIP's ids where there are some."""
        second = self.text_encoder_2
        states, last = penultimate_and_last_states(second.text_model, clip_g)
        tokens = torch.cat([penultimate_states(self.text_encoder, clip_l), states], dim=-1)
        return Conditioning(
            tokens, second.text_projection(pooled_state(second.text_model, last, ids_g))
        )


class SDXL(Family):
    """Stable Diffusion XL."""

    name = "sdxl"
    tower_class = SDXLTextTower
    text_encoder_classes = {
        "text_encoder": CLIPTextModel,
        "text_encoder_2": CLIPTextModelWithProjection,
    }
    tokenizer_classes = {"text_encoder": CLIPTokenizer, "text_encoder_2": CLIPTokenizer}
    noise_class = DDPMNoise
    denoiser_class_name = "UNet2DConditionModel"
    scheduler_class_name = "DDPMScheduler"
    samplers = DDPM_SAMPLERS
    default_sampler = SCHEDULER

    def text_encoder_settings(self, pipeline: Mapping[str, Any]) -> TextEncoderConfigs:
        return {"text_encoder_2": {EMPTY_IS_ZERO: bool(pipeline.get(EMPTY_IS_ZERO, True))}}

    def denoise(
        self, network: Any, noisy: Tensor, timesteps: Tensor, c: Conditioning, image_size: int
    ) -> Tensor:
        predicted: Tensor = network(
            noisy,
            timesteps,
            encoder_hidden_states=c.tokens,
            added_cond_kwargs={"text_embeds": c.pooled, "time_ids": time_ids(c, image_size)},
        ).sample
        return predicted

    def pipeline_parts(self) -> dict[str, Any]:
        return {**super().pipeline_parts(), "add_watermarker": False}

    def widths_fault(
        self, text_encoders: TextEncoderConfigs, denoiser: Mapping[str, Any]
    ) -> str | None:
        width = sum(one.get("hidden_size", 512) for one in text_encoders.values())
        crossed = denoiser.get("cross_attention_dim", 1280)
        if width != crossed:
            return (
                f"unet.cross_attention_dim ({crossed}) must equal the hidden sizes of the text "
                f"encoders together ({width})"
            )
        pooled = text_encoders["text_encoder_2"].get("projection_dim", 512)
        needed = pooled + 6 * (denoiser.get("addition_time_embed_dim") or 0)
        read = denoiser.get("projection_class_embeddings_input_dim")
        if denoiser.get("addition_embed_type") != "text_time" or read != needed:
            return (
                "unet.addition_embed_type must be text_time, and "
                f"unet.projection_class_embeddings_input_dim ({read}) the projection_dim of "
                f"text_encoder_2 and six times unet.addition_time_embed_dim ({needed})"
            )
        return None


def time_ids(c: Conditioning, image_size: int) -> Tensor:
    """What the U-Net reads of the picture (B,6): its original height and width, the corner where it
    was cropped, and the height and width that are wanted. All pictures are seen whole at the
    decoder's size, as the pipeline takes it for those that it draws.
    """
    sizes = c.tokens.new_tensor([image_size, image_size, 0, 0, image_size, image_size])
    return sizes.expand(len(c), -1)


FAMILY = SDXL()
