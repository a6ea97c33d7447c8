"""LPIPS, PSNR and SSIM against their definitions and against scikit-image."""

from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from vlv.errors import CheckpointError, ConfigError
from vlv.evaluation.metrics.picture_pairs import LPIPS, _alexnet, _vgg16, pixels_of, psnr, ssim


@pytest.fixture(scope="module")
def pairs() -> tuple[Tensor, Tensor]:
    names = ("astronaut", "coffee")
    whole = [Image.fromarray(getattr(skimage.data, name)()).resize((64, 64)) for name in names]
    coarse = [one.resize((16, 16)).resize((64, 64)) for one in whole]
    return pixels_of(whole), pixels_of(coarse)


@pytest.fixture(scope="module")
def alexnet_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random ones, under the names of torchvision's file."""
    torch.manual_seed(0)
    state = {f"features.{name}": value for name, value in _alexnet().state_dict().items()}
    file = tmp_path_factory.mktemp("alexnet") / "alexnet.pth"
    torch.save({**state, "classifier.1.bias": torch.zeros(2)}, file)
    return file


def arrays(pictures: Tensor) -> list[np.ndarray]:
    return [one.permute(1, 2, 0).numpy() for one in pictures]


def test_psnr_and_ssim_are_those_of_scikit_image(pairs: tuple[Tensor, Tensor]) -> None:
    first, second = map(arrays, pairs)
    expected = [peak_signal_noise_ratio(a, b) for a, b in zip(first, second, strict=True)]
    assert psnr(*pairs) == pytest.approx(expected)
    windows = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    expected = [
        structural_similarity(a, b, channel_axis=2, data_range=255, **windows)
        for a, b in zip(first, second, strict=True)
    ]
    assert ssim(*pairs) == pytest.approx(expected, abs=0.02)  # the borders are treated otherwise
    same = psnr(pairs[0], pairs[0])
    assert np.isfinite(same).all() and (same > 90).all()


def test_lpips_is_its_definition(pairs: tuple[Tensor, Tensor], alexnet_weights: Path) -> None:
    import torchmetrics

    lpips = LPIPS("alex", "cpu", alexnet_weights)
    last = torch.load(
        Path(torchmetrics.__file__).parent / "functional/image/lpips_models/alex.pth",
        map_location="cpu",
        weights_only=True,
    )
    network = _alexnet()
    saved = torch.load(alexnet_weights, weights_only=True)
    network.load_state_dict(
        {name.removeprefix("features."): one for name, one in saved.items() if "feat" in name}
    )
    shift = torch.tensor([-0.030, -0.088, -0.188])[:, None, None]
    scale = torch.tensor([0.458, 0.448, 0.450])[:, None, None]
    expected = torch.zeros(2)
    a, b = ((x / 127.5 - 1 - shift) / scale for x in pairs)
    level = 0
    with torch.no_grad():
        for layer in network:
            a, b = layer(a), layer(b)
            if isinstance(layer, torch.nn.ReLU):
                gap = (torch.nn.functional.normalize(a) - torch.nn.functional.normalize(b)) ** 2
                weight = last[f"lin{level}.model.1.weight"]
                expected += (gap * weight[0]).sum(1).mean((1, 2))
                level += 1
    assert lpips.distances(*pairs) == pytest.approx(expected.numpy(), rel=1e-4)
    assert lpips.distances(pairs[0], pairs[0]) == pytest.approx([0, 0], abs=1e-6)


def test_the_networks_have_the_names_of_torchvisions_weights() -> None:
    with torch.device("meta"):
        convolutions = {int(name.split(".")[0]) for name in _vgg16().state_dict()}
    assert convolutions == {0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28}
    assert {int(name.split(".")[0]) for name in _alexnet().state_dict()} == {0, 3, 6, 8, 10}


def test_other_weights_are_refused(alexnet_weights: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="torchvision's weights of this network"):
        LPIPS("vgg", "cpu", alexnet_weights)
    torch.save({"features.0.weight": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError):
        LPIPS("alex", "cpu", tmp_path / "evil.pth")
    assert not Path("evil-was-here").exists()
    with pytest.raises(ConfigError, match="use one of alex, vgg"):
        LPIPS("resnet", "cpu")


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return Path("evil-was-here").touch, ()
