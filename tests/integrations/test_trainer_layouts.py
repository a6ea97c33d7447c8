"""What `vlv caption` writes, read by the rules that trainers and TagGUI read captions by.

The rules were taken from their sources; benchmarks/trainer_readers.py runs those sources
(docs/integrations/index.md).
"""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.tiny import CAPTIONS, save_pictures, tiny_model_dir, use_tiny_model

__all__ = ["tiny_model_dir", "use_tiny_model"]

pytestmark = pytest.mark.usefixtures("use_tiny_model")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return save_pictures(tmp_path / "10_things")


def test_whole_file_readers_get_the_caption(vlv: Callable, pictures: Path) -> None:
    """ai-toolkit and musubi-tuner read the file as UTF-8; sd-scripts read its first line."""
    assert vlv("caption", pictures.parent, "-r", "--output-format", "txt").code == 0
    for color, caption in CAPTIONS.items():
        text = (pictures / f"{color}.txt").read_text(encoding="utf-8")
        assert text.strip() == caption and text.splitlines() == [caption]
        assert not (pictures / f"{color}.txt").read_bytes().startswith(b"\xef\xbb\xbf")


def test_line_readers_get_one_caption_a_line(vlv: Callable, pictures: Path) -> None:
    """OneTrainer, SimpleTuner, and sd-scripts with wildcards."""
    flags = ["--num-return-sequences", 3, "--temperature", 1.0, "--trigger", "ohwx"]
    assert vlv("caption", pictures, "--output-format", "txt", *flags).code == 0
    for color in CAPTIONS:
        lines = (pictures / f"{color}.txt").read_text(encoding="utf-8").splitlines()
        assert 1 <= len(lines) <= 3
        assert all(line == line.strip() and line.startswith("ohwx, ") for line in lines)


def test_sd_scripts_json_names_images_as_sd_scripts_find_them(
    vlv: Callable, pictures: Path
) -> None:
    out = pictures.parent / "meta.json"
    assert vlv("caption", pictures, "--output-format", "json", "--output", out).code == 0
    content = json.loads(out.read_text(encoding="utf-8"))
    assert {os.path.basename(name): one["caption"] for name, one in content.items()} == {
        f"{color}.png": caption for color, caption in CAPTIONS.items()
    }
    assert all(os.path.isabs(name) and os.path.isfile(name) for name in content)


@pytest.mark.parametrize("separator", [",", "\n"])
def test_taggui_reads_and_saves_a_caption_without_change(
    vlv: Callable, pictures: Path, separator: str
) -> None:
    """It splits at the separator, strips, and joins again when an image is saved."""
    command = ("caption", pictures, "--output-format", "txt", "--trigger", "ohwx")
    assert vlv(*command).code == 0
    joiner = ", " if separator == "," else separator
    for color, caption in CAPTIONS.items():
        file = pictures / f"{color}.txt"
        tags = [tag.strip() for tag in file.read_text(encoding="utf-8").split(separator)]
        file.write_text(joiner.join(tag for tag in tags if tag), encoding="utf-8")
        assert file.read_text() == f"ohwx, {caption}"
    # Saved there without a change, they are still vlv's own; a changed one is somebody's.
    (pictures / "red.txt").write_text("ohwx, mine", encoding="utf-8")
    ran = vlv(*command, "--overwrite")
    assert ran.out.startswith("2 captions written, 1 left as they are")
    assert (pictures / "red.txt").read_text() == "ohwx, mine"
