"""Selectors: scores by which the best of several captions of a picture is kept, by the frozen
decoder and by what it is compared with. Larger scores are better.

Shapes: Q,d length and width of z.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from PIL import Image
from torch import Tensor

from vlv.models.vlv import VLVModel
from vlv.verification.scorer import DenoisingScorer, VerifySettings
from vlv.world.language import caption_counts
from vlv.world.scene import Scene

Selector = Literal["decoder", "likelihood", "picture", "random", "truth"]
# How a caption is drawn: a picture is compared as a whole, and a few steps show what it holds.
_DRAWN_STEPS, _DRAWN_GUIDANCE = 10, 2.0


def by_decoder(
    model: VLVModel,
    image: Image.Image,
    captions: Sequence[str],
    settings: VerifySettings | None = None,
) -> list[float]:
    """How well the decoder denoises the picture under each caption: what stage 1 learns by."""
    return DenoisingScorer(model, image, settings or VerifySettings()).score(captions)


def by_picture(model: VLVModel, z: Tensor, captions: Sequence[str]) -> list[float]:
    """How alike the picture of z (1,Q,d) and the one that the decoder draws of each caption are:
    minus the mean squared distance of their embeddings. All are drawn from the same noise.
    """
    drawn = model.draw(
        captions,
        seeds=[0] * len(captions),
        guidance_scale=_DRAWN_GUIDANCE,
        num_inference_steps=_DRAWN_STEPS,
    ).images
    return [-float(far) for far in (model.encode(drawn) - z).square().mean((1, 2))]


@torch.no_grad()
def by_likelihood(model: VLVModel, z: Tensor, captions: Sequence[str]) -> list[float]:
    """The caption decoder's mean log-likelihood of a token, for z (1,Q,d)."""
    decoder, seen = model.caption_decoder, model.read(z)
    scores = []
    for caption in captions:
        ids, lengths = decoder.tokenise([caption])
        scores.append(-float(decoder(seen, ids.to(seen.device), lengths.to(seen.device))))
    return scores


def by_truth(scene: Scene, captions: Sequence[str]) -> list[float]:
    """Mean of the share of claims that are true and the share of facts that are stated."""
    counts = [caption_counts(caption, scene) for caption in captions]
    return [
        (one["true"] / max(one["claims"], 1) + one["stated"] / max(one["facts"], 1)) / 2
        for one in counts
    ]
