"""`vlv finetune` on a tiny model: what it learns, what it writes, and what opens that."""

import json
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest
import torch
from PIL import Image
from tests.checkpoints.authors_layout import authors_state, base_parts
from tests.launcher import Popen
from tests.tiny import plain
from tests.training.finetuning.conftest import NEW, QUICK

from vlv.checkpoints.boxes import load_caption_decoder
from vlv.checkpoints.skeleton import skeleton
from vlv.evaluation.results import folder_hash
from vlv.pipeline import VLV
from vlv.training.finetuning.config import FinetuneSettings, Shape
from vlv.training.finetuning.memory import finetune_memory
from vlv.training.finetuning.run import finetune

GIB = 2**30
ADAPTER = ("adapter_model.safetensors", "psi.safetensors")


def captions(model: Path, **options: Any) -> dict[str, str]:
    """Greedy captions of the plain pictures."""
    pictures = [plain(color) for color in NEW]
    made = VLV.from_pretrained(model, device="cpu", **options).caption(pictures, num_beams=1)
    return dict(zip(NEW, made, strict=True))


def adapter_bytes(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in ADAPTER]


def test_a_fine_tune_learns_is_opened_and_leaves_its_base_alone(
    vlv: Callable[..., Any], tiny_model_dir: Path, photos: Path, tmp_path: Path
) -> None:
    before, out = folder_hash(tiny_model_dir), tmp_path / "mine"
    made = vlv("finetune", tiny_model_dir, photos, "--out", out, *QUICK)
    assert made.code == 0
    assert made.out.strip() == str(out)
    assert "12 pictures with captions: 12 to train on, 0 held out" in made.err
    assert "a LoRA of rank 16 and psi" in made.err
    assert " of memory (" in made.err
    assert captions(out) == NEW
    assert captions(tiny_model_dir) != NEW
    assert folder_hash(tiny_model_dir) == before
    assert sorted(path.name for path in out.iterdir() if path.is_file()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "psi.safetensors",
        "vlv.json",
    ]
    # Others may read the weights where they may read the rest.
    assert len({path.stat().st_mode for path in out.iterdir() if path.is_file()}) == 1
    assert [path.name for path in (out / "run").glob("checkpoint-*")] == []
    card = (out / "README.md").read_text()
    assert f"vlv finetune {tiny_model_dir} {photos}" in card
    assert f"It knows what `{tiny_model_dir.name}` knows, and the " in card
    # Every command opens it; its base has a decoder, so it draws too.
    shown = vlv("caption", "--model", out, photos / "00.png")
    assert (shown.code, shown.out.strip()) == (0, NEW["red"])
    drawn = VLV.from_pretrained(out).reconstruct(plain("red"), seeds=[0], num_inference_steps=2)
    assert drawn.images[0].size == (32, 32)


def test_a_fine_tune_runs_in_one_process(
    vlv: Callable[..., Any],
    tiny_model_dir: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each of several would count a batch of its own, and write the same files."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    made = vlv("finetune", tiny_model_dir, photos, "--out", tmp_path / "mine", *QUICK)
    assert made.code == 2
    assert "a fine-tune runs in one process; start it without a launcher" in made.err
    assert not (tmp_path / "mine").exists()


def test_a_merged_fine_tune_is_an_ordinary_model_of_equal_captions(
    vlv: Callable[..., Any], tuned: Path, tiny_model_dir: Path, photos: Path, tmp_path: Path
) -> None:
    generation = tiny_model_dir / "generation_config.json"
    generation.write_text('{"num_beams": 2}')
    merged = vlv("finetune", "--merge", tuned, "--out", tmp_path / "merged")
    assert merged.code == 0, merged.err
    generation.unlink()  # the model is shared
    assert (tmp_path / "merged" / generation.name).read_text() == '{"num_beams": 2}'
    shutil.move(tuned, tmp_path / "elsewhere")
    assert captions(tmp_path / "merged") == captions(tmp_path / "elsewhere") == NEW
    one, other = (VLV.from_pretrained(tmp_path / name) for name in ("merged", "elsewhere"))
    for name, weight in one.caption_decoder.state_dict().items():
        assert torch.equal(weight, other.caption_decoder.state_dict()[name]), name
    assert one.manifest.adapter is None
    # A model that is there is replaced where that is asked for only.
    (tmp_path / "merged" / "notes.txt").write_text("mine")
    again = vlv("finetune", "--merge", tmp_path / "elsewhere", "--out", tmp_path / "merged")
    assert (again.code, "merged exists already" in again.err) == (2, True)
    assert (tmp_path / "merged" / "notes.txt").read_text() == "mine"
    again = vlv(
        *("finetune", "--merge", tmp_path / "elsewhere", "--out", tmp_path / "merged"),
        "--overwrite",
    )
    assert again.code == 0, again.err
    assert captions(tmp_path / "merged") == NEW
    trained = vlv("finetune", tiny_model_dir, photos, "--out", tmp_path / "x", "--overwrite")
    assert (trained.code, "--overwrite is of --merge" in trained.err) == (2, True)
    refused = vlv("finetune", "--merge", tiny_model_dir, "--out", tmp_path / "x")
    assert (refused.code, "is no folder of a fine-tune" in refused.err) == (2, True)


def test_peft_reads_the_adapter_and_computes_the_same(tuned: Path, tiny_model_dir: Path) -> None:
    from peft import PeftModel

    lm = load_caption_decoder(tiny_model_dir / "caption_decoder").lm
    ids = torch.arange(8)[None]
    plain_logits = lm(input_ids=ids).logits
    by_peft = PeftModel.from_pretrained(lm, tuned)(input_ids=ids).logits
    by_us = VLV.from_pretrained(tuned).caption_decoder.lm(input_ids=ids).logits
    assert torch.allclose(by_peft, by_us, atol=1e-4)
    assert not torch.allclose(plain_logits, by_us, atol=1e-2)


def test_kept_conditionings_change_nothing(
    vlv: Callable[..., Any], tiny_model_dir: Path, photos: Path, tmp_path: Path
) -> None:
    quick = ("--epochs", "2", "--validation", "2")
    for name, flag in (("kept", "--cache"), ("computed", "--no-cache")):
        made = vlv("finetune", tiny_model_dir, photos, "--out", tmp_path / name, flag, *quick)
        assert made.code == 0, made.err
    assert adapter_bytes(tmp_path / "kept") == adapter_bytes(tmp_path / "computed")


@pytest.mark.slow
def test_a_killed_run_ends_as_one_that_was_not(
    vlv: Callable[..., Any], tiny_model_dir: Path, photos: Path, tmp_path: Path
) -> None:
    command = [*map(str, ("finetune", tiny_model_dir, photos)), "--epochs", "60", "--out"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert vlv(*command, whole).code == 0
    kill_at_checkpoint([*command, str(killed)], killed, signal.SIGKILL)
    again = vlv(*command, killed)
    assert again.code == 0
    assert "goes on from step" in again.err
    assert adapter_bytes(killed) == adapter_bytes(whole)
    done = vlv(*command, killed)
    assert (done.code, "is finished already" in done.err) == (0, True)


@pytest.mark.parametrize(
    "sent", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_signals_write_a_checkpoint(
    tiny_model_dir: Path, photos: Path, tmp_path: Path, sent: int
) -> None:
    out = tmp_path / "mine"
    command = [*map(str, ("finetune", tiny_model_dir, photos, "--out", out))]
    # There is a checkpoint after a tenth of the epochs.
    assert kill_at_checkpoint([*command, "--epochs", "400"], out, sent) == 143
    assert [path.name for path in (out / "run").glob("checkpoint-*")]


def kill_at_checkpoint(command: list[str], out: Path, sent: int) -> int:
    """Start `vlv`, and send a signal as soon as there is a checkpoint; returns the exit code."""
    program = "from vlv.cli.app import main; main()"
    process = Popen([sys.executable, "-c", program, *command], stdout=PIPE, stderr=PIPE, text=True)
    end = time.monotonic() + 300
    while not list((out / "run").glob("checkpoint-*/manifest.json")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)
    process.send_signal(sent)
    process.communicate(timeout=300)
    return int(process.returncode)


@pytest.mark.parametrize("bits", [pytest.param("8bit", marks=pytest.mark.slow), "4bit"])
def test_a_quantized_language_model_trains_on_the_cpu(
    vlv: Callable[..., Any], tiny_model_dir: Path, photos: Path, tmp_path: Path, bits: str
) -> None:
    out = tmp_path / "mine"
    made = vlv(
        *("finetune", tiny_model_dir, photos, "--out", out, "--quantization", bits, *QUICK),
        *("--device", "cpu"),
    )
    assert made.code == 0, made.err
    # On CPUs, bitsandbytes' product of 4 bits needs larger widths than a tiny model's.
    assert captions(out, quantization=None if bits == "4bit" else bits) == NEW


def test_the_caption_decoder_trains_in_full(
    vlv: Callable[..., Any], tiny_model_dir: Path, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "mine"
    assert vlv("finetune", tiny_model_dir, photos, "--full", "--out", out, *QUICK).code == 0
    assert captions(out) == NEW
    assert (out / "caption_decoder" / "language_model" / "model.safetensors").is_file()
    refused = vlv(
        *("finetune", tiny_model_dir, photos, "--out", tmp_path / "x"),
        *("--full", "--quantization", "4bit"),
    )
    assert (refused.code, "cannot be trained in full" in refused.err) == (2, True)


@pytest.mark.slow
def test_the_encoder_sees_what_the_fine_tune_was_given(
    vlv: Callable[..., Any], tiny_model_dir: Path, photos: Path, tmp_path: Path
) -> None:
    """A picture that is red in the middle alone is a red one only for an encoder that crops."""
    wide = Image.new("RGB", (96, 32), "blue")
    wide.paste("red", (32, 0, 64, 32))
    for view, middle in (("crop", True), ("whole", False)):
        out = tmp_path / view
        made = vlv("finetune", tiny_model_dir, photos, "--out", out, "--view", view, *QUICK)
        assert made.code == 0, made.err
        model = VLV.from_pretrained(out)
        assert torch.equal(model.encode(wide), model.encode(plain("red"))) == middle
        assert json.loads((out / "vlv.json").read_text())["adapter"]["crop_size"] == (
            32 if view == "crop" else None
        )


def test_the_authors_captioner_is_fine_tuned_without_vae_and_unet(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vlv.checkpoints import diffusion

    def refuse(*_: object) -> None:
        raise AssertionError("the diffusion decoder was opened")

    monkeypatch.setattr(diffusion, "load_diffusion_decoder", refuse)
    monkeypatch.setenv("VLV_CACHE", str(tmp_path / "cache"))
    torch.save(authors_state(1, 2), tmp_path / "model.pt")
    parts = base_parts(tmp_path / "parts")
    roles = ("encoder", "decoder", "language_model")
    settings = FinetuneSettings(
        model=str(tmp_path / "model.pt"),
        images=photos,
        out=tmp_path / "mine",
        base_models={role: str(part) for role, part in zip(roles, parts, strict=True)},
        epochs=1,
    )
    said: list[str] = []
    made = finetune(settings, said.append, lambda items, *_: items)
    assert made.folder == tmp_path / "mine"
    assert isinstance(VLV.from_pretrained(made.folder).caption(plain("red"))[0], str)


def test_qlora_of_the_papers_captioner_fits_a_card_of_24_gb() -> None:
    paper = skeleton(language_model="Qwen/Qwen2.5-3B")
    need = finetune_memory(paper, Shape(16, "4bit", True, True, 300, 8))
    assert 4 * GIB < need.total < 23 * GIB
    assert need.training.frozen < 2.5 * GIB
    assert 20e6 < need.trainable < 50e6


@pytest.mark.parametrize(
    ("command", "fields"),
    [
        ("data preferences", {"start": "tuned", "pairs": 0, "images": 1, "levels": []}),
        ("train stage2", {"stage1": "base", "caption_decoder": "tuned"}),
        ("train stage2", {"stage1": "base", "language_model": "tuned"}),
    ],
)
def test_a_fine_tune_is_merged_before_it_is_trained_further(
    vlv: Callable[..., Any],
    tuned: Path,
    tiny_model_dir: Path,
    tmp_path: Path,
    command: str,
    fields: dict[str, Any],
) -> None:
    """The folder of its base, which lacks what it learned, is not taken in its place."""
    folders = {"tuned": str(tuned), "base": str(tiny_model_dir)}
    fields = {
        name: folders.get(value, value) if isinstance(value, str) else value
        for name, value in fields.items()
    }
    if command.startswith("train"):
        fields |= {"max_train_steps": 1, "train_batch_size": 1, "learning_rate": 0.1}
    world = {"folder": str(tmp_path / "world"), "count": 4}
    config = tmp_path / "run.json"
    config.write_text(json.dumps({"output_dir": str(tmp_path / "run"), "data": world, **fields}))
    made = vlv(*command.split(), "--config", config)
    assert (made.code, len(made.err.splitlines())) == (3, 1), made.err
    assert f"{tuned} is a fine-tune" in made.err and "merge it first" in made.err
