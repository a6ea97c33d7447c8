"""Distillation from captions: z learns to make the frozen decoder predict what it predicts under
the caption, on its own guesses of the picture.

The denoising loss adds noise to the latents of the true picture. At low noise these show every
shape, so that z need not tell it. When the decoder draws, they are its own work, and a cube may
look like a cylinder by then. So here the decoder guesses the picture from much noise under z, noise
of a lower level is added to the guess, and the target is the decoder's prediction under the true
caption. True latents as the target would teach places, and no shapes (`docs/lab_log.md`).

Shapes: B batch, C, h, w latents.
"""

import torch
from torch import Tensor

from vlv.models.conditioning import Conditioning
from vlv.models.diffusion_decoder import DiffusionDecoder
from vlv.training.samples.source import Batch


def distillation_loss(
    decoder: DiffusionDecoder,
    batch: Batch,
    latents: Tensor,
    c: Conditioning,
    caption: Conditioning,
) -> Tensor:
    """Mean squared difference of two predictions, a scalar in float32.

    batch: has the draws of `DistillationDraws`. latents (B,C,h,w) of the pictures; c of their
    embeddings and of their captions, of B samples each.
    """
    process = decoder.noise_process
    high, low = process.timesteps(batch["guess_u"]), process.timesteps(batch["distillation_u"])
    with torch.no_grad():
        noisy = process.noisy(latents, batch["guess_noise"], high)
        guess = process.denoised(noisy, decoder.predict(noisy, high, c).float(), high)
        noisy = process.noisy(guess, batch["distillation_noise"], low)
        target = decoder.predict(noisy, low, caption).float()
    predicted = decoder.predict(noisy, low, c).float()
    return (predicted - target).square().mean()
