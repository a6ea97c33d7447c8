"""The authors' inference, step by step as their code runs it, on the modules of a model of ours.

The other side of `caption.py` and `reconstruct.py`: the same weights and libraries, their order of
work. Every batch is cropped to bytes first and then goes through Florence-2's own processor; the
prompt is tokenised and embedded for every batch; Florence-2 computes its attention as plain matrix
products under masks of ones, and keeps all hidden states; gradients are off by `no_grad` alone.
Drawing encodes the empty text for every picture, joins both contexts again in every step, and
decodes in float32.

Shapes: B batch, Q queries, d width of z and c, h,w size of the latents.
"""

import copy
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMScheduler
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch import Tensor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from vlv.models.encoder import TASK_PROMPTS
from vlv.pipeline import VLV


class PlainAuthors:
    """Their procedure; it shares every module with `model` but the VAE, which is float32."""

    def __init__(self, model: VLV) -> None:
        self.encoder, self.tower = model.encoder, model.text_tower
        self.florence = model.encoder.florence
        settings = model.encoder.settings
        self.crop = settings.crop_size or settings.image_size
        self.prompt = TASK_PROMPTS[settings.prompt]
        self.dtype, self.device = model.dtype, model.device
        self.caption_decoder = (
            model.caption_decoder if "caption_decoder" in model.manifest.components else None
        )
        self.vae = None
        if "vae" in model.manifest.components:
            self.unet, self.image_size = model.decoder.unet, model.decoder.image_size
            self.schedule = model.decoder.scheduler.config
            self.vae = copy.deepcopy(model.decoder.vae).float()
        side = settings.image_size
        self.processor = CLIPImageProcessorPil(
            do_resize=True,
            size={"height": side, "width": side},
            resample=Image.Resampling.BICUBIC,
            do_center_crop=False,
            image_mean=settings.image_mean,
            image_std=settings.image_std,
        )

    def preprocess(self, files: Sequence[Path]) -> Tensor:
        """Pixels (B,3,S,S) for Florence-2."""
        crops = []
        for file in files:
            picture = Image.open(file).convert("RGB")
            short = min(picture.size)
            width, height = (self.crop * side // short for side in picture.size)
            picture = picture.resize((width, height), Image.Resampling.BILINEAR)
            left, top = round((width - self.crop) / 2), round((height - self.crop) / 2)
            picture = picture.crop((left, top, left + self.crop, top + self.crop))
            crops.append(torch.from_numpy(np.array(picture)).permute(2, 0, 1))
        batch = torch.stack(crops)
        pixels: Tensor = self.processor(list(batch), return_tensors="pt")["pixel_values"]
        return pixels.to(self.device, self.dtype)

    @torch.no_grad()
    def embed(self, files: Sequence[Path]) -> Tensor:
        """Caption embeddings z (B,Q,d)."""
        with _eager(self.florence):
            pixels = self.preprocess(files)
            image_tokens = self.florence.get_image_features(pixels).pooler_output
            prompts = [self.prompt] * len(files)
            ids = self.encoder.tokenizer(prompts, return_tensors="pt")["input_ids"].to(self.device)
            transformer = self.florence.language_model
            x = torch.cat([image_tokens, transformer.get_input_embeddings()(ids)], dim=1)
            mask = torch.ones(x.shape[:2], dtype=torch.long, device=self.device)
            encoded = transformer.encoder(
                inputs_embeds=x, attention_mask=mask, output_hidden_states=True
            )
            queries = self.encoder.queries.expand(len(files), -1, -1)
            decoded = transformer.decoder(
                inputs_embeds=queries,
                attention_mask=torch.ones(queries.shape[:2], dtype=torch.long, device=self.device),
                encoder_hidden_states=encoded.last_hidden_state,
                encoder_attention_mask=mask,
                output_hidden_states=True,
            )
            z: Tensor = self.encoder.phi(decoded.hidden_states[-1])
        return z

    @torch.no_grad()
    def condition(self, z: Tensor) -> Tensor:
        """Conditioning c (B,Q,d) of embeddings z (B,Q,d) in place of CLIP's token embeddings."""
        clip, length = self.tower.clip, z.shape[1]
        hidden = clip.embeddings(inputs_embeds=z)
        least = torch.finfo(z.dtype).min
        causal = torch.full((length, length), least, dtype=z.dtype, device=z.device).triu(1)
        mask = causal.expand(len(z), 1, length, length)
        hidden = clip.encoder(
            inputs_embeds=hidden, attention_mask=mask, output_hidden_states=True
        ).last_hidden_state
        c: Tensor = clip.final_layer_norm(hidden)
        return c

    @torch.no_grad()
    def caption(self, z: Tensor, num_beams: int, max_new_tokens: int) -> list[str]:
        """Captions of z (B,Q,d), mended."""
        c = self.condition(z)
        lm, tokenizer = self.caption_decoder.lm, self.caption_decoder.tokenizer
        e = self.caption_decoder.psi(c).to(lm.dtype)
        mask = torch.ones(e.shape[:2], dtype=torch.long, device=e.device)
        search = {"num_beams": num_beams, "early_stopping": True} if num_beams > 1 else {}
        ids = lm.generate(
            inputs_embeds=e,
            attention_mask=mask,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            **search,
        )
        return [mended(text) for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]

    @torch.no_grad()
    def draw(self, z: Tensor, steps: int, guidance_scale: float, seed: int) -> list[Image.Image]:
        """A picture of each z (B,Q,d); each starts from the noise of the same seed."""
        c, (batch, length) = self.condition(z), z.shape[:2]
        ids = self.tower.tokenizer(
            [""] * batch, padding="max_length", max_length=self.tower.positions, return_tensors="pt"
        )["input_ids"]
        nothing = self.condition(self.tower.clip.embeddings.token_embedding(ids))[:, :length]
        scheduler = DDPMScheduler.from_config(self.schedule)
        scheduler.set_timesteps(steps)
        side = self.image_size // 2 ** (len(self.vae.config.block_out_channels) - 1)
        shape = (batch, self.unet.config.in_channels, side, side)
        noise = [torch.Generator().manual_seed(seed) for _ in range(batch)]
        latents = randn_tensor(shape, generator=noise, dtype=c.dtype) * scheduler.init_noise_sigma
        for t in scheduler.timesteps:
            both = scheduler.scale_model_input(torch.cat([latents, latents]), t)
            context = torch.cat([nothing, c])
            predicted = self.unet(both, t, encoder_hidden_states=context).sample
            without, under = predicted.chunk(2)
            predicted = without + guidance_scale * (under - without)
            latents = scheduler.step(predicted, t, latents, generator=noise).prev_sample
        pixels = self.vae.decode(latents.float() / self.vae.config.scaling_factor).sample
        levels = ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
        return [Image.fromarray(one) for one in levels.permute(0, 2, 3, 1).numpy()]


def mended(caption: str) -> str:
    """The caption without an unfinished last sentence, each sentence once."""
    sentences = re.split(r"(?<=[.!?])\s+", " ".join(caption.split()))
    if len(sentences) > 1 and not sentences[-1].endswith((".", "!", "?")):
        sentences.pop()
    return " ".join(dict.fromkeys(sentences))


@contextmanager
def _eager(florence: torch.nn.Module) -> Iterator[None]:
    """Attention as plain matrix products, the way their copy of Florence-2 computes it."""
    parts = [part for part in florence.modules() if hasattr(part, "set_attn_implementation")]
    before = [part.config._attn_implementation for part in parts]
    for part in parts:
        part.set_attn_implementation("eager")
    try:
        yield
    finally:
        for part, kernel in zip(parts, before, strict=True):
            part.set_attn_implementation(kernel)
