"""Out-of-distribution (OOD) detector of pictures: a Gaussian over the encoder's image tokens.

The tokens come from the forward pass that makes z, so that asking costs next to nothing. Knows
tokens only; nothing of captions, files or the world.

Shapes: B batch, N pictures, V image tokens, D their width.
"""

from collections.abc import Iterable
from itertools import islice

import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from vlv.errors import ConfigError
from vlv.models.encoder import VLVEncoder

# Variances below this share of their mean count as that much: a direction that the training
# pictures never take would otherwise outweigh all others.
_SHRINKAGE = 1e-3
_BATCH = 32
_FEWEST = 16


class OODSettings(BaseModel):
    """threshold: the distance up to which a picture is in distribution, met by the share
    `quantile` of half of the `count` pictures, the Gaussian being that of the other half.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    width: int = Field(ge=1)
    count: int = Field(ge=1)
    quantile: float = Field(gt=0, lt=1)
    threshold: float = Field(gt=0)


class OODDetector(nn.Module):
    """Squared Mahalanobis distance of the tokens' mean and standard deviation, and its limit."""

    mean: Tensor
    whitening: Tensor

    def __init__(self, settings: OODSettings) -> None:
        super().__init__()
        self.settings = settings
        self.register_buffer("mean", torch.zeros(2 * settings.width))
        self.register_buffer("whitening", torch.zeros(2 * settings.width, 2 * settings.width))

    @classmethod
    def fit(cls, features: Tensor, quantile: float = 0.99) -> "OODDetector":
        """From features (N,2D) of pictures in any order, as `token_features` makes them.

        Raises ConfigError for fewer than `_FEWEST`; a few thousand make a good estimate.
        """
        count, size = features.shape
        if count < _FEWEST:
            raise ConfigError(
                f"{count} pictures are too few to fit an OOD detector; give some thousand of those "
                "that the model was trained on"
            )
        shape, held_back = features[::2].double(), features[1::2]
        variances, directions = torch.linalg.eigh(shape.T.cov())
        scale = (variances + _SHRINKAGE * variances.mean()).rsqrt()
        made = cls(OODSettings(width=size // 2, count=count, quantile=quantile, threshold=1))
        # Half precision now: the threshold is then that of what a folder holds.
        made.mean = shape.mean(0).float()
        made.whitening = (directions * scale).T.half().float()
        threshold = made.distance(held_back).quantile(quantile).item()
        made.settings = made.settings.model_copy(update={"threshold": threshold})
        return made

    @torch.no_grad()
    def distance(self, features: Tensor) -> Tensor:
        """Squared distances (B,) of features (B,2D)."""
        apart = features.to(self.mean) - self.mean
        return (apart @ self.whitening.T).square().sum(1)

    def forward(self, image_tokens: Tensor) -> Tensor:
        """Whether each picture is in distribution (B,), of image tokens (B,V,D)."""
        return self.distance(token_features(image_tokens)) <= self.settings.threshold


def token_features(image_tokens: Tensor) -> Tensor:
    """Mean and standard deviation (B,2D) over a picture's tokens (B,V,D), in float32."""
    tokens = image_tokens.float()
    return torch.cat([tokens.mean(1), tokens.std(1)], dim=1)


@torch.inference_mode()
def picture_features(encoder: VLVEncoder, pictures: Iterable[Image.Image]) -> Tensor:
    """Features (N,2D) of pictures, on the CPU; z is not computed."""
    rest = iter(pictures)
    made = []
    while batch := list(islice(rest, _BATCH)):
        made.append(token_features(encoder.image_tokens(encoder.preprocess(batch))).cpu())
    return torch.cat(made) if made else torch.zeros(0, 2)
