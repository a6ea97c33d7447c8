"""What distillation from captions sees of a sample: its caption for the text tower, and noise.

Shapes: C, h, w latents, L token ids.
"""

from dataclasses import dataclass

import torch

from vlv.models.tokenizers import PromptTokens
from vlv.training.samples.data_order import generator
from vlv.training.samples.source import Batch

# Noise levels u at which the loss is computed: below them the latents show all but details, above
# them the denoising loss asks for shapes too.
LEAST, MOST = 0.08, 0.55
# By how much noisier the latents are of which the decoder guesses the picture.
LEAST_GAP, MOST_GAP = 0.15, 0.5
_HIGHEST = 0.999


@dataclass(frozen=True)
class DistillationDraws:
    """Draws for `vlv.training.objectives.distillation`, as functions of a sample's position."""

    latent_shape: tuple[int, int, int]
    seed: int
    prompts: PromptTokens

    def at(self, position: int, caption: str) -> Batch:
        """`guess_noise` and `distillation_noise` (C,h,w), the levels `guess_u` and `distillation_u`
        (), and `prompt_ids` (L,) of the caption.
        """
        random = generator(self.seed, position, "distillation")
        place, gap = torch.rand(2, generator=random)
        u = LEAST + (MOST - LEAST) * place
        guess_u = u + LEAST_GAP + (MOST_GAP - LEAST_GAP) * gap
        return {
            "distillation_u": u,
            "guess_u": guess_u.clamp_max(_HIGHEST),
            "guess_noise": torch.randn(self.latent_shape, generator=random),
            "distillation_noise": torch.randn(self.latent_shape, generator=random),
            "prompt_ids": self.prompts([caption])[0],
        }
