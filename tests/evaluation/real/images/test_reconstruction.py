"""`vlv eval reconstruction`: photographs through the caption embeddings of a tiny model."""

import json
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio
from tests import launcher
from tests.evaluation.real.photographs import CAPTIONS

from vlv.data.images import load_image
from vlv.evaluation.real.images.drawing import picture_file, seed_of
from vlv.evaluation.real.images.likeness import OTHER_IMAGE
from vlv.evaluation.real.images.reconstruction import DIFFERENCES, SCORES
from vlv.evaluation.results import read_result
from vlv.models.preprocessing import decoder_pixels
from vlv.pipeline import VLV

Run = Callable[..., Any]
LOOKS = ("--dino", "none", "--lpips", "none")


def reconstructions(out: Path) -> dict[str, bytes]:
    found = sorted((out / "reconstructions").rglob("*.png"))
    return {str(file.relative_to(out)): file.read_bytes() for file in found}


def test_models_and_scales_over_seeds(
    vlv: Run, coco: Path, tiny_model_dir: Path, clip_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = ("eval", "reconstruction", coco, "--model", f"a={tiny_model_dir}", "--out", out)
    command += ("--model", f"b={tiny_model_dir}", "--num-inference-steps", 2, "--batch-size", 1)
    command += ("--guidance-scale", 1, "--guidance-scale", 3, "--seed", 0, "--seed", 7)
    command += ("--features", clip_dir, "--dino", clip_dir, "--lpips", "none", "--resamples", 5)
    command += ("--limit", 3)
    ran = vlv(*command)
    assert ran.code == 0, ran.err
    result = read_result(out / "reconstruction.json")
    row = result.row(part=SCORES, model="a", guidance=3.0)
    assert set(row.figures) == {"fd", "kd", "dino", "psnr", "ssim"} and row.count == 3
    assert row.figures == result.row(part=SCORES, model="b", guidance=3.0).figures
    difference = result.row(part=DIFFERENCES, model="b", guidance=1.0).figures
    assert difference["fd"].value == 0 and difference["psnr"].high == 0
    assert result.row(model=OTHER_IMAGE).figures["psnr"].value > 0
    # A picture is what the model draws from its image, and its seed is the image's.
    model = VLV.from_pretrained(tiny_model_dir)
    ratios = []
    for name in list(CAPTIONS)[:3]:
        image = load_image(coco / f"{name}.png")
        for seed in (0, 7):
            file = picture_file(out / "reconstructions", "a", 3.0, f"{name}.png", seed)
            (expected,) = model.reconstruct(
                image,
                seeds=[seed_of(f"{name}.png", seed)],
                guidance_scale=3.0,
                num_inference_steps=2,
                scheduler="ddim",
            ).images
            drawn = np.asarray(load_image(file))
            assert np.array_equal(drawn, np.asarray(expected))
            ratios.append(peak_signal_noise_ratio(decoder_pixels(image, 32), drawn))
    assert row.figures["psnr"].value == pytest.approx(np.mean(ratios), rel=1e-5)
    assert (out / "reconstruction.html").read_text().count("<figure>") == 3 * 3 * 3
    before = {file: file.stat().st_mtime_ns for file in out.rglob("*.png")}
    assert vlv(*command).code == 0
    assert {file: file.stat().st_mtime_ns for file in before} == before


@pytest.mark.slow
def test_a_killed_run_goes_on(vlv: Run, coco: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    command: list[object] = ["eval", "reconstruction", coco, "--model", tiny_model_dir]
    command += [*LOOKS, "--features", "none", "--num-inference-steps", 40, "--batch-size", 1]
    command += ["--limit", 4, "--json", "--out"]
    killed = tmp_path / "killed"
    process = launcher.Popen([sys.executable, "-m", "vlv.cli", *map(str, [*command, killed])])
    deadline = time.monotonic() + 120
    while len(reconstructions(killed)) < 2:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = reconstructions(killed)
    assert len(before) < 4
    resumed, whole = vlv(*command, killed), vlv(*command, tmp_path / "whole")
    assert resumed.code == whole.code == 0
    assert not list(killed.rglob(".*.tmp"))
    assert reconstructions(killed) == reconstructions(tmp_path / "whole")
    assert json.loads(resumed.out)["rows"] == json.loads(whole.out)["rows"]


def test_an_image_that_changed_is_drawn_again(
    vlv: Run, coco: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = ("eval", "reconstruction", coco, "--model", f"a={tiny_model_dir}", "--out", out)
    command += (*LOOKS, "--features", "none", "--num-inference-steps", 1)
    (coco / "coffee.png").write_bytes(b"")
    assert vlv(*command).code == 1
    assert len(reconstructions(out)) == 5
    before = reconstructions(out)
    load_image(coco / "horse.png").transpose(0).save(coco / "coffee.png")
    load_image(coco / "chelsea.png").transpose(0).save(coco / "rocket.png")
    assert vlv(*command).code == 0
    after = reconstructions(out)
    changed = {name.rpartition("/")[2] for name in after if after[name] != before.get(name)}
    assert changed == {"coffee.png.png", "rocket.png.png"}


def test_wrong_use_is_one_sentence(
    vlv: Run, coco: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    base = ("eval", "reconstruction", coco, *LOOKS, "--features", "none", "--out", tmp_path / "out")
    wrong: list[tuple[tuple[object, ...], int, str]] = [
        ((), 2, "--model NAME=MODEL"),
        (("--model", tmp_path / "nothing"), 3, "no file or folder"),
        (("--model", "vlv-mini-stage1"), 3, "has no text_tower"),
        (("--model", tiny_model_dir, "--model", tiny_model_dir), 2, "two models are called"),
        (("--model", tiny_model_dir, "--scheduler", "none"), 2, "scheduler"),
    ]
    for options, code, message in wrong:
        ran = vlv(*base, *options)
        assert (ran.code, message in ran.err) == (code, True), (options, ran.err)
        assert ran.err.strip().count("\n") == 0, ran.err
