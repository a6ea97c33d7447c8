"""Sana: Gemma-2 as text encoder, latents of an `AutoencoderDC`, rectified flow, and a transformer
with linear attention that reads the text by cross-attention (arXiv 2410.10629).

Shapes: B batch, Q embeddings, L positions, P positions of the prefix; C latent channels, h,w latent
size; d width of Gemma (2304).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoTokenizer,
    DynamicCache,
    Gemma2Model,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from vlv.models.conditioning import Conditioning, Slot
from vlv.models.config import TextEncoderName
from vlv.models.families.family import FLOW_SAMPLERS, Family, TextEncoderConfigs
from vlv.models.noise_process import FlowNoise
from vlv.models.text_tower import SeveralEncoders, TextTower
from vlv.models.tokenizers import PromptTokens

_ENCODER: TextEncoderName = "text_encoder"
# The pipeline reads 300 states: that of the first token, and the last 299.
TEXT_POSITIONS = 299
# What the pipeline puts before every prompt where it is not asked for something else.
# fmt: off
INSTRUCTION = "\n".join((
    "Given a user prompt, generate an 'Enhanced prompt' that provides detailed visual descriptions suitable for image generation. Evaluate the level of detail in the user prompt:",  # noqa: E501
    "- If the prompt is simple, focus on adding specifics about colors, shapes, sizes, textures, and spatial relationships to create vivid and concrete scenes.",  # noqa: E501
    "- If the prompt is already detailed, refine and enhance the existing details slightly without overcomplicating.",  # noqa: E501
    "Here are examples of how to transform or refine prompts:",
    "- User Prompt: A cat sleeping -> Enhanced: A small, fluffy white cat curled up in a round shape, sleeping peacefully on a warm sunny windowsill, surrounded by pots of blooming red flowers.",  # noqa: E501
    "- User Prompt: A busy city street -> Enhanced: A bustling city street scene at dusk, featuring glowing street lamps, a diverse crowd of people in colorful clothing, and a double-decker bus passing by towering glass skyscrapers.",  # noqa: E501
    "Please generate only the enhanced description for the prompt below and avoid including any additional commentary or evaluations:",  # noqa: E501
    "User Prompt: ",
))
# fmt: on


@dataclass(frozen=True)
class SanaPromptTokens(PromptTokens):
    """Texts in lower case behind an instruction, as the pipeline writes them."""

    instruction: str = INSTRUCTION

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Token ids (B,P+299) in the CPU's memory."""
        return super().__call__([self._prompt(text) for text in texts])

    @property
    def room(self) -> tuple[int, ...]:
        """Those behind the instruction."""
        return (TEXT_POSITIONS,)

    def read_whole(self, text: str) -> list[bool]:
        """Whether the text behind the instruction has room."""
        return super().read_whole(self._prompt(text))

    def _prompt(self, text: str) -> str:
        return self.instruction + text.lower().strip()


class SanaTextTower(SeveralEncoders):
    """Gemma-2, a causal language model whose last states the transformer reads.

    z enters where the pipeline puts a prompt: behind a prefix, which is the first token and the
    instruction without its last token (a space, which becomes part of the prompt's first word).
    The pipeline reads the state of the first token and those of the 299 positions behind the
    prefix, and so does the transformer here: all of z's states are real ones, so that its mask is
    all ones. As attention is causal, no state of the prefix depends on z. That of the first token
    is therefore no part of `tokens`, which the caption decoder reads, but an extra named "first",
    which the denoiser's side puts before them (`full_tokens`).

    z stands for embeddings as they enter the first layer. Gemma multiplies its table's rows by
    sqrt(d) in the embedding layer, and `inputs_embeds` come after that: z holds scaled embeddings.
    """

    family_name = "sana"
    masks_tokens = True
    text_encoder: Any
    prefix_ids: Tensor

    def __init__(
        self,
        gemma: Gemma2Model,
        tokenizer: PreTrainedTokenizerFast,
        instruction: str = INSTRUCTION,
    ) -> None:
        super().__init__({_ENCODER: gemma}, {_ENCODER: tokenizer})
        self.tokenizer = tokenizer
        self.instruction = instruction
        tokenizer.padding_side = "right"  # as in the pipeline; Gemma's own pads on the left
        ids = tokenizer(instruction, verbose=False)["input_ids"]
        prefix = torch.tensor([ids[: max(1, len(ids) - 1)]], dtype=torch.long)
        self.register_buffer("prefix_ids", prefix.to(gemma.device), persistent=False)

    @property
    def prefix_length(self) -> int:
        """P, the first token and the instruction without its last one."""
        return self.prefix_ids.shape[1]

    def assume_instruction(self, tokens: int) -> None:
        """Let the instruction have so many tokens, the first one included, without contents: for
        counting with another tokenizer than Gemma's.
        """
        self.prefix_ids = self.prefix_ids.new_zeros(1, tokens - 1)

    @property
    def slots(self) -> tuple[Slot, ...]:
        """One sequence behind the prefix, in place of scaled token embeddings."""
        return (Slot("gemma", TEXT_POSITIONS, int(self.text_encoder.config.hidden_size)),)

    @property
    def conditioning_width(self) -> int:
        return self.width

    @property
    def prompt_tokens(self) -> PromptTokens:
        """What makes token ids of texts: prefix and text, cut or padded together."""
        length = self.prefix_length + TEXT_POSITIONS
        return SanaPromptTokens((self.tokenizer,), (length,), self.instruction)

    def forward(self, z: Tensor) -> Conditioning:
        """Conditioning c, tokens (B,Q,d), of z (B,Q,d) in place of scaled token embeddings."""
        # The prefix is the same for all samples, and sees none of them: it is computed once.
        cache = DynamicCache(config=self.text_encoder.config)
        prefix = self.text_encoder(
            self.prefix_ids,
            attention_mask=torch.ones_like(self.prefix_ids),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        cache.batch_repeat_interleave(len(z))
        length = self.prefix_length + z.shape[1]
        mask = torch.ones(len(z), length, dtype=torch.long, device=z.device)
        states = self.text_encoder(
            inputs_embeds=z, attention_mask=mask, past_key_values=cache, use_cache=True
        ).last_hidden_state
        first = prefix[:, :1].expand(len(z), -1, -1)
        return Conditioning(states, mask=mask[:, self.prefix_length :], extras={"first": first})

    def encode_ids(self, ids: Tensor) -> Conditioning:
        """Conditioning c, tokens (B,299,d) and their mask, of token ids (B,P+299)."""
        return self._read(ids, self.prefix_length)

    @property
    def unconditional_is_a_text(self) -> bool:
        return False

    def unconditional(self, batch: int, length: int | None = None) -> Conditioning:
        """T("") of `batch` samples. The pipeline gives it no instruction: here is the first token,
        and `length` masked ones.
        """
        ids = SanaPromptTokens((self.tokenizer,), (1 + TEXT_POSITIONS,), "")([""])
        read = 1 + (length or TEXT_POSITIONS)
        return self._read(ids[:, :read].to(self.device), 1).repeat(batch)

    def _read(self, ids: Tensor, prefix: int) -> Conditioning:
        """The conditioning of token ids (B,L) behind a prefix; padding at their end is masked."""
        mask = _before_padding(ids, int(self.tokenizer.pad_token_id))
        states = self.text_encoder(ids, attention_mask=mask, use_cache=False).last_hidden_state
        return _behind(states, mask, prefix)


def _behind(states: Tensor, mask: Tensor, prefix: int) -> Conditioning:
    """The conditioning of the states (B,L,d) behind a prefix, and that of the first token."""
    return Conditioning(states[:, prefix:], mask=mask[:, prefix:], extras={"first": states[:, :1]})


def _before_padding(ids: Tensor, padding: int) -> Tensor:
    """The mask (B,L) of ids (B,L) without the padding at their end; the first one always counts."""
    after = (ids != padding).flip(1).cumsum(1).flip(1)
    mask = (after > 0).long()
    mask[:, 0] = 1
    return mask


class Sana(Family):
    """Sana and Sana 1.5."""

    name = "sana"
    text_encoder_classes = {_ENCODER: Gemma2Model}
    # The class that a folder names; older ones name GemmaTokenizerFast, which is GemmaTokenizer.
    tokenizer_classes: Any = {_ENCODER: AutoTokenizer}
    vae_class_name = "AutoencoderDC"
    heeds_mask = True
    noise_class = FlowNoise
    denoiser_class_name = "SanaTransformer2DModel"
    scheduler_class_name = "FlowMatchEulerDiscreteScheduler"
    # The published pipeline draws with dpm++.
    samplers = {**FLOW_SAMPLERS, "dpm++": "DPMSolverMultistepScheduler"}
    default_sampler = "euler"

    def text_tower(
        self,
        encoders: Mapping[TextEncoderName, PreTrainedModel],
        tokenizers: Mapping[TextEncoderName, PreTrainedTokenizerFast],
    ) -> TextTower:
        gemma: Any = encoders[_ENCODER]
        return SanaTextTower(gemma, tokenizers[_ENCODER])

    def denoise(
        self, network: Any, noisy: Tensor, timesteps: Tensor, c: Conditioning, image_size: int
    ) -> Tensor:
        predicted: Tensor = network(
            hidden_states=noisy,
            timestep=timesteps * network.config.timestep_scale,
            encoder_hidden_states=full_tokens(c),
            encoder_attention_mask=full_mask(c),
        ).sample
        return predicted

    def embeds(self, network: Any, c: Conditioning) -> dict[str, Tensor]:
        return {"prompt_embeds": full_tokens(c), "prompt_attention_mask": full_mask(c)}

    def pipeline_arguments(self) -> dict[str, Any]:
        # Binning would draw at the nearest of the sizes that the model was trained with, and
        # resize the picture. The pipeline's own negative prompt is a text, where c is given.
        return {"use_resolution_binning": False, "negative_prompt": None}

    def widths_fault(
        self, text_encoders: TextEncoderConfigs, denoiser: Mapping[str, Any]
    ) -> str | None:
        width = text_encoders[_ENCODER].get("hidden_size", 2304)
        read = denoiser.get("caption_channels", 2304)
        if width != read:
            return (
                f"transformer.caption_channels ({read}) must equal text_encoder.hidden_size "
                f"({width})"
            )
        heads = denoiser.get("num_attention_heads", 70)
        own = heads * denoiser.get("attention_head_dim", 32)
        crossed = denoiser.get("cross_attention_dim", 2240)
        if own != crossed:
            return (
                f"transformer.cross_attention_dim ({crossed}) must equal num_attention_heads x "
                f"attention_head_dim ({own})"
            )
        return None


def full_tokens(c: Conditioning) -> Tensor:
    """Tokens (B,1+L,d) as the transformer reads them: the first token's state before those of c; a
    c that no text encoder made has none.
    """
    if "first" not in c.extras:
        return c.tokens
    return torch.cat([c.extras["first"], c.tokens], dim=1)


def full_mask(c: Conditioning) -> Tensor:
    """The mask (B,1+L) of `full_tokens`; that of z is all ones."""
    assert c.mask is not None  # the tower gives it
    if "first" not in c.extras:
        return c.mask
    return torch.cat([torch.ones_like(c.mask[:, :1]), c.mask], dim=1)


FAMILY = Sana()
