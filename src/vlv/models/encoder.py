"""The VLV encoder: image -> caption embeddings z (paper, section 3.1; stage 1, steps 1-5).

Knows Florence-2 and the learnable queries; knows nothing of CLIP beyond the width of z, and
nothing of diffusion, captions or files of images.

Shapes: B batch, V image tokens, P prompt tokens, Q queries, D transformer width, d width of z.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import Florence2Config, Florence2Model, RobertaTokenizer

from vlv.models.config import EncoderConfig, EncoderSettings
from vlv.models.preprocessing import encoder_pixels
from vlv.models.resizing import constant, resize_bicubic

# Florence-2's processor replaces a task token by a sentence before it tokenises.
TASK_PROMPTS = {
    "<CAPTION>": "What does the image describe?",
    "<DETAILED_CAPTION>": "Describe in detail what is shown in the image.",
    "<MORE_DETAILED_CAPTION>": "Describe with a paragraph what is shown in the image.",
}


class VLVEncoder(nn.Module):
    """Florence-2 with Q learnable queries in its decoder, and the MLP phi.

    The queries pass through the decoder as `inputs_embeds`, as in the authors' code: the library
    adds its learned positions and the embedding layer norm to them, and the decoder's
    self-attention stays causal, so query i sees queries 0..i and the whole image. The encoder
    side likewise adds positions to [image tokens; prompt] and attends in both directions.
    """

    prompt_ids: Tensor

    def __init__(
        self,
        florence: Florence2Model,
        tokenizer: RobertaTokenizer,
        settings: EncoderSettings,
        slots: Mapping[str, int],
    ) -> None:
        """slots: widths of what z consists of, by name (`TextTower.slot_widths`)."""
        super().__init__()
        width = florence.config.text_config.d_model
        self.settings = settings
        self.tokenizer = tokenizer
        self.florence = florence
        self.queries = nn.Parameter(torch.randn(1, settings.num_queries, width) * 0.02)
        self.slots = dict(slots)
        self.phi = build_phi(width, self.slots)
        prompt = TASK_PROMPTS.get(settings.prompt, settings.prompt)
        ids = torch.tensor([tokenizer(prompt)["input_ids"]], dtype=torch.long)
        self.register_buffer("prompt_ids", ids, persistent=False)

    @classmethod
    def from_config(
        cls, config: EncoderConfig, tokenizer: RobertaTokenizer, slots: Mapping[str, int]
    ) -> "VLVEncoder":
        """Build with fresh weights; vocabulary and special ids are the tokenizer's."""
        text = dict(config.florence.get("text_config", {}))
        text.update(
            model_type="bart",
            vocab_size=len(tokenizer),
            bos_token_id=tokenizer.bos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            decoder_start_token_id=tokenizer.eos_token_id,
        )
        florence = Florence2Model(Florence2Config(**{**config.florence, "text_config": text}))
        return cls(florence, tokenizer, config.settings(), slots)

    @torch.no_grad()
    def start_at(self, scales: Mapping[str, float]) -> None:
        """Scale the fresh heads of phi so that z starts with these root mean squares, by slot
        (`TextTower.embedding_scales`). The transformer's states are taken to be normal, as its last
        layer norm leaves them.
        """
        heads: Any = self.phi
        if not isinstance(self.phi, PhiHeads):
            heads = {next(iter(self.slots)): self.phi}
        states = torch.randn(
            1024, self.queries.shape[-1], generator=torch.Generator().manual_seed(0)
        ).to(self.queries)
        for name, scale in scales.items():
            now = heads[name](states).float().square().mean().sqrt()
            for parameter in heads[name][-1].parameters():
                parameter *= scale / now

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self.queries.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of its weights."""
        return self.queries.dtype

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Caption embeddings z (B,Q,d) of normalised pixels (B,3,H,W)."""
        return self.embed(self.image_tokens(pixel_values))

    def image_tokens(self, pixel_values: Tensor) -> Tensor:
        """What the vision tower sees (B,V,D) in normalised pixels (B,3,H,W), projected."""
        tokens: Tensor = self.florence.get_image_features(pixel_values).pooler_output
        return tokens

    def embed(self, image_tokens: Tensor, num_queries: int | None = None) -> Tensor:
        """Caption embeddings z (B,Q,d) of image tokens (B,V,D).

        num_queries N: only the first N (B,N,d). A query does not see later ones, so they are the
        same as among all.
        """
        batch = image_tokens.shape[0]
        transformer = self.florence.language_model
        prompt = transformer.get_input_embeddings()(self.prompt_ids).expand(batch, -1, -1)
        x = torch.cat([image_tokens, prompt.to(image_tokens.dtype)], dim=1)  # (B,V+P,D)
        h_e = transformer.encoder(inputs_embeds=x).last_hidden_state
        h = transformer.decoder(
            inputs_embeds=self.queries[:, :num_queries].expand(batch, -1, -1),
            encoder_hidden_states=h_e,
            use_cache=False,
        ).last_hidden_state  # (B,Q,D)
        z: Tensor = self.phi(h)
        return z

    def preprocess(self, images: Sequence[Image.Image]) -> Tensor:
        """PIL images -> normalised pixels (B,3,S,S), as Florence-2's image processor makes them.

        Where the settings have a `crop_size`, only of the middle of each image.
        """
        size, crop = self.settings.image_size, self.settings.crop_size
        arrays = [encoder_pixels(image, size, crop) for image in images]
        return self.preprocess_uint8(torch.from_numpy(np.stack(arrays)))

    def preprocess_uint8(self, pixels: Tensor) -> Tensor:
        """Bytes (B,S,S,3) of the encoder's own size -> normalised pixels (B,3,S,S).

        Bytes (B,C,C,3) of crops, C the settings' `crop_size`, are resized to S first, on the
        encoder's device: the crop of a picture gives exactly what `preprocess` makes of the
        picture.
        Raises ValueError on any other size.
        """
        size, crop = self.settings.image_size, self.settings.crop_size
        sides = sorted({size, crop or size})
        if pixels.dtype != torch.uint8 or tuple(pixels.shape[1:]) not in [(s, s, 3) for s in sides]:
            raise ValueError(
                f"expected uint8 pixels {' or '.join(f'(B,{s},{s},3)' for s in sides)}, "
                f"got {pixels.dtype} {tuple(pixels.shape)}"
            )
        weight = self.queries
        pixels = pixels.to(weight.device)
        if pixels.shape[1] != size:
            pixels = resize_bicubic(pixels, size)
        mean = constant(self.settings.image_mean, weight.device)
        std = constant(self.settings.image_std, weight.device)
        values = (pixels.float() / 255.0 - mean) / std
        return values.permute(0, 3, 1, 2).contiguous().to(weight.dtype)

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """Parameters by switch, each in one part: vision (the vision tower) and the paper's E
        without it, which is projection (to the transformer's width), transformer, queries and phi.
        """
        return {
            "vision": list(self.florence.vision_tower.parameters()),
            "projection": list(self.florence.multi_modal_projector.parameters()),
            "transformer": list(self.florence.language_model.parameters()),
            "queries": [self.queries],
            "phi": list(self.phi.parameters()),
        }

    def head_state(self) -> dict[str, Tensor]:
        """What VLV adds to Florence-2: "queries" and phi, as stored beside it."""
        return {"queries": self.queries, **self.phi.state_dict(prefix="phi.")}


class PhiHeads(nn.ModuleDict):
    """An MLP phi for each slot of z: (...,D) -> (...,d), d the sum of the slots' widths."""

    def __init__(self, width: int, slots: Mapping[str, int]) -> None:
        super().__init__({name: _mlp(width, out) for name, out in slots.items()})

    def forward(self, h: Tensor) -> Tensor:
        """The slots side by side."""
        return torch.cat([head(h) for head in self.values()], dim=-1)


def build_phi(width: int, slots: Mapping[str, int]) -> nn.Module:
    """Phi with fresh weights: h (...,D) -> z (...,d), a head for each slot of z."""
    if len(slots) == 1:
        return _mlp(width, *slots.values())
    return PhiHeads(width, slots)


def _mlp(width: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, out))
