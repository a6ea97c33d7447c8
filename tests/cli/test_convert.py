"""`vlv convert`: checkpoints of the authors to model folders and back."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.checkpoints.authors_layout import Parts, authors_state, base_parts
from tests.conftest import Outcome

Vlv = Callable[..., Outcome]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return base_parts(tmp_path_factory.mktemp("parts"))


def flags(parts: Parts) -> list[object]:
    return ["--encoder", parts[0], "--decoder", parts[1], "--language_model", parts[2]]


def test_there_and_back(vlv: Vlv, parts: Parts, tmp_path: Path) -> None:
    state = authors_state(1, 2, with_decoder=True)
    torch.save(state, tmp_path / "model.pt")
    there = vlv(
        "convert", "authors", tmp_path / "model.pt", tmp_path / "model", *flags(parts), "--json"
    )
    assert there.code == 0, there.err
    reported = json.loads(there.out)
    assert reported["stage"] == 2
    assert reported["tensors"] == len(state)
    assert "caption_decoder" in reported["components"] and "unet" in reported["components"]
    back = vlv("convert", "to-authors", tmp_path / "model", tmp_path / "back.safetensors")
    assert back.code == 0, back.err
    assert f"{len(state)} tensors" in back.out
    again = load_file(tmp_path / "back.safetensors")
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in state.items())


def test_it_tells_what_is_not_needed(vlv: Vlv, parts: Parts, tmp_path: Path) -> None:
    torch.save(authors_state(1, 2), tmp_path / "model.pt")
    done = vlv("convert", "authors", tmp_path / "model.pt", tmp_path / "model", *flags(parts))
    assert "of a checkpoint of stage 2" in done.out
    assert "not needed: Florence-2's" in done.out


def test_nothing_is_replaced_unasked(vlv: Vlv, parts: Parts, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    torch.save(authors_state(1, 2), tmp_path / "model.pt")
    refused = vlv("convert", "authors", tmp_path / "model.pt", tmp_path / "model", *flags(parts))
    assert refused.code == 2
    assert "exists already; choose another name or give --overwrite" in refused.err


def test_what_is_no_checkpoint_is_one_line(vlv: Vlv, parts: Parts, tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pt")
    refused = vlv("convert", "authors", tmp_path / "other.pt", tmp_path / "model", *flags(parts))
    assert refused.code == 3
    assert refused.err.count("\n") == 1
    assert "the tensor 'weight', which no checkpoint of the authors has" in refused.err
    assert not (tmp_path / "model").exists()
