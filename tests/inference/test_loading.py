"""Opening models: devices, precision, and names that do not exist."""

from pathlib import Path

import pytest
import torch
from tests.tiny import CAPTIONS, plain

from vlv.errors import CheckpointError, ConfigError
from vlv.inference.loading import open_model


def test_a_model_opens_in_float32_on_an_available_device(tiny_model_dir: Path) -> None:
    model = open_model(tiny_model_dir)
    assert model.dtype == torch.float32
    assert model.caption([plain("red")]) == [CAPTIONS["red"]]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(tiny_model_dir: Path, dtype: str) -> None:
    model = open_model(tiny_model_dir, dtype=dtype, device="cpu")
    assert model.encode(plain("red")).dtype == getattr(torch, dtype)
    assert len(model.caption([plain("red")], max_new_tokens=5)) == 1
    (picture,) = model.reconstruct(plain("red"), num_inference_steps=2, seeds=[0]).images
    assert picture.size == (32, 32)


@pytest.mark.parametrize("device", ["cuda:99", "toaster", "meta:x"])
def test_a_device_that_is_not_there_is_named(tiny_model_dir: Path, device: str) -> None:
    with pytest.raises(ConfigError, match=device):
        open_model(tiny_model_dir, device=device)


def test_wrong_names(tmp_path: Path, tiny_model_dir: Path) -> None:
    with pytest.raises(ConfigError, match="float64"):
        open_model(tiny_model_dir, dtype="float64")
    with pytest.raises(CheckpointError, match="not a VLV model"):
        open_model(tmp_path)
