"""One picture out of the embeddings of two (paper, figure 6)."""

from pathlib import Path

from PIL import Image
from torch import Tensor

from vlv.data.images import MAX_OWN_PIXELS, load_image
from vlv.errors import ConfigError
from vlv.inference.embeddings import SUFFIX, load_embeddings
from vlv.inference.reconstruction import DrawSettings, saved_as_encoded
from vlv.models.vlv import Order, VLVModel


def compose_pictures(
    model: VLVModel,
    a: Path,
    b: Path,
    *,
    keep_a: int,
    keep_b: int,
    settings: DrawSettings,
    order: Order = "leading",
) -> Image.Image:
    """Draw the first `keep_a` embeddings of `a` followed by `keep_b` of `b`, as of `order`.

    `a` and `b` are images, or files of saved embeddings of one image.

    Raises:
        ImageError: an image was refused.
        DatasetError: a file holds no saved embeddings.
        ConfigError: there are not so many embeddings to keep, or the text tower has less room.
    """
    z_a, z_b = _embeddings(model, a), _embeddings(model, b)
    (picture,) = model.compose(z_a, z_b, keep_a, keep_b, order, **settings.drawing(1)).images
    return picture


def _embeddings(model: VLVModel, path: Path) -> Tensor:
    """Embeddings z (1,Q,d) of an image or of the one image that a file holds."""
    if path.suffix != SUFFIX:
        return model.encode(load_image(path, max_pixels=MAX_OWN_PIXELS))
    encoded = saved_as_encoded(model, load_embeddings(path))
    if len(encoded) != 1:
        raise ConfigError(
            f"{path} holds the embeddings of {len(encoded)} images, and composing takes one"
        )
    return encoded[0].z.unsqueeze(0)
