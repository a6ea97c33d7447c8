"""Stable Diffusion 3 and 3.5: two CLIP text encoders and, by option, T5; latents of an
`AutoencoderKL` with a shift; rectified flow; and a transformer in which latents and text attend to
each other (MMDiT, arXiv 2403.03206).

Shapes: B batch, Q embeddings, L positions; C latent channels, h,w latent size; d1, d2 widths of the
two CLIPs, d3 that of T5, which is the width that the transformer reads (4096).
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5EncoderModel,
)

from vlv.models.clip import (
    clip_slot,
    penultimate_and_last_states,
    pooled_state,
    token_embeddings,
)
from vlv.models.conditioning import Conditioning, Slot
from vlv.models.config import TextEncoderName
from vlv.models.families.family import FLOW_SAMPLERS, Family, TextEncoderConfigs
from vlv.models.noise_process import FlowNoise
from vlv.models.text_tower import SeveralEncoders

# What the pipeline gives T5 to read, and puts zeros for where there is no T5.
T5_POSITIONS = 256


class SD3TextTower(SeveralEncoders):
    """Two CLIPs whose states stand side by side, and T5 behind them where there is one.

    Without T5, c has the tokens of the CLIPs alone, (B,Q,d1+d2): the zeros that stand for T5, and
    those that fill the CLIPs' tokens up to the transformer's width, are the same for all pictures,
    so that the caption decoder does not read them and only the denoiser adds them (`full_tokens`).
    """

    family_name = "sd3"
    text_encoder: Any
    text_encoder_2: Any
    text_encoder_3: Any

    def __init__(
        self,
        encoders: Mapping[TextEncoderName, PreTrainedModel],
        tokenizers: Mapping[TextEncoderName, PreTrainedTokenizerFast],
    ) -> None:
        super().__init__(encoders, tokenizers)
        self.text_encoder_3 = encoders.get("text_encoder_3")

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The token embeddings of CLIP-L, OpenCLIP-bigG and, where there is one, T5."""
        clips = (
            clip_slot("clip_l", self.text_encoder.text_model),
            clip_slot("clip_g", self.text_encoder_2.text_model),
        )
        if self.text_encoder_3 is None:
            return clips
        return (*clips, Slot("t5", T5_POSITIONS, int(self.text_encoder_3.config.d_model)))

    @property
    def conditioning_width(self) -> int:
        if self.text_encoder_3 is not None:
            return int(self.text_encoder_3.config.d_model)
        return sum(slot.width for slot in self.slots[:2])

    @property
    def pooled_width(self) -> int:
        clips = (self.text_encoder, self.text_encoder_2)
        return sum(int(clip.config.projection_dim) for clip in clips)

    @property
    def causal(self) -> bool:
        """Every token of T5 sees all others, and stands behind those of the CLIPs."""
        return self.text_encoder_3 is None

    def forward(self, z: Tensor) -> Conditioning:
        """Conditioning c of z (B,Q,d1+d2) or (B,Q,d1+d2+d3): tokens (B,Q,d1+d2), or (B,2Q,d3) with
        T5; pooled (B,p).
        """
        clip_l, clip_g, *t5 = self.of_slots(z)
        return self._joined((clip_l, None), (clip_g, None), t5[0] if t5 else None)

    def encode_ids(self, ids: Tensor) -> Conditioning:
        """Conditioning c of token ids (B,L) of all slots, one after another."""
        clip_l, clip_g, *t5 = self.ids_of_slots(ids)
        return self._joined(
            (token_embeddings(self.text_encoder.text_model, clip_l), clip_l),
            (token_embeddings(self.text_encoder_2.text_model, clip_g), clip_g),
            self.text_encoder_3.get_input_embeddings()(t5[0]) if t5 else None,
        )

    def _joined(
        self,
        clip_l: tuple[Tensor, Tensor | None],
        clip_g: tuple[Tensor, Tensor | None],
        t5: Tensor | None,
    ) -> Conditioning:
        """The conditioning of token embeddings, each CLIP's with its ids where there are some."""
        states, pooled = [], []
        for encoder, (embedded, ids) in (
            (self.text_encoder, clip_l),
            (self.text_encoder_2, clip_g),
        ):
            penultimate, last = penultimate_and_last_states(encoder.text_model, embedded)
            states.append(penultimate)
            pooled.append(encoder.text_projection(pooled_state(encoder.text_model, last, ids)))
        tokens = torch.cat(states, dim=-1)
        if t5 is not None:
            read = self.text_encoder_3(inputs_embeds=t5).last_hidden_state
            tokens = torch.cat([_widened(tokens, read.shape[-1]), read], dim=1)
        return Conditioning(tokens, torch.cat(pooled, dim=-1))

    def cut(self, c: Conditioning, length: int) -> Conditioning:
        """The c of a text with as many tokens as another: that of embeddings has half of them from
        T5, where there is one.
        """
        if self.text_encoder_3 is None or length == c.tokens.shape[1]:
            return c.first(length)
        clips, each = self.slots[0].positions, length // 2
        tokens = torch.cat([c.tokens[:, :each], c.tokens[:, clips : clips + each]], dim=1)
        return Conditioning(tokens, c.pooled)


class SD3(Family):
    """Stable Diffusion 3 and 3.5."""

    name = "sd3"
    tower_class = SD3TextTower
    text_encoder_classes = {
        "text_encoder": CLIPTextModelWithProjection,
        "text_encoder_2": CLIPTextModelWithProjection,
        "text_encoder_3": T5EncoderModel,
    }
    tokenizer_classes = {
        "text_encoder": CLIPTokenizer,
        "text_encoder_2": CLIPTokenizer,
        # T5's class takes a vocabulary of its own kind only; this one reads every tokenizer.json.
        "text_encoder_3": PreTrainedTokenizerFast,
    }
    vae_defaults = {"shift_factor": 0.0}
    noise_class = FlowNoise
    denoiser_class_name = "SD3Transformer2DModel"
    scheduler_class_name = "FlowMatchEulerDiscreteScheduler"
    samplers = {**FLOW_SAMPLERS, "heun": "FlowMatchHeunDiscreteScheduler"}
    default_sampler = "euler"

    def denoise(
        self, network: Any, noisy: Tensor, timesteps: Tensor, c: Conditioning, image_size: int
    ) -> Tensor:
        predicted: Tensor = network(
            hidden_states=noisy,
            timestep=timesteps,
            encoder_hidden_states=full_tokens(network, c),
            pooled_projections=c.pooled,
        ).sample
        return predicted

    def embeds(self, network: Any, c: Conditioning) -> dict[str, Tensor]:
        assert c.pooled is not None  # the tower gives it
        return {"prompt_embeds": full_tokens(network, c), "pooled_prompt_embeds": c.pooled}

    def widths_fault(
        self, text_encoders: TextEncoderConfigs, denoiser: Mapping[str, Any]
    ) -> str | None:
        width = sum(
            text_encoders[name].get("hidden_size", 512)
            for name in ("text_encoder", "text_encoder_2")
        )
        pooled = sum(
            text_encoders[name].get("projection_dim", 512)
            for name in ("text_encoder", "text_encoder_2")
        )
        read = denoiser.get("joint_attention_dim", 4096)
        if width > read:
            return (
                f"transformer.joint_attention_dim ({read}) must be at least the hidden sizes of "
                f"the text encoders together ({width})"
            )
        if pooled != denoiser.get("pooled_projection_dim", 2048):
            return (
                f"transformer.pooled_projection_dim ({denoiser.get('pooled_projection_dim', 2048)})"
                f" must equal the projection_dim of the text encoders together ({pooled})"
            )
        return None


def full_tokens(network: Any, c: Conditioning) -> Tensor:
    """The tokens that the transformer reads, as the pipeline makes them: where c has none of T5,
    filled up with zeros to its width, and zeros in T5's places. A transformer that is as wide as
    the CLIPs together was trained without T5, and has no such places.
    """
    width = int(network.config.joint_attention_dim)
    if c.tokens.shape[-1] == width:
        return c.tokens
    return F.pad(c.tokens, (0, width - c.tokens.shape[-1], 0, T5_POSITIONS))


def _widened(tokens: Tensor, width: int) -> Tensor:
    """Tokens (B,L,·) filled up with zeros to a width."""
    return F.pad(tokens, (0, width - tokens.shape[-1]))


FAMILY = SD3()
