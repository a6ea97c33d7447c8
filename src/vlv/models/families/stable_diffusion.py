"""Stable Diffusion 1 and 2: CLIP's text encoder, latents of an `AutoencoderKL`, DDPM noise, and a
U-Net.

Shapes: B batch, Q embeddings, L positions (77), d width of the token embeddings, which is also the
width of c; C latent channels, h,w latent size.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from transformers import (
    CLIPTextModel,
    CLIPTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from vlv.models.clip import clip_slot, last_states, token_embeddings
from vlv.models.conditioning import Conditioning, Slot
from vlv.models.config import SCHEDULER, TextEncoderName
from vlv.models.families.family import DDPM_SAMPLERS, Family, TextEncoderConfigs
from vlv.models.noise_process import DDPMNoise
from vlv.models.text_tower import TextTower

_ENCODER: TextEncoderName = "text_tower"


class CLIPTextTower(TextTower):
    """One CLIP text encoder; c is what its final norm gives."""

    family_name = "stable-diffusion"

    def __init__(self, clip: CLIPTextModel, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.clip = clip
        self.tokenizer = tokenizer

    @property
    def slots(self) -> tuple[Slot, ...]:
        """One sequence, in place of the token embeddings."""
        return (clip_slot("clip", self.clip),)

    @property
    def encoders(self) -> Mapping[TextEncoderName, PreTrainedModel]:
        return {_ENCODER: self.clip}

    @property
    def tokenizers(self) -> Mapping[TextEncoderName, PreTrainedTokenizerFast]:
        return {_ENCODER: self.tokenizer}

    @property
    def conditioning_width(self) -> int:
        return self.width

    def forward(self, z: Tensor) -> Conditioning:
        """Conditioning c = T(z), tokens (B,Q,d), of z (B,Q,d) in place of token embeddings."""
        return Conditioning(last_states(self.clip, z))

    def encode_ids(self, ids: Tensor) -> Conditioning:
        """Conditioning c, tokens (B,L,d), of token ids (B,L)."""
        return self.forward(token_embeddings(self.clip, ids))

    def token_embeddings(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Embeddings z (B,L,d) of texts, before positions are added, and their ids (B,L)."""
        ids = self.tokenise(texts).to(self.device)
        return token_embeddings(self.clip, ids), ids


class StableDiffusion(Family):
    """Stable Diffusion 1 and 2."""

    name = "stable-diffusion"
    text_encoder_classes = {_ENCODER: CLIPTextModel}
    tokenizer_classes = {_ENCODER: CLIPTokenizer}
    heeds_mask = True
    takes_late_prompts = True
    noise_class = DDPMNoise
    denoiser_class_name = "UNet2DConditionModel"
    scheduler_class_name = "DDPMScheduler"
    samplers = DDPM_SAMPLERS
    default_sampler = SCHEDULER

    def text_tower(
        self,
        encoders: Mapping[TextEncoderName, PreTrainedModel],
        tokenizers: Mapping[TextEncoderName, PreTrainedTokenizerFast],
    ) -> TextTower:
        return CLIPTextTower(encoders[_ENCODER], tokenizers[_ENCODER])

    def denoise(
        self, network: Any, noisy: Tensor, timesteps: Tensor, c: Conditioning, image_size: int
    ) -> Tensor:
        # Cross-attention sees the tokens that the mask of c names, or all.
        predicted: Tensor = network(
            noisy, timesteps, encoder_hidden_states=c.tokens, encoder_attention_mask=c.mask
        ).sample
        return predicted

    def pipeline_parts(self) -> dict[str, Any]:
        without = ("text_encoder", "tokenizer", "safety_checker", "feature_extractor")
        return {**dict.fromkeys(without), "requires_safety_checker": False}

    def widths_fault(
        self, text_encoders: TextEncoderConfigs, denoiser: Mapping[str, Any]
    ) -> str | None:
        width = text_encoders[_ENCODER].get("hidden_size", 512)
        crossed = denoiser.get("cross_attention_dim", 1280)
        if width != crossed:
            return (
                f"unet.cross_attention_dim ({crossed}) must equal text_tower.hidden_size ({width})"
            )
        return None


FAMILY = StableDiffusion()
