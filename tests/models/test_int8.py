"""A language model in int8 on a CPU: what its layers give, and what captions lose."""

from pathlib import Path

import pytest
import torch
from torch import nn

from vlv.data.world_sets import world_samples
from vlv.errors import ConfigError
from vlv.models.int8 import Int8Linear
from vlv.models.precision import computes_int8
from vlv.pipeline import VLV


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_is_close_and_its_rows_do_not_depend_on_each_other(
    dtype: torch.dtype, bias: bool
) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(96, 40, bias=bias).to(dtype)
    layer = Int8Linear(linear)
    x = torch.randn(2, 5, 96, dtype=dtype) * torch.logspace(-3, 3, 5).reshape(1, 5, 1).to(dtype)
    with torch.inference_mode():
        found, expected = layer(x), linear(x)
    assert found.shape == expected.shape and found.dtype == dtype
    error = (found.float() - expected.float()).norm(dim=-1) / expected.float().norm(dim=-1)
    assert error.max() < 0.03
    for row in range(5):
        assert torch.equal(layer(x[:1, row : row + 1]), found[:1, row : row + 1])
    assert layer(torch.zeros(1, 96, dtype=dtype)).isfinite().all()


def test_captions_of_the_mini_model_hardly_change() -> None:
    pictures = [one.picture() for one in world_samples(4, seed=2, split="test")]
    plain, model = (VLV.from_pretrained("vlv-mini", quantization=how) for how in (None, "int8"))
    c = plain.read(plain.encode(pictures))
    ids, lengths = plain.caption_decoder.tokenise(plain.caption(pictures))
    with torch.no_grad():
        losses = [one.caption_decoder(c, ids, lengths).item() for one in (plain, model)]
    assert losses[1] == pytest.approx(losses[0], abs=0.02)
    layers = [one for one in model.caption_decoder.lm.modules() if isinstance(one, Int8Linear)]
    assert len(layers) == 7 * plain.caption_decoder.lm.config.num_hidden_layers
    assert all(model.caption(pictures))


def test_packed_weights_are_not_saved_as_a_model_without_them(tmp_path: Path) -> None:
    model = VLV.from_pretrained("vlv-mini", quantization="int8")
    with pytest.raises(ConfigError, match="language model in int8 cannot be saved"):
        model.save_pretrained(tmp_path / "whole")
    assert not list(tmp_path.iterdir())
    model.save_pretrained(tmp_path / "encoder", components=["encoder"])


def test_an_older_cpu_and_a_gpu_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    with pytest.raises(ConfigError, match="for CPUs with VNNI"):
        VLV.from_pretrained("vlv-mini", quantization="int8")
    assert not computes_int8(torch.device("cuda"))
