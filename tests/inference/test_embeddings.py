"""Embeddings on disk: what comes back, and what is refused."""

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests import launcher

from vlv.errors import DatasetError
from vlv.inference.embeddings import load_embeddings, save_embeddings


def test_round_trip(tmp_path: Path) -> None:
    z = torch.randn(3, 6, 16, generator=torch.Generator().manual_seed(0))
    names = ["a.png", "b/ü.jpg", 'quoted "c".webp']
    save_embeddings(tmp_path / "z.safetensors", z, names, "vlv-mini")
    saved = load_embeddings(tmp_path / "z.safetensors")
    assert torch.equal(saved.z, z)
    assert (saved.file_names, saved.model) == (names, "vlv-mini")
    assert [path.name for path in tmp_path.iterdir()] == ["z.safetensors"]


def test_slots_are_named_tensors_and_come_back_side_by_side(tmp_path: Path) -> None:
    z = torch.randn(2, 6, 9, generator=torch.Generator().manual_seed(0))
    path = tmp_path / "z.safetensors"
    save_embeddings(path, z, ["a.png", "b.png"], "m", {"clip_l": 4, "clip_g": 5})
    stored = load_file(path)
    assert {name: tuple(one.shape) for name, one in stored.items()} == {
        "z.clip_l": (2, 6, 4),
        "z.clip_g": (2, 6, 5),
    }
    assert torch.equal(load_embeddings(path).z, z)


def test_half_precision_is_stored_as_float32(tmp_path: Path) -> None:
    z = torch.randn(1, 6, 16).bfloat16()
    save_embeddings(tmp_path / "z.safetensors", z, ["a.png"], "m")
    saved = load_embeddings(tmp_path / "z.safetensors")
    assert saved.z.dtype == torch.float32
    assert torch.equal(saved.z, z.float())


def test_a_disk_that_is_full_is_one_sentence(tmp_path: Path) -> None:
    script = (
        "import resource, signal, sys, torch\n"
        "from pathlib import Path\n"
        "from vlv.errors import DatasetError\n"
        "from vlv.inference.embeddings import save_embeddings\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n"
        "    save_embeddings(Path(sys.argv[1]), torch.zeros(1, 77, 64), ['a'], 'm')\n"
        "except DatasetError as error:\n"
        "    print(error)\n"
    )
    out = tmp_path / "z.safetensors"
    ran = launcher.run([sys.executable, "-c", script, out], capture_output=True, text=True)
    assert f"{out} cannot be written" in ran.stdout and "File too large" in ran.stdout
    assert list(tmp_path.iterdir()) == []


def test_names_must_fit(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 names for 1"):
        save_embeddings(tmp_path / "z.safetensors", torch.zeros(1, 6, 16), ["a", "b"], "m")


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        ({"w": torch.zeros(1, 2, 3)}, {"file_names": '["a"]'}, "no caption embeddings"),
        ({"z": torch.zeros(1, 2, 3)}, {}, "no caption embeddings"),
        ({"z": torch.zeros(1, 2, 3)}, {"file_names": '["a", "b"]'}, "damaged"),
        ({"z": torch.zeros(1, 2, 3)}, {"file_names": "[1]"}, "damaged"),
        ({"z": torch.zeros(1, 2, 3)}, {"file_names": "["}, "damaged"),
        ({"z": torch.zeros(1, 2, 3)}, {"file_names": "[" * 100_000}, "damaged"),
        ({"z": torch.zeros(1, 2, 3)}, {"file_names": '["a\\u0000b"]'}, "damaged"),
        ({"z": torch.full((1, 2, 3), torch.nan)}, {"file_names": '["a"]'}, "no finite numbers"),
        ({"z": torch.zeros(1, 2, 3, dtype=torch.long)}, {"file_names": '["a"]'}, "no finite"),
        ({"z": torch.zeros(2, 3)}, {"file_names": '["a", "b"]'}, "damaged"),
        (
            {"z.a": torch.zeros(1, 2, 3), "z.b": torch.zeros(1, 3, 3)},
            {"file_names": '["a"]', "slots": '["a", "b"]'},
            "damaged",
        ),
        (
            {"z.a": torch.zeros(1, 2, 3)},
            {"file_names": '["a"]', "slots": '["a", "b"]'},
            "no caption embeddings",
        ),
    ],
)
def test_other_files_are_refused(
    tmp_path: Path, tensors: dict, metadata: dict, message: str
) -> None:
    path = tmp_path / "other.safetensors"
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(DatasetError, match=message) as refusal:
        load_embeddings(path)
    assert str(path) in str(refusal.value)


def test_missing_and_broken_files_are_refused(tmp_path: Path) -> None:
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"\xff" * 50)
    for path in (tmp_path / "missing.safetensors", broken):
        with pytest.raises(DatasetError, match="cannot be read"):
            load_embeddings(path)
