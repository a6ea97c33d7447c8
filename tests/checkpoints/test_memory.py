"""What is said of memory beforehand, against what the boxes really take."""

import shutil
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tests.tiny import tiny_model_dir
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoConfig

from vlv.checkpoints.hub import resolve
from vlv.checkpoints.memory import Work, cache_values, needed
from vlv.checkpoints.parts import CAPTIONING, DRAWING
from vlv.checkpoints.sizes import folder_sizes, model_sizes
from vlv.checkpoints.weights import load_weights, save_weights
from vlv.errors import CheckpointError
from vlv.models.config import BOXES
from vlv.pipeline import VLV
from vlv.world.render import render
from vlv.world.scene import sample_scene

__all__ = ["tiny_model_dir"]

MINI = resolve("vlv-mini")


def held(box: nn.Module) -> int:
    """Bytes of what a box stores; tied tensors once."""
    tensors = {one.data_ptr(): one for one in box.state_dict().values()}
    return sum(one.numel() * one.element_size() for one in tensors.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_are_counted_exactly(tiny_model_dir: Path, dtype: torch.dtype) -> None:
    model = VLV.from_pretrained(tiny_model_dir, dtype=dtype)
    said = needed(tiny_model_dir, Work(), dtype).weights
    assert said == {box: held(getattr(model, box)) for box in BOXES}
    sizes, loaded = folder_sizes(tiny_model_dir), model_sizes(model)
    assert sum(one.values for one in sizes.values()) == sum(one.values for one in loaded.values())
    assert sizes["language_model"] == loaded["language_model"]


def test_shards_count_as_one(tiny_model_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_dir, folder)
    file = folder / "caption_decoder" / "language_model" / "model.safetensors"
    tensors = load_weights(file)
    file.unlink()
    save_weights(tensors, file, max_shard_bytes=2000)
    assert len(list(file.parent.glob("*.safetensors"))) > 2
    assert folder_sizes(folder) == folder_sizes(tiny_model_dir)


def test_a_folder_tells_of_what_it_holds(tiny_model_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model_dir / "encoder", tmp_path / "encoder")
    assert list(needed(tmp_path, Work(), torch.float32).weights) == ["encoder"]
    (tmp_path / "encoder" / "model.safetensors").write_bytes(b"x" * 99)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        needed(tmp_path, Work(), torch.float32)


def test_only_one_box_counts_where_the_others_wait(tiny_model_dir: Path) -> None:
    need = needed(tiny_model_dir, Work(), torch.float32)
    apart = needed(tiny_model_dir, Work(), torch.float32, offload=True)
    assert need.total == sum(need.weights.values()) + need.working
    assert apart.total == max(need.weights.values()) + need.working


def test_the_cache_is_counted_exactly(tiny_model_dir: Path) -> None:
    lm = VLV.from_pretrained(tiny_model_dir).caption_decoder.lm
    with torch.no_grad():
        cache = lm(input_ids=torch.zeros(3, 7, dtype=torch.long), use_cache=True).past_key_values
    values = sum(layer.keys.numel() + layer.values.numel() for layer in cache.layers)
    assert cache_values(lm.config, 3, 7) == values


def test_a_longer_caption_needs_a_longer_cache() -> None:
    """Once the cache outweighs all else: two bytes a value, and a layer of it twice."""

    def working(length: int) -> int:
        work = Work(("caption_decoder",), batch_size=2, sequences=5, max_new_tokens=length)
        return needed(MINI, work, torch.bfloat16).working

    config = AutoConfig.from_pretrained(MINI / "caption_decoder" / "language_model")
    layers = config.num_hidden_layers
    more = 2 * cache_values(config, 10, 1000) * (layers + 1) // layers
    assert working(6000) - working(5000) == more


class Peak(TorchDispatchMode):
    """The most bytes that tensors made under it take at once."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._live: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        given = {storage(one)._cdata for one in tree_leaves((args, kwargs)) if is_tensor(one)}
        for one in filter(is_tensor, tree_leaves(made)):
            memory = storage(one)
            if memory._cdata not in given | self._live.keys():
                self._live[memory._cdata] = memory.nbytes()
                weakref.finalize(memory, self._live.pop, memory._cdata, 0)
                self.peak = max(self.peak, sum(self._live.values()))
        return made


def is_tensor(one: Any) -> bool:
    return isinstance(one, Tensor)


def storage(one: Tensor) -> Any:
    return one.untyped_storage()


@pytest.mark.parametrize("box", list(BOXES))
def test_the_estimate_of_working_memory_is_near_the_truth(box: str) -> None:
    """With the mini model, eight images at once: within a factor of two."""
    model = VLV.from_pretrained(MINI)
    z = model.encode([Image.new("RGB", (64, 64), "red")] * 8)
    c, pixels = model.read(z), torch.zeros(8, 3, 64, 64)
    work = {
        "encoder": lambda: model.encoder(pixels),
        "text_tower": lambda: model.text_tower(z),
        "caption_decoder": lambda: model.caption_decoder.generate(
            c, num_beams=4, min_new_tokens=60, max_new_tokens=60
        ),
        "decoder": lambda: model.decoder.decode_latents(model.decoder.encode_images(pixels)),
    }[box]
    getattr(model, box)  # loaded before it is measured
    with torch.no_grad(), Peak() as measured:
        work()
    said = needed(MINI, Work((box,), 8, 4, 60), torch.float32).working  # type: ignore[arg-type]
    assert measured.peak / 2 < said < 2 * measured.peak, (measured.peak, said)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_a_quantized_language_model_captions_and_takes_what_was_said(
    bits: Any, dtype: torch.dtype, capfd: pytest.CaptureFixture[str]
) -> None:
    """With the mini model, whose captions then cost hardly more to guess."""
    scene = sample_scene(1, "test")
    picture = Image.fromarray(render(scene))
    plain, model = (
        VLV.from_pretrained(MINI, dtype=dtype, quantization=how) for how in (None, bits)
    )
    (caption,) = model.caption(picture, num_beams=2)
    c = plain.read(plain.encode(picture))
    ids, lengths = plain.caption_decoder.tokenise(plain.caption(picture))
    with torch.no_grad():
        losses = [one.caption_decoder(c, ids, lengths).item() for one in (plain, model)]
    assert caption and losses[1] == pytest.approx(losses[0], abs={"8bit": 0.02, "4bit": 0.2}[bits])
    assert model.caption_decoder.psi[0].weight.dtype == dtype
    assert {one.dtype for one in model.caption_decoder.lm.parameters() if one.dim() == 1} == {dtype}
    assert capfd.readouterr() == ("", "")
    weights = folder_sizes(MINI)["language_model"]
    said, whole = weights.bytes(dtype.itemsize, bits), weights.bytes(dtype.itemsize)
    assert said < whole * {"8bit": 0.55, "4bit": 0.35}[bits]
    assert quantized(model.caption_decoder.lm) == pytest.approx(said, rel=0.06)


def quantized(lm: nn.Module) -> int:
    """Bytes of a quantized model, the scales of its layers among them."""
    total = held(lm)
    for one in lm.parameters():
        state = getattr(one, "quant_state", None)
        scales = [getattr(one, "SCB", None)]
        if state is not None:
            scales += [state.absmax, state.state2.absmax if state.nested else None]
        total += sum(scale.numel() * scale.element_size() for scale in scales if scale is not None)
    return total


def test_captions_and_pictures_need_different_boxes(tiny_model_dir: Path) -> None:
    for boxes in (CAPTIONING, DRAWING):
        assert tuple(needed(tiny_model_dir, Work(boxes), torch.float32).weights) == boxes
