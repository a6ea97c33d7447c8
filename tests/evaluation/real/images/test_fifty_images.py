"""All photographs that come with scikit-image, and rendered scenes up to fifty images, through
`vlv eval coco-fid`, `fidelity` and `reconstruction` with tiny models. Each is killed while it looks
at pictures, and before while it draws; fidelity looks at the pictures of coco-fid.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import skimage.data
from tests.evaluation.real.killed import finish, kill_when

from vlv.data.world_sets import world_samples

# scipy.datasets has none without a download.
PHOTOGRAPHS = {
    "astronaut.png": "A smiling woman in an orange space suit stands before a flag.",
    "brick.png": "A wall of bricks.",
    "camera.png": "A man looks through a camera on a tripod.",
    "cell.png": "A single cell under a microscope.",
    "chelsea.png": "A close view of the face of a tabby cat.",
    "clock_motion.png": "A clock, blurred by motion.",
    "coffee.png": "A cup of coffee stands on a saucer with a spoon.",
    "coins.png": "Rows of old coins on a dark ground.",
    "grass.png": "Short grass.",
    "gravel.png": "Gravel of many sizes.",
    "hubble_deep_field.jpg": "Many small galaxies on a black sky.",
    "ihc.png": "Stained tissue under a microscope, brown and blue.",
    "microaneurysms.png": "A part of a retina with small dark dots.",
    "moon.png": "The surface of the moon with a crater.",
    "motorcycle_left.png": "A motorcycle stands in a workshop.",
    "motorcycle_right.png": "A motorcycle stands in a workshop, seen from a little to the right.",
    "page.png": "A page of printed text, lit unevenly.",
    "retina.jpg": "The retina of an eye with its vessels.",
    "rocket.jpg": "A rocket stands on its launch pad at dusk.",
    "text.png": "Lines of printed text, photographed at an angle.",
}
COUNT = 50

State = dict[Path, int]


@pytest.fixture
def fifty(tmp_path: Path) -> Path:
    """The photographs as their files are, and scenes, with captions."""
    folder = tmp_path / "fifty"
    folder.mkdir()
    source = Path(skimage.data.__file__).parent
    for name in PHOTOGRAPHS:
        shutil.copy(source / name, folder / name)
    captions = dict(PHOTOGRAPHS)
    for sample in world_samples(COUNT - len(PHOTOGRAPHS)):
        name = f"scene-{sample.key}.png"
        (folder / name).write_bytes(sample.image)
        captions[name] = str(sample.caption)
    write_lines(folder / "metadata.jsonl", captions)
    write_lines(tmp_path / "names.jsonl", {name: f"A picture of {name}." for name in captions})
    return folder


def write_lines(file: Path, texts: dict[str, str]) -> None:
    lines = [json.dumps({"file_name": name, "text": text}) for name, text in texts.items()]
    file.write_text("\n".join(lines) + "\n")


def files(out: Path, pattern: str) -> State:
    return {file: file.stat().st_mtime_ns for file in out.rglob(pattern)}


@pytest.mark.slow
def test_fifty_images_with_kills_while_drawing_and_while_looking(
    fifty: Path,
    sd2_dir: Path,
    clip_dir: Path,
    tiny_model_dir: Path,
    alexnet_weights: Path,
    tmp_path: Path,
) -> None:
    drawn: tuple[object, ...] = ("--captions", tmp_path / "names.jsonl", "--pipeline", sd2_dir)
    # Batches of one: others round otherwise, and a run that goes on has other batches.
    once = ("--batch-size", 1, "--num-inference-steps", 2, "--guidance-scale", 2, "--json")
    looks = ("--dino", clip_dir, "--feature-batch-size", 1)
    lpips = ("--lpips-weights", alexnet_weights)
    commands: dict[str, tuple[tuple[object, ...], str]] = {
        "coco-fid": ((*drawn, "--features", clip_dir, "--feature-batch-size", 1), "pictures"),
        "fidelity": ((*drawn, *looks, *lpips, "--clip", "none"), "pictures"),
        "reconstruction": (
            ("--model", tiny_model_dir, *looks, *lpips, "--features", clip_dir),
            "reconstructions",
        ),
    }
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for name, (options, folder) in commands.items():
        words = ["eval", name, fifty, *options, *once, "--out"]
        expected = json.loads(finish([*words, whole]))
        counts = {row["count"] for row in expected["rows"]}
        assert counts == {COUNT}, name
        if not files(killed / folder, "*.png"):
            kill_when([*words, killed], lambda at=killed / folder: len(files(at, "*.png")) >= 5)  # type: ignore[misc]
            assert 5 <= len(files(killed / folder, "*.png")) < len(files(whole / folder, "*.png"))
        resumed = after_kill_while_looking([*words, killed], whole, killed, folder)
        assert resumed["rows"] == expected["rows"], name
        assert not list(killed.rglob(".*.tmp"))


def after_kill_while_looking(
    words: list[object], whole: Path, killed: Path, folder: str
) -> dict[str, Any]:
    """Kill when all pictures are drawn and some, not all, of the features are kept; go on."""
    pictures, parts = len(files(whole / folder, "*.png")), len(files(whole, "*.npy"))
    before = len(files(killed, "*.npy"))

    def looking() -> bool:
        return (
            len(files(killed / folder, "*.png")) == pictures
            and len(files(killed, "*.npy")) >= max(before, 1) + 1
        )

    kill_when(words, looking)
    kept = files(killed / folder, "*.png") | files(killed, "*.npy")
    assert len(files(killed, "*.npy")) < parts
    result: dict[str, Any] = json.loads(finish(words))
    assert kept.items() <= (files(killed / folder, "*.png") | files(killed, "*.npy")).items()
    assert len(files(killed, "*.npy")) == parts
    return result
