"""Weight files: in shards where they are large, and read back whole."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from vlv.checkpoints.weights import load_weights, save_weights
from vlv.errors import CheckpointError
from vlv.pipeline import VLV


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {f"layer.{i}.weight": torch.randn(10, 10, generator=generator) for i in range(5)}


def test_large_weights_lie_in_shards_with_an_index(
    tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    save_weights(tensors, path, max_shard_bytes=900)
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == [
        "model-00001-of-00003.safetensors",
        "model-00002-of-00003.safetensors",
        "model-00003-of-00003.safetensors",
        "model.safetensors.index.json",
    ]
    again = load_weights(path)
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in tensors.items())


def test_a_view_is_stored_without_what_it_looks_into(tmp_path: Path) -> None:
    whole = torch.arange(1000.0)
    save_weights({"row": whole[3:5], "t": whole[:6].view(2, 3).T}, tmp_path / "a.safetensors")
    assert (tmp_path / "a.safetensors").stat().st_size < 400
    again = load_weights(tmp_path / "a.safetensors")
    assert again["row"].tolist() == [3.0, 4.0]
    assert again["t"].tolist() == [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]


def test_the_library_reads_a_language_model_in_shards(model: VLV, tmp_path: Path) -> None:
    lm = model.caption_decoder.lm
    lm.config.save_pretrained(tmp_path)
    tied = {"lm_head.weight"}
    state = {name: value for name, value in lm.state_dict().items() if name not in tied}
    save_weights(state, tmp_path / "model.safetensors", max_shard_bytes=20_000)
    assert (tmp_path / "model.safetensors.index.json").is_file()
    again = AutoModelForCausalLM.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(again[name], value) for name, value in lm.state_dict().items())


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("{", "is not JSON"),
        ('{"weight_map": []}', "no weight_map"),
        ('{"weight_map": {"a": "../model.safetensors"}}', "which is not beside it"),
        ('{"weight_map": {"a": "gone.safetensors"}}', "is missing"),
    ],
)
def test_a_bad_index_is_an_error(index: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(CheckpointError, match=message):
        load_weights(tmp_path / "model.safetensors")


def test_a_lost_shard_is_named(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    save_weights(tensors, tmp_path / "model.safetensors", max_shard_bytes=900)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    lost = index["weight_map"]["layer.4.weight"]
    (tmp_path / lost).unlink()
    with pytest.raises(CheckpointError, match=f"{lost} is missing"):
        load_weights(tmp_path / "model.safetensors")
