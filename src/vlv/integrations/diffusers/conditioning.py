"""What conditions a picture, as the arguments of diffusers' pipelines: images, z, or texts.

Shapes: B images, Q queries, d width of z; c as the family's text tower gives it.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vlv.errors import ConfigError
from vlv.integrations.diffusers.components import Components
from vlv.models.conditioning import Conditioning
from vlv.models.preprocessing import Images, as_list
from vlv.models.text_tower import TextTower


class Conditioned(Components):
    """Images -> z -> c, and c as arguments of the pipelines of the family."""

    @torch.no_grad()
    def encode_image_to_z(self, images: Images) -> Tensor:
        """Caption embeddings z (B,Q,d) of one or many images."""
        pixels = self.encoder.preprocess(as_list(images))
        z: Tensor = self.encoder(pixels.to(self._execution_device))
        return z

    @torch.no_grad()
    def arguments_of_z(
        self,
        z: Tensor,
        *,
        negative: bool = True,
        negative_prompt: str | Sequence[str] | None = None,
    ) -> dict[str, Tensor]:
        """What z (B,Q,d) is to any pipeline of the family: arguments such as `prompt_embeds`,
        `pooled_prompt_embeds` and `prompt_attention_mask`, and those of `negative_prompt`, with
        `negative_` before their names, where the family has them.

        negative_prompt: one text, or one for each z; None is the empty text. Of its tokens the
        first Q count, as many as z has.

        Raises ConfigError for another number of texts.
        """
        tower = self._ready_tower()
        c = tower.forward(z.to(self._execution_device, _dtype(tower)))
        away = None
        if negative and self.family.record.negative_prompt:
            away = _away(tower, c, negative_prompt)
        return self._arguments(c, away)

    def _ready_tower(self) -> TextTower:
        """The tower, on the device that computes: it calls parts of text encoders, and where these
        are offloaded only whole ones have hooks.
        """
        for encoder in self._text_encoders().values():
            if (hook := getattr(encoder, "_hf_hook", None)) is not None:
                hook.pre_forward(encoder)
        return self.text_tower

    def _arguments(self, c: Conditioning, away: Conditioning | None) -> dict[str, Tensor]:
        made = dict(self.family.embeds(self.denoiser, c))
        if away is not None:
            negative = self.family.embeds(self.denoiser, away)
            made |= {f"negative_{name}": value for name, value in negative.items()}
        return made

    @torch.no_grad()
    def _arguments_of_prompt(
        self, prompt: str | Sequence[str], guided: bool, settings: dict[str, Any]
    ) -> dict[str, Any]:
        """What draws texts. A tower that has no T5 beside its CLIPs reads them as in training."""
        tower = self._ready_tower()
        c, away = tower.encode_text(_texts(prompt)), None
        if guided and self.family.record.negative_prompt:
            away = _away(tower, c, settings.get("negative_prompt"))
        read = {"negative_prompt": None} if "negative_prompt" in settings else {}
        return {**self._arguments(c, away), **read}


def _dtype(tower: TextTower) -> torch.dtype:
    """The dtype of the text encoders."""
    dtype: torch.dtype = next(iter(tower.encoders.values())).dtype
    return dtype


def _away(tower: TextTower, c: Conditioning, negative: str | Sequence[str] | None) -> Conditioning:
    """What guidance steers c away from: one text, or one for each sample, or the empty one."""
    texts = _texts(negative or "")
    if not any(texts):
        return tower.unconditional_for(c).repeat(len(c))
    if len(texts) not in (1, len(c)):
        raise ConfigError(
            f"there are {len(texts)} negative prompts for {len(c)} pictures; give one, or one for "
            "each"
        )
    found = tower.cut_for(tower.encode_text(texts), c)
    return found.repeat(len(c)) if len(texts) == 1 else found


def _texts(prompt: str | Sequence[str]) -> list[str]:
    return [prompt] if isinstance(prompt, str) else list(prompt)
