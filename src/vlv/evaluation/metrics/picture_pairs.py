"""How alike two pictures are, pair by pair: LPIPS, PSNR and SSIM, by torchmetrics.

LPIPS compares activations of AlexNet or VGG-16 (Zhang et al., 2018). torchmetrics has its last
layers, and takes the network from torchvision; here the convolutions are made of their published
shapes, so that torchvision is not needed, and get torchvision's published weights.

Shapes: n pairs, S side of a picture in pixels.
"""

from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from vlv.errors import CheckpointError, ConfigError
from vlv.evaluation.metrics.image_networks import fetched_weights
from vlv.evaluation.metrics.libraries import torchmetrics
from vlv.evaluation.metrics.statistics import Array
from vlv.files import sha256_of
from vlv.text import printable

LPIPSNetwork = Literal["alex", "vgg"]
# Of torchvision's weights: the address, and how the SHA-256 of the file begins.
_WEIGHTS = {
    "alex": ("https://download.pytorch.org/models/alexnet-owt-7be5be79.pth", "7be5be79"),
    "vgg": ("https://download.pytorch.org/models/vgg16-397923af.pth", "397923af"),
}
_OTHERWISE = "name the file with --lpips-weights, or leave LPIPS out with --lpips none"
# Channels of VGG-16's convolutions, in groups with pooling between them.
_VGG = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class LPIPS:
    """LPIPS that is loaded. `about` says with what, as JSON values.

    weights: a file with torchvision's weights of the network; None fetches them.

    Raises:
        ConfigError: torchmetrics is not installed, or there is no such network.
        CheckpointError: the weights cannot be fetched, or are others.
    """

    def __init__(self, name: str, device: str | None = None, weights: Path | None = None) -> None:
        if name not in get_args(LPIPSNetwork):
            known = ", ".join(get_args(LPIPSNetwork))
            raise ConfigError(f"there is no LPIPS with {printable(name)}; use one of {known}")
        library = torchmetrics("functional.image.lpips")
        features = _alexnet() if name == "alex" else _vgg16()
        file = weights or fetched_weights(*_WEIGHTS[name], _OTHERWISE)
        _load(features, file)
        with _in_place_of_torchvision(library, features):
            network = library._NoTrainLpips(net=name)
        place = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._network, self._device = network.to(place), place
        self.about = {"lpips": name, "sha256": sha256_of(file)}

    @torch.inference_mode()
    def distances(self, a: Tensor, b: Tensor) -> Array:
        """(n,) of pictures (n, 3, S, S), bytes; 0 of equal ones."""
        first, second = (x.to(self._device).float() / 255 for x in (a, b))
        found = self._network(first, second, normalize=True)
        values: Array = found.flatten().double().cpu().numpy()
        return values


def pixels_of(pictures: Sequence[Image.Image]) -> Tensor:
    """(n, 3, S, S) bytes of square pictures of one size."""
    return torch.from_numpy(np.stack([np.asarray(one) for one in pictures])).permute(0, 3, 1, 2)


def psnr(a: Tensor, b: Tensor) -> Array:
    """Decibels of each pair (n,). Half a level of one value stands for "no difference", where it is
    infinite otherwise.
    """
    image = torchmetrics("functional.image")
    first, second = a.double(), b.double()
    found = image.peak_signal_noise_ratio(
        first, second, data_range=255.0, reduction="none", dim=(1, 2, 3)
    )
    most = 10 * np.log10(255.0**2 * a[0].numel() / 0.25)
    values: Array = found.clamp(max=most).numpy()
    return values


def ssim(a: Tensor, b: Tensor) -> Array:
    """SSIM of each pair (n,), with the 11-pixel Gaussian window of its authors."""
    image = torchmetrics("functional.image")
    found = image.structural_similarity_index_measure(
        a.double(), b.double(), data_range=255.0, reduction="none"
    )
    values: Array = found.reshape(len(a)).numpy()
    return values


def _alexnet() -> nn.Sequential:
    """The convolutions, in torchvision's order."""
    return nn.Sequential(
        nn.Conv2d(3, 64, 11, stride=4, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(),
    )


def _vgg16() -> nn.Sequential:
    layers: list[nn.Module] = []
    before = 3
    for group in _VGG:
        for channels in group:
            layers += [nn.Conv2d(before, channels, 3, padding=1), nn.ReLU()]
            before = channels
        layers.append(nn.MaxPool2d(2, 2))
    return nn.Sequential(*layers)


def _load(features: nn.Sequential, file: Path) -> None:
    prefix = "features."
    try:
        state: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
        own = {
            name.removeprefix(prefix): value
            for name, value in state.items()
            if name.startswith(prefix)
        }
        features.load_state_dict(own)
    except Exception as error:  # whatever an unpickler raises, or weights of another network
        reason = printable(str(error).strip().split("\n")[0])
        raise CheckpointError(
            f"{printable(file)} does not hold torchvision's weights of this network ({reason})"
        ) from error


@contextmanager
def _in_place_of_torchvision(library: Any, features: nn.Sequential) -> Any:
    """While torchmetrics builds its network, it gets these convolutions."""
    own = library._get_tv_model_features
    library._get_tv_model_features = lambda *_, **__: features
    try:
        yield
    finally:
        library._get_tv_model_features = own
