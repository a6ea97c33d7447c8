"""`vlv eval fidelity`: pictures that were drawn before, beside their originals."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.evaluation.real.photographs import CAPTIONS

from vlv.data.images import load_image
from vlv.evaluation.metrics.image_networks import TransformersNetwork, cosine
from vlv.evaluation.metrics.picture_pairs import LPIPS, pixels_of
from vlv.evaluation.real.images.drawing import picture_file
from vlv.evaluation.real.images.fidelity import DIFFERENCES, SCORES
from vlv.evaluation.real.images.likeness import OTHER_IMAGE
from vlv.evaluation.results import read_result
from vlv.models.preprocessing import square_crop

Run = Callable[..., Any]
QUICK = ("--num-inference-steps", 1, "--guidance-scale", 2)


@pytest.fixture
def drawn(vlv: Run, coco: Path, captions: Path, sd2_dir: Path, tmp_path: Path) -> list[object]:
    """The options with which pictures are drawn; those of `ours` show their originals, all but."""
    options: list[object] = [coco, "--captions", f"ours={captions}", "--pipeline", sd2_dir]
    options += [*QUICK, "--out", tmp_path / "out"]
    assert vlv("eval", "coco-fid", *options, "--features", "none").code == 0
    for name in CAPTIONS:
        file = picture_file(tmp_path / "out" / "pictures", "ours", 2.0, f"{name}.png")
        with Image.open(file) as picture:
            about = picture.info
        copy = load_image(coco / f"{name}.png").resize((32, 32))
        save_with(copy, file, about)
    return options


def save_with(picture: Image.Image, file: Path, about: dict[Any, Any]) -> None:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for key, value in about.items():
        if str(key).startswith("vlv-"):
            info.add_itxt(str(key), str(value))
    picture.save(file, pnginfo=info)


def test_a_picture_like_its_original_scores_higher(
    vlv: Run, drawn: list[object], clip_dir: Path, alexnet_weights: Path, coco: Path, tmp_path: Path
) -> None:
    looks = ("--dino", clip_dir, "--clip", clip_dir, "--lpips-weights", alexnet_weights)
    ran = vlv("eval", "fidelity", *drawn, *looks)
    assert ran.code == 0, ran.err
    out = tmp_path / "out"
    result = read_result(out / "fidelity.json")
    ours = result.row(part=SCORES, captions="ours").figures
    human = result.row(part=SCORES, captions="human captions").figures
    control = result.row(captions=OTHER_IMAGE)
    assert ours["dino"].value > human["dino"].value and ours["lpips"].value < human["lpips"].value
    assert ours["dino"] == ours["clip_image"] and control.count == 6
    difference = result.row(part=DIFFERENCES, captions="ours").figures["lpips"]
    assert difference.high < 0
    # Each figure is the mean over images of what the network says.
    network = TransformersNetwork(str(clip_dir), clip_dir, "cpu")
    originals = [load_image(coco / f"{name}.png") for name in CAPTIONS]
    folder = out / "pictures"
    copies = [load_image(picture_file(folder, "ours", 2.0, f"{name}.png")) for name in CAPTIONS]
    similar = cosine(network.features(originals), network.features(copies))
    assert ours["dino"].value == pytest.approx(similar.mean(), rel=1e-5)
    lpips = LPIPS("alex", "cpu", alexnet_weights)
    squares = [pixels_of([square_crop(one, 256) for one in some]) for some in (originals, copies)]
    assert ours["lpips"].value == pytest.approx(lpips.distances(*squares).mean(), rel=1e-4)
    page = (out / "fidelity.html").read_text()
    assert "Most alike by DINO similarity" in page and "Least alike" in page
    drawn_before = {file: file.stat().st_mtime_ns for file in folder.rglob("*.png")}
    assert vlv("eval", "fidelity", *drawn, *looks).code == 0
    assert {file: file.stat().st_mtime_ns for file in drawn_before} == drawn_before


def test_without_its_pipeline_what_is_drawn_is_measured(
    vlv: Run, drawn: list[object], sd2_dir: Path, clip_dir: Path, tmp_path: Path
) -> None:
    """Pictures from other machines: the pipeline is not opened."""
    moved = tmp_path / "moved"
    shutil.copytree(tmp_path / "out", moved)
    sidecar = moved / "pictures" / "drawing.json"
    known = json.loads(sidecar.read_text())
    sidecar.write_text(json.dumps(known | {"pipeline": "someone/elsewhere"}))
    options = [*drawn[:3], "--pipeline", "someone/elsewhere", *QUICK, "--out", moved]
    ran = vlv("eval", "fidelity", *options, "--dino", clip_dir, "--clip", "none", "--lpips", "none")
    assert ran.code == 0, ran.err
    row = read_result(moved / "fidelity.json").row(part=SCORES, captions="ours")
    assert set(row.figures) == {"dino"}


def test_a_spoiled_picture_is_named(
    vlv: Run, drawn: list[object], clip_dir: Path, tmp_path: Path
) -> None:
    file = picture_file(tmp_path / "out" / "pictures", "ours", 2.0, "horse.png")
    data = file.read_bytes()
    middle = data.index(b"IDAT") + 8
    file.write_bytes(data[:middle] + bytes(40) + data[middle + 40 :])
    looks = ("--dino", clip_dir, "--clip", "none", "--lpips", "none")
    ran = vlv("eval", "fidelity", *drawn, *looks)
    assert ran.code == 1 and "horse.png.png" in ran.err and "draws it again" in ran.err
    file.unlink()
    assert vlv("eval", "fidelity", *drawn, *looks).code == 0
    assert np.isfinite(
        read_result(tmp_path / "out" / "fidelity.json")
        .row(captions="ours", part=SCORES)
        .figures["dino"]
        .value
    )


def test_nothing_to_compare_by(vlv: Run, drawn: list[object], tmp_path: Path) -> None:
    nothing = ("--dino", "none", "--clip", "none", "--lpips", "none")
    ran = vlv("eval", "fidelity", *drawn, *nothing)
    assert ran.code == 2 and "--dino, --clip or --lpips" in ran.err
    one_sentence = vlv("eval", "fidelity", *drawn, *nothing[:4], "--lpips-weights", tmp_path / "no")
    assert one_sentence.code == 3 and one_sentence.err.count("\n") == 1
