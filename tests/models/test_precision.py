"""Which number type `auto` means, by what a CPU says of itself."""

from pathlib import Path

import pytest
import torch
from tests.tiny import tiny_model_dir
from transformers import PreTrainedModel

from vlv.inference.loading import open_model
from vlv.models.precision import computes_bfloat16, mixed_precision, use_fast_attention
from vlv.pipeline import VLV

__all__ = ["tiny_model_dir"]

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("able", "expected"),
    [
        ({"avx2": True, "avx512_f": True}, "no"),
        ({"avx2": True, "avx512_bf16": False, "amx_bf16": False}, "no"),
        ({"avx512_bf16": True}, "bf16"),
        ({"amx_bf16": True}, "bf16"),
        ({"neon": True, "bf16": True}, "bf16"),
        ({"neon": True}, "no"),
    ],
)
def test_auto_follows_the_cpu(
    monkeypatch: pytest.MonkeyPatch, able: dict[str, bool], expected: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert mixed_precision("auto", CPU) == expected
    assert mixed_precision("no", CPU) == "no"
    assert mixed_precision("bf16", CPU) == "bf16"


def test_a_torch_that_does_not_tell_means_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert not computes_bfloat16(CPU)


def test_apple_gpus_keep_float32() -> None:
    assert not computes_bfloat16(torch.device("mps"))


@pytest.mark.parametrize("machine_has_cuda", [True, False])
@pytest.mark.parametrize(("device", "expected"), [("cpu", "eager"), ("cuda:0", "sdpa")])
def test_attention_follows_the_device_that_computes(
    device: str, expected: str, machine_has_cuda: bool, model: VLV, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: machine_has_cuda)
    use_fast_attention(model.text_tower, torch.device(device))
    assert model.text_tower.clip.config._attn_implementation == expected


@pytest.mark.parametrize(("dtype", "kernel"), [("bfloat16", "eager"), ("float32", "sdpa")])
def test_an_encoder_that_is_opened_has_the_faster_attention(
    tiny_model_dir: Path, dtype: str, kernel: str
) -> None:
    opened = open_model(tiny_model_dir, device="cpu", dtype=dtype)
    for part in opened.encoder.florence.modules():
        if isinstance(part, PreTrainedModel):
            assert part.config._attn_implementation == kernel


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_model_of_boxes_has_their_dtype(dtype: torch.dtype, model: VLV) -> None:
    other = VLV.from_boxes(
        text_tower=model.text_tower.to(dtype), caption_decoder=model.caption_decoder.to(dtype)
    )
    assert other.dtype == dtype
    z = torch.zeros(1, 6, model.text_tower.width)
    assert other.condition(z).tokens.dtype == dtype
    assert len(other.caption_from_z(z, max_new_tokens=2)) == 1
