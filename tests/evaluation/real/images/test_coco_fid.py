"""`vlv eval coco-fid`: photographs, tiny random pipelines, and processes that are killed."""

import json
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests import launcher

from vlv.data.images import load_image
from vlv.evaluation.metrics.frechet import fid
from vlv.evaluation.metrics.image_networks import TransformersNetwork
from vlv.evaluation.real.images.coco_fid import DIFFERENCES, SCORES
from vlv.evaluation.real.images.drawing import held
from vlv.evaluation.results import read_result

Run = Callable[..., Any]
QUICK = ("--num-inference-steps", 1, "--guidance-scale", 2)


def pictures(out: Path) -> dict[str, bytes]:
    """The drawn pictures, by their places."""
    found = sorted((out / "pictures").rglob("*.png"))
    return {str(file.relative_to(out)): file.read_bytes() for file in found}


def times(out: Path) -> dict[Path, int]:
    return {file: file.stat().st_mtime_ns for file in out.rglob("*") if file.is_file()}


def test_a_row_for_each_captioner_and_scale(
    vlv: Run, coco: Path, captions: Path, sd3_dir: Path, clip_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = ("eval", "coco-fid", coco, "--captions", f"ours={captions}", "--out", out)
    command += ("--pipeline", sd3_dir, "--features", clip_dir, "--num-inference-steps", 2)
    command += ("--guidance-scale", 1, "--guidance-scale", 2, "--resamples", 20)
    ran = vlv(*command)
    assert ran.code == 0, ran.err
    result = read_result(out / "coco-fid.json")
    cells = [(row.labels["captions"], row.labels["guidance"]) for row in result.rows[:4]]
    assert cells == [(who, scale) for who in ("human captions", "ours") for scale in (1.0, 2.0)]
    assert len(pictures(out)) == 24
    # The distance is the library's, of the features of these very pictures.
    network = TransformersNetwork(str(clip_dir), clip_dir, "cpu")
    originals = [load_image(coco / f"{name}.png") for name in names(coco)]
    drawn = [
        load_image(out / "pictures" / "ours" / "guidance-2" / f"{name}.png.png")
        for name in names(coco)
    ]
    expected = fid(*(network.features(some).astype(float) for some in (originals, drawn)))
    row = result.row(part=SCORES, captions="ours", guidance=2.0)
    assert row.figures["fd"].value == pytest.approx(expected, abs=1e-3)
    assert row.figures["fd"].low < expected < row.figures["fd"].high and row.count == 6
    difference = result.row(part=DIFFERENCES, captions="ours", guidance=2.0).figures["fd"]
    human = result.row(part=SCORES, captions="human captions", guidance=2.0).figures["fd"]
    assert difference.value == pytest.approx(expected - human.value)
    assert any("6 images are not more than the 16 features" in note for note in result.notes)
    assert result.provenance["drawing"]["class"] == "StableDiffusion3Pipeline"
    page = (out / "coco-fid.html").read_text()
    assert "Nearest to the original" in page and "A tabby cat looks" in page
    assert page.count("data:image/jpeg") == 3 * 6 * 3  # three sections; an original and two
    before = times(out / "pictures") | times(out / "features")
    assert vlv(*command).code == 0
    assert times(out / "pictures") | times(out / "features") == before


def names(coco: Path) -> list[str]:
    data = json.loads((coco.parent / "captions_val2014.json").read_text())
    return [Path(one["file_name"]).stem for one in data["images"]]


def test_what_is_stale_or_half_a_picture_is_drawn_again(
    vlv: Run, coco: Path, captions: Path, sd2_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = (
        "eval",
        "coco-fid",
        coco,
        "--captions",
        f"ours={captions}",
        "--no-human",
        "--out",
        out,
    )
    command += ("--pipeline", sd2_dir, "--features", "none", *QUICK)
    ran = vlv(*command)
    assert ran.code == 0 and "all pictures are drawn" in ran.out
    whole = pictures(out)
    folder = out / "pictures" / "ours" / "guidance-2"
    half, gone, other = (folder / f"{name}.png.png" for name in ("coffee", "horse", "rocket"))
    half.write_bytes(half.read_bytes()[:-20])
    gone.unlink()
    Image.new("RGB", (32, 32)).save(other)  # of another program
    assert held(half) is None and held(other) is None
    kept = (folder / "camera.png.png").stat().st_mtime_ns
    assert vlv(*command).code == 0 and pictures(out) == whole
    assert (folder / "camera.png.png").stat().st_mtime_ns == kept
    captions.write_text(captions.read_text().replace("of a chelsea", "of a tabby cat"))
    assert vlv(*command).code == 0
    changed = {name for name, data in pictures(out).items() if data != whole[name]}
    assert changed == {"pictures/ours/guidance-2/chelsea.png.png"}
    said = held(folder / "chelsea.png.png")
    assert said is not None and said.source == "A photograph of a tabby cat." and not said.cut


def test_processes_share_the_pictures(
    vlv: Run, coco: Path, sd2_dir: Path, clip_dir: Path, tmp_path: Path
) -> None:
    command = ("eval", "coco-fid", coco, "--pipeline", sd2_dir, "--features", clip_dir, *QUICK)
    command += ("--batch-size", 1)  # others round otherwise
    assert vlv(*command, "--out", tmp_path / "one").code == 0
    share = (*command, "--out", tmp_path / "two")
    first = vlv(*share, "--shard", "1/2", "--json")
    assert first.code == 0 and json.loads(first.out) == {"left": 3}
    second = vlv(*share, "--shard", "2/2", "--json")
    assert second.code == 0
    rows = json.loads(second.out)["rows"]
    assert pictures(tmp_path / "two") == pictures(tmp_path / "one")
    assert rows == json.loads((tmp_path / "one" / "coco-fid.json").read_text())["rows"]
    wrong = vlv(*share, "--shard", "3/2")
    assert wrong.code == 2 and "1/4 for the first of four" in wrong.err


@pytest.mark.slow
def test_a_killed_run_goes_on(vlv: Run, coco: Path, sd2_dir: Path, tmp_path: Path) -> None:
    command: list[object] = ["eval", "coco-fid", coco, "--pipeline", sd2_dir, "--features", "none"]
    command += ["--num-inference-steps", 40, "--guidance-scale", 2, "--batch-size", 1]
    command += ["--limit", 4, "--out"]
    killed = tmp_path / "killed"
    process = launcher.Popen([sys.executable, "-m", "vlv.cli", *map(str, [*command, killed])])
    deadline = time.monotonic() + 120
    while len(pictures(killed)) < 2:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = times(killed / "pictures")
    drawn = [file for file in before if file.suffix == ".png"]
    assert 2 <= len(drawn) < 4
    assert vlv(*command, killed).code == 0
    assert all(file.stat().st_mtime_ns == before[file] for file in drawn)
    assert not list(killed.rglob(".*.tmp"))
    assert vlv(*command, tmp_path / "whole").code == 0
    assert pictures(killed) == pictures(tmp_path / "whole") and len(pictures(killed)) == 4


def test_images_that_fail_are_left_out_of_every_row(
    vlv: Run, coco: Path, captions: Path, sd2_dir: Path, clip_dir: Path, tmp_path: Path
) -> None:
    lines = captions.read_text().splitlines()
    captions.write_text("\n".join(line for line in lines if "coffee" not in line))
    (coco / "horse.png").write_bytes(b"no image")
    (coco / "rocket.png").unlink()
    command = ("eval", "coco-fid", coco, "--captions", captions, "--out", tmp_path / "out")
    ran = vlv(*command, "--pipeline", sd2_dir, "--features", clip_dir, *QUICK)
    assert ran.code == 1
    assert "coffee.png: there is no caption by ours" in ran.err
    assert "horse.png" in ran.err and "rocket.png" in ran.err
    result = read_result(tmp_path / "out" / "coco-fid.json")
    assert {row.count for row in result.rows} == {3}
    assert all(np.isfinite(row.figures["fd"].value) for row in result.rows)


def test_captions_that_the_text_encoders_cut_are_counted(
    vlv: Run,
    coco: Path,
    captions: Path,
    sd2_dir: Path,
    sd3_dir: Path,
    clip_dir: Path,
    tmp_path: Path,
) -> None:
    long = "a red cube and " * 40
    captions.write_text(captions.read_text().replace("of a chelsea", long))
    shares = []
    for name, pipeline in (("two", sd2_dir), ("three", sd3_dir)):
        command = ("eval", "coco-fid", coco, "--captions", captions, "--no-human", *QUICK)
        out = tmp_path / name
        assert vlv(*command, "--pipeline", pipeline, "--features", clip_dir, "--out", out).code == 0
        row = read_result(out / "coco-fid.json").row(captions="ours")
        shares.append(row.figures["unfit"].value)
    assert shares == [pytest.approx(1 / 6), 0]  # T5 reads 256 tokens


def test_wrong_use_is_one_sentence(
    vlv: Run, coco: Path, captions: Path, sd2_dir: Path, clip_dir: Path, tmp_path: Path
) -> None:
    base = ("eval", "coco-fid", coco, "--features", "none", "--out", tmp_path / "out", *QUICK)
    other = tmp_path / "other.jsonl"
    other.write_text('{"file_name": "elsewhere.png", "text": "Something."}\n')
    code = tmp_path / "code"
    code.mkdir()
    (code / "model_index.json").write_text('{"_class_name": ["pipeline", "Mine"]}')
    wrong: list[tuple[tuple[object, ...], int, str]] = [
        (("--pipeline", "nobody/no-such-pipeline"), 3, "cannot be opened"),
        (("--pipeline", clip_dir), 3, "no pipeline of diffusers"),
        (("--pipeline", code), 3, "own code, which is not run"),
        (("--pipeline", sd2_dir, "--size", 20), 2, "divisible by 8"),
        (
            ("--pipeline", sd2_dir, "--guidance-scale", "inf"),
            2,
            "are 1 or more and finite, not 2.0, inf",
        ),
        (("--pipeline", "vlv-mini", "--size", 64), 2, "leave out --size"),
        (
            ("--pipeline", sd2_dir, "--captions", f"a={captions}", "--captions", f"a={other}"),
            2,
            "two",
        ),
        (("--pipeline", sd2_dir, "--captions", f"b={other}"), 1, "has a caption by each of"),
        (("--pipeline", sd2_dir, "--captions", tmp_path / "none.jsonl"), 1, "none.jsonl"),
        (("--pipeline", sd2_dir, "--dtype", "int8"), 2, "there is no dtype"),
        (("--pipeline", sd2_dir, "--features", "nobody/nothing"), 3, "nobody/nothing"),
    ]
    for options, exit_code, message in wrong:
        ran = vlv(*base, *options)
        assert (ran.code, message in ran.err) == (exit_code, True), (options, ran.err)
        assert ran.err.strip().count("\n") == 0, ran.err
    nothing = tmp_path / "plain"
    nothing.mkdir()
    Image.new("RGB", (8, 8)).save(nothing / "a.png")
    ran = vlv("eval", "coco-fid", nothing, *base[3:], "--pipeline", sd2_dir)
    assert ran.code == 2 and "--captions NAME=FILE" in ran.err


def test_a_folder_goes_on_with_the_same_drawing_only(
    vlv: Run, coco: Path, sd2_dir: Path, sd3_dir: Path, tmp_path: Path
) -> None:
    command = (
        "eval",
        "coco-fid",
        coco,
        "--features",
        "none",
        "--out",
        tmp_path / "out",
        "--limit",
        2,
    )
    assert vlv(*command, "--pipeline", sd2_dir, *QUICK).code == 0
    for change, what in (
        (("--pipeline", sd3_dir, *QUICK), "pipeline"),
        (
            ("--pipeline", sd2_dir, "--num-inference-steps", 3, "--guidance-scale", 2),
            "num_inference",
        ),
        (("--pipeline", sd2_dir, *QUICK, "--seed", 1, "--guidance-scale", 3), "seed"),
    ):
        ran = vlv(*command, *change)
        assert ran.code == 2 and f"another {what}" in ran.err, ran.err


def test_a_model_of_ours_draws_too(
    vlv: Run, coco: Path, tiny_model_dir: Path, clip_dir: Path, tmp_path: Path
) -> None:
    command = ("eval", "coco-fid", coco, "--pipeline", tiny_model_dir, "--out", tmp_path / "out")
    ran = vlv(*command, "--features", tiny_model_dir, *QUICK)
    assert ran.code == 0, ran.err
    result = read_result(tmp_path / "out" / "coco-fid.json")
    # Pictures by another version's sampler are not mixed with these.
    assert result.provenance["drawing"]["scheduler"] == "dpm++sde"
    row = result.row(captions="human captions")
    assert (
        row.figures["fd"].value > 0 and "FD" in ran.out and "FID" not in ran.out.split("FD and")[0]
    )
