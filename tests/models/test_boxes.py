"""Boxes that wait in the CPU's memory, quantized ones, and boxes that can be trained after use."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.inference.reconstructing import reconstruct_images
from tests.tiny import CAPTIONS, plain, png, tiny_model_dir
from torch import nn

from vlv.errors import ConfigError
from vlv.inference.reconstruction import DrawSettings, Reconstructed
from vlv.inference.records import ImageInput
from vlv.models.config import BoxName
from vlv.pipeline import VLV

__all__ = ["tiny_model_dir"]

CPU, DEVICE = torch.device("cpu"), torch.device("cpu", 0)


class Watched(VLV):
    """A model that knows where each box is, and checks that it is on the device when it works.

    Two names of the CPU stand for the CPU and the device, so that tensors are real.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.places: dict[str, torch.device] = {}
        self.worked: list[str] = []

    def _read_box(self, name: BoxName) -> nn.Module:
        assert DEVICE not in self.places.values(), "a box is read while another is on the device"
        box = super()._read_box(name)
        self.places[name] = CPU
        for part in box.modules():
            part.register_forward_pre_hook(lambda *_: self._check(name))
        return box

    def _move(self, name: BoxName | None, device: torch.device) -> None:
        super()._move(name, device)
        self.places[str(name)] = device

    def _check(self, name: str) -> None:
        assert [box for box, place in self.places.items() if place == DEVICE] == [name]
        if self.worked[-1:] != [name]:
            self.worked.append(name)


def test_only_the_box_at_work_is_on_the_device_in_any_order(tiny_model_dir: Path) -> None:
    model = Watched.from_pretrained(tiny_model_dir, device=DEVICE, offload=True)
    usual = VLV.from_pretrained(tiny_model_dir)
    drawing = {"seeds": [3], "num_inference_steps": 2}
    z = model.encode(plain("red"))
    pictures = model.reconstruct(z, **drawing).images
    assert model.caption_from_z(z) == [CAPTIONS["red"]]
    assert model.caption([plain(color) for color in CAPTIONS], 2) == list(CAPTIONS.values())
    drawn = model.draw(["a cube"], **drawing).images
    again = model.reconstruct(plain("red"), **drawing).images
    assert model.worked == [
        *["encoder", "text_tower", "decoder"],
        *["text_tower", "caption_decoder"],
        *["encoder", "text_tower", "caption_decoder"] * 2,
        *["text_tower", "decoder"],
        *["encoder", "text_tower", "decoder"],
    ]
    expected = usual.reconstruct(plain("red"), **drawing).images[0].tobytes()
    assert pictures[0].tobytes() == again[0].tobytes() == expected
    assert drawn[0].tobytes() == usual.draw(["a cube"], **drawing).images[0].tobytes()


def test_the_ways_of_the_command_line_take_boxes_in_turn(tiny_model_dir: Path) -> None:
    model = Watched.from_pretrained(tiny_model_dir, device=DEVICE, offload=True)
    source = ImageInput("red", png("red"))
    settings = DrawSettings(num_inference_steps=1)
    (drawn,) = reconstruct_images(model, [source], settings, via="caption")
    assert isinstance(drawn, Reconstructed) and drawn.caption == CAPTIONS["red"]
    assert list(dict.fromkeys(model.worked)) == [
        "encoder",
        "text_tower",
        "caption_decoder",
        "decoder",
    ]


def test_a_model_that_waits_moves_with_to(tiny_model_dir: Path) -> None:
    model = Watched.from_pretrained(tiny_model_dir, device=DEVICE, offload=True)
    model.condition(model.encode(plain("red")))
    assert model.places == {"encoder": CPU, "text_tower": DEVICE}
    model.to(CPU)
    assert model.places == {"encoder": CPU, "text_tower": CPU}
    model.to(DEVICE)
    assert model.places == {"encoder": CPU, "text_tower": DEVICE}


def test_the_same_model_as_another_kind_keeps_what_is_in_memory(tiny_model_dir: Path) -> None:
    model = Watched.from_pretrained(tiny_model_dir, device=DEVICE, offload=True)
    z = model.encode(plain("red"))
    other = model.as_kind(Watched)
    other.places = model.places
    assert other.caption_from_z(z) == [CAPTIONS["red"]]
    assert other.places == {"encoder": CPU, "text_tower": CPU, "caption_decoder": DEVICE}
    mini = VLV.from_pretrained("vlv-mini")
    assert mini.as_kind(VLV).ood_detector is mini.ood_detector


@pytest.mark.parametrize("wrong", ["cuda:99", torch.bfloat16])
def test_a_model_stays_where_it_is_if_it_cannot_move(tiny_model_dir: Path, wrong: Any) -> None:
    model = VLV.from_pretrained(tiny_model_dir, device="cpu")
    with pytest.raises(ConfigError, match="cannot be used here"):
        model.to(wrong)
    assert model.device == CPU


def test_quantization_and_offload_exclude_each_other(tiny_model_dir: Path) -> None:
    with pytest.raises(ConfigError, match="choose quantization or offload"):
        VLV.from_pretrained(tiny_model_dir, quantization="8bit", offload=True)


def test_missing_bitsandbytes_is_named_with_its_extra(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    model = VLV.from_pretrained(tiny_model_dir, quantization="4bit")
    with pytest.raises(ConfigError, match=r"vlv\[quantization\]"):
        model.caption(plain("red"))


def test_attention_is_the_fused_one_of_the_library(tiny_model_dir: Path) -> None:
    model = VLV.from_pretrained(tiny_model_dir)
    florence = model.encoder.florence
    parts = [florence, florence.vision_tower, florence.language_model]
    for network in (*parts, model.text_tower.clip, model.caption_decoder.lm):
        assert network.config._attn_implementation == "sdpa"
