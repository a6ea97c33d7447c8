"""Checkpoints: written whole or not at all, read only as they were written, pruned last."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from tests.training.written import write_checkpoint

from vlv.errors import TrainingError
from vlv.training import checkpoint_files
from vlv.training.checkpoint import (
    list_checkpoints,
    prune_checkpoints,
    read_checkpoint,
    resolve_checkpoint,
)

TENSORS = {"trainable": {"w": torch.arange(6.0).view(2, 3)}, "ema": {"w": torch.ones(2, 3)}}


def write(folder: Path, *steps: int) -> None:
    for step in steps:
        write_checkpoint(folder, step, TENSORS, {"step": step, "seconds": 0.1 + 0.2})


def names(folder: Path) -> list[str]:
    return [path.name for path in list_checkpoints(folder)]


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    write(tmp_path, 7)
    tensors, state = read_checkpoint(tmp_path / "checkpoint-7")
    assert state == {"step": 7, "seconds": 0.1 + 0.2}
    assert tensors.keys() == TENSORS.keys()
    for name, group in TENSORS.items():
        assert torch.equal(tensors[name]["w"], group["w"])
    suffixes = {path.suffix for path in (tmp_path / "checkpoint-7").iterdir()}
    assert suffixes == {".json", ".safetensors"}


@pytest.mark.parametrize("broken", ["save_file", "sync", "sha256_of"])
def test_a_write_that_fails_leaves_the_older_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    write(tmp_path, 1)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_files, broken, full)
        with pytest.raises(TrainingError, match=r"checkpoint-2 cannot be written \(No space left"):
            write(tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]
    assert names(tmp_path) == ["checkpoint-1"]
    read_checkpoint(tmp_path / "checkpoint-1")
    # What the failed attempt left behind is in nobody's way.
    write(tmp_path, 2)
    prune_checkpoints(tmp_path, 2, newest=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-1", "checkpoint-2"]


@pytest.mark.parametrize("name", ["trainable.safetensors", "ema.safetensors", "state.json"])
@pytest.mark.parametrize("fault", ["removed", "shortened", "flipped"])
def test_a_file_that_is_not_what_was_written_is_named(
    tmp_path: Path, name: str, fault: str
) -> None:
    write(tmp_path, 3)
    path = tmp_path / "checkpoint-3" / name
    data = path.read_bytes()
    if fault == "removed":
        path.unlink()
    elif fault == "shortened":
        path.write_bytes(data[:-1])
    else:
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(TrainingError, match=f"{name} is missing or damaged"):
        read_checkpoint(tmp_path / "checkpoint-3")


def test_a_folder_without_a_whole_manifest_is_no_checkpoint(tmp_path: Path) -> None:
    write(tmp_path, 3, 4)
    manifest = tmp_path / "checkpoint-4" / "manifest.json"
    manifest.write_text(json.dumps({})[:1])
    with pytest.raises(TrainingError, match="is not a complete checkpoint"):
        read_checkpoint(tmp_path / "checkpoint-4")
    manifest.unlink()
    assert names(tmp_path) == ["checkpoint-3"]


def test_tensors_that_are_the_same_are_each_written(tmp_path: Path) -> None:
    table = torch.arange(4.0)
    write_checkpoint(
        tmp_path, 1, {"optimizer": {"a.qmap1": table, "b.qmap1": table, "c": table[1:]}}, {}
    )
    tensors, _ = read_checkpoint(tmp_path / "checkpoint-1")
    found = tensors["optimizer"]
    assert torch.equal(found["a.qmap1"], table) and torch.equal(found["b.qmap1"], table)
    assert torch.equal(found["c"], table[1:])


def test_the_newest_is_the_latest_by_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert resolve_checkpoint(tmp_path, "latest") is None
    write(tmp_path, 9, 10, 100)
    assert names(tmp_path) == ["checkpoint-9", "checkpoint-10", "checkpoint-100"]
    assert resolve_checkpoint(tmp_path, "latest") == tmp_path / "checkpoint-100"
    assert resolve_checkpoint(tmp_path, None) is None
    for wish in ("checkpoint-9", str(tmp_path / "checkpoint-9")):
        assert resolve_checkpoint(tmp_path, wish) == tmp_path / "checkpoint-9"
    # Of two runs, that whose folder is named, wherever the command is given.
    monkeypatch.chdir(tmp_path)
    assert resolve_checkpoint(tmp_path / "other", "checkpoint-9") == Path("checkpoint-9")
    write(tmp_path / "other", 9)
    assert resolve_checkpoint(tmp_path / "other", "checkpoint-9") == (
        tmp_path / "other" / "checkpoint-9"
    )
    with pytest.raises(TrainingError, match="there is no checkpoint checkpoint-8"):
        resolve_checkpoint(tmp_path, "checkpoint-8")
    prune_checkpoints(tmp_path, 2, newest=100)
    assert names(tmp_path) == ["checkpoint-10", "checkpoint-100"]


def test_a_removal_that_is_cut_off_leaves_no_part_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, 1, 2)

    def cut(folder: Path, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            (folder / "manifest.json").unlink()
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", cut)
        with pytest.raises(KeyboardInterrupt):
            prune_checkpoints(tmp_path, 1, newest=2)
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-2"]
    prune_checkpoints(tmp_path, 1, newest=2)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]


def test_copies_that_people_keep_are_no_checkpoints(tmp_path: Path) -> None:
    write(tmp_path, 1)
    shutil.copytree(tmp_path / "checkpoint-1", tmp_path / "checkpoint-1-good")
    assert names(tmp_path) == ["checkpoint-1"]


def test_a_run_that_starts_over_keeps_its_own_checkpoints(tmp_path: Path) -> None:
    write(tmp_path, 90, 100)
    write(tmp_path, 5)
    prune_checkpoints(tmp_path, 2, newest=5)
    assert names(tmp_path) == ["checkpoint-5"]


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "null",
        "{",
        '{"a": ' * 100_000,
        '{"state.json": ' + "[" * 500 + "]" * 500 + "}",
        '{"state.json": ' + "9" * 5000 + "}",
        '{"state.json": ["x"]}',
        '{"state.json": "x", "../model.safetensors": "x"}',
        "{}",
    ],
)
def test_a_manifest_of_another_shape_is_one_sentence(tmp_path: Path, text: str) -> None:
    write(tmp_path, 3)
    folder = tmp_path / "checkpoint-3"
    (folder / "manifest.json").write_text(text)
    with pytest.raises(TrainingError, match="checkpoint-3") as raised:
        read_checkpoint(folder)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("text", ["[]", '{"a": ' * 100_000, "9" * 5000])
def test_a_state_of_another_shape_is_one_sentence(tmp_path: Path, text: str) -> None:
    """By whoever writes the manifest too."""
    write(tmp_path, 3)
    folder = tmp_path / "checkpoint-3"
    (folder / "state.json").write_text(text)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["state.json"] = hashlib.sha256(text.encode()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(TrainingError, match="not a complete checkpoint"):
        read_checkpoint(folder)
