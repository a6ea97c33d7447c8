"""The OOD detector: its Gaussian, its threshold, and its place in the model folder."""

from pathlib import Path

import pytest
import torch
from tests.tiny import plain, tiny_model_dir

from vlv.checkpoints.boxes import add_ood_detector, load_ood_detector, save_ood_detector
from vlv.errors import CheckpointError, ConfigError
from vlv.models.ood import OODDetector, picture_features, token_features
from vlv.pipeline import VLV

__all__ = ["tiny_model_dir"]

WIDTH = 4
WEIGHTS_FILE, SETTINGS_FILE = "ood_detector.safetensors", "vlv_ood_detector.json"


def tokens(count: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    """Correlated image tokens (count, 9, WIDTH)."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(0))
    return torch.randn(count, 9, WIDTH, generator=generator) @ mix + shift


@pytest.fixture(scope="module")
def ood_detector() -> OODDetector:
    return OODDetector.fit(token_features(tokens(2000, 1)), quantile=0.98)


def test_as_many_pass_as_the_quantile_says_and_others_do_not(ood_detector: OODDetector) -> None:
    assert ood_detector(tokens(2000, 2)).float().mean() == pytest.approx(0.98, abs=0.015)
    assert not ood_detector(tokens(100, 3, shift=6.0)).any()
    assert not ood_detector(4 * tokens(100, 4)).any()


def test_the_distance_is_mahalanobis(ood_detector: OODDetector) -> None:
    learned, asked = token_features(tokens(2000, 1))[::2], token_features(tokens(5, 5))
    apart = asked - learned.mean(0)
    exact = (apart @ torch.linalg.inv(learned.T.cov()) * apart).sum(1)
    assert torch.allclose(ood_detector.distance(asked), exact, rtol=0.05)


def test_it_comes_back_from_its_folder_the_same(ood_detector: OODDetector, tmp_path: Path) -> None:
    save_ood_detector(ood_detector, tmp_path)
    back = load_ood_detector(tmp_path)
    asked = token_features(tokens(50, 6))
    assert torch.equal(back.distance(asked), ood_detector.distance(asked))
    assert back.settings == ood_detector.settings


def test_too_few_pictures_are_an_error() -> None:
    with pytest.raises(ConfigError, match="3 pictures"):
        OODDetector.fit(token_features(tokens(3, 1)))


def test_damaged_files_are_named(ood_detector: OODDetector, tmp_path: Path) -> None:
    save_ood_detector(ood_detector, tmp_path)
    (tmp_path / WEIGHTS_FILE).write_bytes(b"torn")
    with pytest.raises(CheckpointError, match=WEIGHTS_FILE):
        load_ood_detector(tmp_path)
    (tmp_path / SETTINGS_FILE).write_text('{"width": 4}')
    with pytest.raises(CheckpointError, match=SETTINGS_FILE):
        load_ood_detector(tmp_path)


def test_a_model_folder_keeps_it_and_one_without_says_nothing(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    model = VLV.from_pretrained(tiny_model_dir)
    assert model.ood_detector is None
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    shades = [plain(f"rgb({20 + i}, {30 + 2 * i}, 60)") for i in range(40)]
    add_ood_detector(OODDetector.fit(picture_features(model.encoder, shades)), folder)
    knowing = VLV.from_pretrained(folder)
    knowing.save_pretrained(tmp_path / "again")
    again = VLV.from_pretrained(tmp_path / "again")
    assert again.ood_detector is not None and knowing.ood_detector is not None
    assert again.ood_detector.settings == knowing.ood_detector.settings
    assert again.loaded == []
    whole, asked = again.encoder, again.encoder.preprocess([plain("red")])
    with torch.no_grad():
        assert torch.equal(whole(asked), whole.embed(whole.image_tokens(asked)))
