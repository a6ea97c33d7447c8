"""Opening models: devices, precision, memory that is reported, and names that do not exist."""

import json
import shutil
from math import prod
from pathlib import Path

import pytest
import torch
from tests.tiny import CAPTIONS, plain

from vlv.checkpoints.authors.skeleton import write_settings
from vlv.checkpoints.boxes import stored_tensors
from vlv.checkpoints.manifest import write_manifest
from vlv.checkpoints.memory import Work
from vlv.checkpoints.opening import load_model
from vlv.checkpoints.parts import CAPTIONING, DRAWING, PARTS
from vlv.checkpoints.skeleton import skeleton
from vlv.errors import CheckpointError, ConfigError
from vlv.inference import loading
from vlv.inference.loading import memory_lines, open_model
from vlv.models import precision
from vlv.pipeline import VLV


def test_a_model_opens_in_float32_on_an_available_device(tiny_model_dir: Path) -> None:
    model = VLV.from_pretrained(tiny_model_dir)
    assert model.dtype == torch.float32
    assert model.caption([plain("red")]) == [CAPTIONS["red"]]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(tiny_model_dir: Path, dtype: str) -> None:
    model = VLV.from_pretrained(tiny_model_dir, dtype=dtype, device="cpu")
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
    with pytest.raises(ConfigError, match="2bit"):
        open_model(tiny_model_dir, quantization="2bit")


def write_sparse(file: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """A file of bfloat16 tensors that takes no space on disk but its header."""
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + prod(shape) * 2
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        out.truncate(8 + len(text) + end)


@pytest.fixture
def big_model_dir(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """The tiny model with a language model of 1.5 billion values, which takes no space on disk."""
    folder = tmp_path / "big"
    shutil.copytree(tiny_model_dir, folder)
    file = folder / "caption_decoder/language_model/model.safetensors"
    write_sparse(file, {"model.layers.0.mlp.up_proj.weight": (30_000, 50_000)})
    return folder


def test_the_need_is_reported_before_anything_is_loaded(
    big_model_dir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    lines: list[str] = []
    work = Work(CAPTIONING)
    model = open_model(big_model_dir, dtype="bfloat16", device="cpu", work=work, log=lines.append)
    assert lines[0].startswith(
        "needs about 3.0 GB (encoder 0.0, text tower 0.0, language model 3.0, working memory 0.0); "
    )
    assert lines[0].endswith(" GB are free on cpu")
    assert model.loaded == []
    open_model(big_model_dir, dtype="bfloat16", device="cpu")
    assert capfd.readouterr().err.startswith("vlv: needs about 3.0 GB (")


@pytest.mark.parametrize(
    ("opening", "free", "lines"),
    [
        (
            {"dtype": torch.float32},
            5,
            [
                "needs about 6.0 GB (encoder 0.0, text tower 0.0, language model 6.0, working "
                "memory 0.0); 5.0 GB are free on cpu",
                "this may not fit; what lowers it: --dtype bfloat16 (3.0 GB); --quantization 8bit "
                "with --dtype bfloat16 (1.5 GB); --quantization 4bit with --dtype bfloat16 "
                "(0.8 GB); --batch-size 1 with --dtype bfloat16 (3.0 GB)",
            ],
        ),
        (
            {"dtype": torch.bfloat16, "quantization": "8bit"},
            1,
            [
                "needs about 1.5 GB (encoder 0.0, text tower 0.0, language model 1.5, working "
                "memory 0.0); 1.0 GB are free on cpu",
                "this may not fit; what lowers it: --batch-size 1 (1.5 GB)",
            ],
        ),
        ({"dtype": torch.bfloat16, "quantization": "4bit"}, 0, []),
    ],
)
def test_what_lowers_the_need_is_reported_if_it_does_not_fit(
    big_model_dir: Path, opening: dict, free: float, lines: list[str]
) -> None:
    model = load_model(big_model_dir, **opening)
    assert memory_lines(model, Work(CAPTIONING), int(free * 1e9)) == lines


def test_boxes_that_wait_are_reported_on_a_gpu_only(big_model_dir: Path) -> None:
    model = load_model(big_model_dir, dtype=torch.bfloat16, offload=True)
    (line,) = memory_lines(model, Work(), 10**12)
    assert "one at a time" not in line  # on a CPU there is nowhere else to wait
    model.device = torch.device("cuda")
    (line,) = memory_lines(model, Work(), 10**12)
    assert "(one at a time of encoder 0.0, text tower 0.0, U-Net and VAE 0.0, language" in line
    model.offload = False
    _, ways = memory_lines(model, Work(), 1)
    assert "--offload (3.0 GB)" in ways


@pytest.mark.parametrize("tied", [True, False])
def test_a_packed_head_that_shares_its_weight_counts_twice(
    big_model_dir: Path, monkeypatch: pytest.MonkeyPatch, tied: bool
) -> None:
    """Where an engine writes captions in bfloat16 on a CPU that gains from it."""
    file = big_model_dir / "caption_decoder/language_model/config.json"
    sizes = {"vocab_size": 200_000, "hidden_size": 1000, "tie_word_embeddings": tied}
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | sizes), "utf-8")

    def said(searches: bool, dtype: torch.dtype = torch.bfloat16) -> str:
        work = Work(CAPTIONING, 1, 1, 1, searches=searches)
        model = load_model(big_model_dir, dtype=dtype, device=torch.device("cpu"))
        return memory_lines(model, work, 10**12)[0]

    for cpu, head in ((True, 0.4 if tied else 0.0), (False, 0.0)):
        monkeypatch.setattr(precision, "computes_bfloat16", lambda device, cpu=cpu: cpu)
        monkeypatch.setattr(precision.platform, "machine", lambda: "x86_64")
        assert "language model 3.0," in said(searches=True)
        assert f"language model {3 + head:.1f}," in said(searches=False)
        assert "language model 6.0," in said(searches=False, dtype=torch.float32)


def test_what_is_not_loaded_does_not_count(
    big_model_dir: Path, tiny_model_dir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert memory_lines(load_model(big_model_dir), Work(DRAWING), 0) == []
    open_model(tiny_model_dir)
    open_model("vlv-mini")
    assert capfd.readouterr() == ("", "")


def test_the_page_on_captions_shows_the_lines_of_the_paper_s_model(tmp_path: Path) -> None:
    model = skeleton()
    write_settings(model, tmp_path, dict.fromkeys(PARTS, torch.bfloat16))
    for place, tensors in stored_tensors(model).items():
        write_sparse(tmp_path / PARTS[place].path, {k: tuple(v.shape) for k, v in tensors.items()})
    write_manifest(model.manifest, tmp_path)
    page = (Path(__file__).parents[2] / "docs" / "captioning.md").read_text("utf-8")
    for line in memory_lines(load_model(tmp_path), Work(CAPTIONING), 16_200_000_000):
        assert f"\nvlv: {line}\n" in page


def test_a_full_size_model_is_opened_in_bfloat16_where_the_device_computes_in_it(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "computes_bfloat16", lambda device: True)
    assert open_model(tiny_model_dir, device="cpu").dtype == torch.float32
    monkeypatch.setattr(loading, "_FULL_SIZE", 1000)
    monkeypatch.setattr(loading, "computes_bfloat16", lambda device: False)
    assert open_model(tiny_model_dir, device="cpu").dtype == torch.float32
    monkeypatch.setattr(loading, "computes_bfloat16", lambda device: True)
    model = open_model(tiny_model_dir, device="cpu")
    assert model.encode(plain("red")).dtype == torch.bfloat16
    assert open_model(tiny_model_dir, device="cpu", dtype="float32").dtype == torch.float32
