"""`vlv caption` where readers find captions in other fields and files than those that it writes."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.tiny import CAPTIONS

from vlv.data.sets import read_set

pytestmark = pytest.mark.usefixtures("use_tiny_model")


def read(folder: Path) -> dict[str, str | None]:
    return {sample.key: sample.caption for sample in read_set(folder)}


def lines(path: Path, entries: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(one) + "\n" for one in entries))


def test_a_caption_field_of_metadata_is_kept(vlv: Callable, pictures: Path) -> None:
    metadata = pictures / "metadata.jsonl"
    entry = {"file_name": "red.png", "caption": ["mine", "mine too"], "label": 3}
    lines(metadata, [entry, {"file_name": "blue.png", "text": "", "caption": " "}])
    job = ("caption", pictures, "--output-format", "jsonl")
    assert vlv(*job).out.startswith("2 captions written, 1 left as they are")
    assert json.loads(metadata.read_text().splitlines()[0]) == entry
    assert read(pictures) == {**CAPTIONS, "red": "mine"}
    ran = vlv(*job, "--overwrite")
    assert ran.out.startswith("2 captions written, 1 left") and "red.png" in ran.err
    assert read(pictures)["red"] == "mine"
    assert vlv(*job, "--overwrite-edited").out == "3 captions written, 0 failed\n"
    assert read(pictures) == CAPTIONS
    # What replaced it is the program's own.
    assert vlv(*job, "--overwrite").out == "3 captions written, 0 failed\n"


def test_captions_in_a_csv_are_not_hidden_by_a_new_file(vlv: Callable, pictures: Path) -> None:
    (pictures / "metadata.csv").write_text("file_name,text\nred.png,mine\n")
    job = ("caption", pictures, "--output-format", "jsonl")
    for flags in ((), ("--dry-run",)):
        ran = vlv(*job, *flags)
        assert ran.code == 2 and not (pictures / "metadata.jsonl").exists()
        assert ran.err == (
            f"vlv: {pictures / 'metadata.csv'} would not be read beside a metadata.jsonl, nor the "
            "captions in it; name another file with --output, or --overwrite writes "
            f"{pictures / 'metadata.jsonl'} all the same\n"
        )
    assert read(pictures)["red"] == "mine"
    assert vlv(*job, "--output", pictures / "captions.jsonl").code == 0
    assert vlv(*job, "--overwrite").out == "3 captions written, 0 failed\n"
    assert vlv(*job).out.startswith("0 captions written, 3 left")


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv"])
def test_captions_in_metadata_of_a_subfolder_are_kept(
    vlv: Callable, pictures: Path, name: str
) -> None:
    (pictures / "train").mkdir()
    (pictures / "red.png").rename(pictures / "train" / "red.png")
    if name == "metadata.csv":
        (pictures / "train" / name).write_text("file_name,text\nred.png,mine\n")
    else:
        lines(pictures / "train" / name, [{"file_name": "red.png", "caption": "mine"}])
    job = ("caption", pictures, "--recursive", "--output-format", "jsonl")
    assert vlv(*job).out.startswith("2 captions written, 1 left as they are")
    assert read(pictures)["train/red"] == "mine"
    assert vlv(*job, "--overwrite").out.startswith("2 captions written, 1 left")
    assert vlv(*job, "--overwrite-edited").out == "3 captions written, 0 failed\n"
    assert read(pictures)["train/red"] == CAPTIONS["red"]


def test_own_captions_in_a_subfolder_are_replaced_as_those_of_the_folder(
    vlv: Callable, pictures: Path
) -> None:
    (pictures / "train").mkdir()
    (pictures / "red.png").rename(pictures / "train" / "red.png")
    assert vlv("caption", pictures / "train", "--output-format", "jsonl").code == 0
    job = ("caption", pictures, "--recursive", "--output-format", "jsonl")
    assert vlv(*job).out.startswith("2 captions written, 1 left as they are")
    (pictures / "metadata.jsonl").unlink()
    assert vlv(*job, "--overwrite").out == "3 captions written, 0 failed\n"


def test_metadata_that_hides_no_caption_is_no_obstacle(vlv: Callable, pictures: Path) -> None:
    (pictures / "metadata.csv").write_text("url,width\nhttps://example.org/red.png,64\n")
    metadata = pictures / "metadata.jsonl"
    assert vlv("caption", pictures, "--output-format", "jsonl").code == 0
    # What readers refuse as a caption is none that would have to stay.
    lines(metadata, [{"file_name": "red.png", "text": 5, "caption": "A"}])
    ran = vlv("caption", pictures, "--output-format", "jsonl")
    assert ran.out == "3 captions written, 0 failed\n"
    assert read(pictures) == CAPTIONS


def test_a_caption_file_of_kohya_is_kept(vlv: Callable, pictures: Path) -> None:
    (pictures / "red.caption").write_text("mine\n")
    (pictures / "blue.caption").write_text(" \n")
    job = ("caption", pictures, "--output-format", "txt")
    ran = vlv(*job)
    assert ran.out.startswith("2 captions written, 1 left as they are")
    assert not (pictures / "red.txt").exists()
    assert read(pictures) == {**CAPTIONS, "red": "mine"}
    ran = vlv(*job, "--overwrite")
    assert ran.out.startswith("2 captions written, 1 left") and "red.png" in ran.err
    assert vlv(*job, "--overwrite-edited").out == "3 captions written, 0 failed\n"
    assert read(pictures) == CAPTIONS


def test_a_caption_file_of_kohya_that_appears_meanwhile_is_kept(
    vlv: Callable, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vlv.inference import captioning

    caption = captioning.caption_images

    def slow(*args: object, **settings: object) -> object:
        for result in caption(*args, **settings):  # type: ignore[arg-type]
            (pictures / "red.caption").write_text("mine")
            yield result

    monkeypatch.setattr(captioning, "caption_images", slow)
    ran = vlv("caption", pictures, "--output-format", "txt")
    assert ran.out.startswith("2 captions written, 1 left") and "kept: 1 caption was" in ran.err
    assert read(pictures)["red"] == "mine"
