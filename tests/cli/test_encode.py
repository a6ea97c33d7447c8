"""`vlv encode`: what is saved, and what a bad file costs."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from tests.tiny import plain

from vlv.inference.embeddings import load_embeddings
from vlv.pipeline import VLV

pytestmark = pytest.mark.usefixtures("use_tiny_model")


def test_encode(vlv: Callable, pictures: Path, tiny_model_dir: Path) -> None:
    (pictures / "bad.png").write_text("x")
    out = pictures.parent / "new" / "z.safetensors"
    ran = vlv("encode", pictures, "--out", out, "--batch_size", 2)
    assert ran.code == 1
    assert "unknown-format" in ran.err
    assert "z 3 x 6 x 16" in ran.out
    saved = load_embeddings(out)
    colors = ["blue", "lime", "red"]
    assert saved.file_names == [str(pictures / f"{color}.png") for color in colors]
    expected = VLV.from_pretrained(tiny_model_dir).encode([plain(color) for color in colors])
    assert torch.allclose(saved.z, expected, atol=1e-5)
    with safe_open(out, framework="np") as file:
        assert file.metadata()["model"] == str(tiny_model_dir)


def test_encode_writes_nothing_over_anything(vlv: Callable, pictures: Path) -> None:
    out = pictures / "z.safetensors"
    out.write_text("mine")
    assert vlv("encode", pictures / "red.png", "--out", out).code == 2
    assert out.read_text() == "mine"
    ran = vlv("encode", pictures / "red.png", "--out", out, "--overwrite", "--json")
    assert json.loads(ran.out)["shape"] == [1, 6, 16]
    assert vlv("encode", pictures, "--out", pictures / "z.pt").code == 2
    (pictures / "bad.png").write_text("x")
    assert vlv("encode", pictures / "bad.png", "--out", pictures / "n.safetensors").code == 1
    assert not (pictures / "n.safetensors").exists()


def test_the_first_embeddings_alone(vlv: Callable, pictures: Path, tmp_path: Path) -> None:
    for name, flags in (("all", []), ("some", ["--num-queries", 2])):
        ran = vlv("encode", pictures, "--out", tmp_path / f"{name}.safetensors", *flags)
        assert ran.code == 0, ran.err
    whole = load_embeddings(tmp_path / "all.safetensors")
    some = load_embeddings(tmp_path / "some.safetensors")
    assert some.z.shape == (3, 2, 16) and some.file_names == whole.file_names
    assert torch.allclose(some.z, whole.z[:, :2], atol=1e-5)
    for number in (7, 0):
        out = tmp_path / "none.safetensors"
        ran = vlv("encode", pictures, "--out", out, "--num-queries", number)
        assert (ran.code, ran.out, out.exists()) == (2, "", False)
    ran = vlv("encode", pictures, "--out", out, "--num-queries", 7)
    assert "num_queries must be 1 to 6, the embeddings that there are of an image" in ran.err


def test_encode_takes_sets_and_patterns(vlv: Callable, pictures: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    arguments = ["--output_format", "webdataset", "--output", shards]
    assert vlv("caption", pictures, *arguments).code == 0
    out = tmp_path / "z.safetensors"
    assert vlv("encode", shards, "--glob", pictures / "r*.png", "--out", out).code == 0
    assert load_embeddings(out).file_names == [
        str(pictures / "red.png"),
        *(str(shards / "00000.tar" / f"{number:09d}.png") for number in range(3)),
    ]
