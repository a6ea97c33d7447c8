"""`vlv bulk` beside captions in other fields and files than those that it writes."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from tests.inference.bulk.jobs import FAST, numbers

from vlv.data.sets import read_set


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "set"
    made.mkdir()
    for number, name in enumerate("ab"):
        Image.new("RGB", (64, 64), (number * 90, 90, 90)).save(made / f"{name}.png")
    return made


def read(folder: Path) -> dict[str, str | None]:
    return {sample.key: sample.caption for sample in read_set(folder)}


def test_a_caption_field_of_metadata_is_kept(vlv: Callable, folder: Path) -> None:
    entry = {"file_name": "a.png", "caption": "mine", "label": 3}
    (folder / "metadata.jsonl").write_text(json.dumps(entry))
    job = ("bulk", folder, folder, *FAST, "--output-format", "jsonl")
    assert vlv(*job).code == 2
    for _ in range(2):
        assert vlv(*job, "--overwrite").code == 0
        assert json.loads((folder / "metadata.jsonl").read_text().splitlines()[0]) == entry
        found = read(folder)
        assert found["a"] == "mine" and found["b"]
    shutil.rmtree(folder / ".vlv-bulk")
    assert vlv(*job, "--overwrite-edited").code == 0
    assert read(folder)["a"] != "mine"


@pytest.mark.parametrize("place", [".", "train"])
def test_captions_in_metadata_that_would_be_hidden_are_refused(
    vlv: Callable, folder: Path, place: str
) -> None:
    (folder / place).mkdir(exist_ok=True)
    if place != ".":
        (folder / "a.png").rename(folder / place / "a.png")
    table = folder / place / "metadata.csv"
    table.write_text("file_name,caption\na.png,mine\n")
    before = read(folder)
    job = ("bulk", folder, folder, *FAST, "--output-format", "jsonl")
    ran = vlv(*job)
    assert ran.code == 2 and not (folder / ".vlv-bulk").exists()
    assert ran.err == (
        f"vlv: the captions in {table} would not be read beside {folder / 'metadata.jsonl'}; name "
        "another folder for the results, or --overwrite writes it all the same\n"
    )
    assert read(folder) == before
    assert vlv(*job, "--overwrite").code == 0
    # The same command goes on with its own file.
    assert vlv(*job).code == 0


def test_a_caption_file_of_kohya_is_kept(vlv: Callable, folder: Path) -> None:
    (folder / "a.caption").write_text("mine\n")
    job = ("bulk", folder, folder, *FAST, "--output-format", "txt", "--json")
    for _ in range(2):
        reported = numbers(vlv(*job).out)
        assert (reported["ok"], reported["kept"]) == (1, 1)
        assert not (folder / "a.txt").exists() and (folder / "b.txt").is_file()
        assert read(folder)["a"] == "mine"
    # Without it the image has no caption any more.
    (folder / "a.caption").unlink()
    assert numbers(vlv(*job).out)["ok"] == 2
    assert (folder / "a.txt").is_file()


def test_metadata_of_a_subfolder_without_captions_is_no_obstacle(
    vlv: Callable, folder: Path
) -> None:
    (folder / "train").mkdir()
    (folder / "a.png").rename(folder / "train" / "a.png")
    (folder / "train" / "metadata.jsonl").write_text('{"file_name": "a.png", "label": 3}\n')
    assert vlv("bulk", folder, folder, *FAST, "--output-format", "jsonl").code == 0
    assert read(folder)["train/a"]
