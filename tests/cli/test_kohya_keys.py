"""`vlv caption --output-format json` into a file of sd-scripts, whose keys name images in several
ways: by path or from the file's folder, with or without extension.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.tiny import CAPTIONS, plain

from vlv.data.captioned import open_captioned

pytestmark = pytest.mark.usefixtures("use_tiny_model")

KEYS = ["{folder}/{name}.png", "{folder}/{name}", "{name}.png", "{name}", "./{name}.png"]


def write(folder: Path, entries: dict[str, Any]) -> Path:
    (folder / "meta.json").write_text(json.dumps(entries))
    return folder / "meta.json"


def read(folder: Path) -> dict[str, str | None]:
    """What readers find: each image once."""
    images = open_captioned(folder / "meta.json", index_folder=folder / "index")
    found = [images[number] for number in range(len(images))]
    names = [Path(one.file_name).name for one in found]
    assert len(set(names)) == len(names)
    return {name: one.caption for name, one in zip(names, found, strict=True)}


@pytest.mark.parametrize("key", KEYS)
def test_an_entry_is_the_images_whatever_its_key(vlv: Callable, pictures: Path, key: str) -> None:
    red, blue = (key.format(folder=pictures.absolute(), name=name) for name in ("red", "blue"))
    file = write(pictures, {red: {"caption": "mine", "tags": "a"}, blue: {"tags": "b, c"}})
    job = ("caption", pictures, "--output-format", "json", "--output", file)
    assert vlv(*job).out.startswith("2 captions written, 1 left as they are")
    entries = json.loads(file.read_text())
    assert entries == {
        red: {"caption": "mine", "tags": "a"},
        blue: {"caption": CAPTIONS["blue"], "tags": "b, c"},
        str(pictures.absolute() / "lime.png"): {"caption": CAPTIONS["lime"]},
    }
    expected = {f"{name}.png": text for name, text in CAPTIONS.items()}
    assert read(pictures) == {**expected, "red.png": "mine"}
    # The program knows its own captions under such keys too.
    ran = vlv(*job, "--overwrite", "--prepend", "new")
    assert ran.out.startswith("2 captions written, 1 left") and "red.png" in ran.err
    entries = json.loads(file.read_text())
    assert len(entries) == 3 and entries[blue]["caption"] == f"new {CAPTIONS['blue']}"
    assert vlv(*job, "--overwrite-edited").out == "3 captions written, 0 failed\n"
    assert read(pictures) == expected


def test_images_with_one_stem_share_no_entry(vlv: Callable, pictures: Path) -> None:
    """The entry is that of the image which readers find under the key; the other gets its own."""
    plain("red").save(pictures / "red.webp")
    (pictures / "other").mkdir()
    plain("red").save(pictures / "other" / "red.png")
    file = write(pictures, {"red": {"caption": "mine"}})
    job = ("caption", pictures, "--recursive", "--output-format", "json", "--output", file)
    assert vlv(*job).out.startswith("4 captions written, 1 left")
    entries = json.loads(file.read_text())
    assert entries["red"] == {"caption": "mine"}
    folder = pictures.absolute()
    assert entries.keys() - {"red"} == {
        str(folder / name) for name in ("blue.png", "lime.png", "red.webp", "other/red.png")
    }


def test_of_two_entries_of_an_image_that_with_a_caption_counts(
    vlv: Callable, pictures: Path
) -> None:
    absolute = str(pictures.absolute() / "red.png")
    file = write(pictures, {absolute: {"tags": "a"}, "red": {"caption": "mine"}})
    job = ("caption", pictures, "--output-format", "json", "--output", file)
    assert vlv(*job).out.startswith("2 captions written, 1 left")
    assert json.loads(file.read_text())[absolute] == {"tags": "a"}


def test_stems_of_images_with_capital_extensions(vlv: Callable, pictures: Path) -> None:
    """As cameras write them."""
    (pictures / "red.png").rename(pictures / "red.PNG")
    file = write(pictures, {"red": {"caption": "mine"}})
    job = ("caption", pictures, "--output-format", "json", "--output", file)
    assert vlv(*job).out.startswith("2 captions written, 1 left")
    assert read(pictures)["red.PNG"] == "mine"


def test_entries_that_another_program_adds_meanwhile_are_found(
    vlv: Callable, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vlv.inference import captioning

    caption = captioning.caption_images

    def slow(*args: object, **settings: object) -> object:
        for result in caption(*args, **settings):  # type: ignore[arg-type]
            write(pictures, {"red": {"caption": "mine"}, "blue": {"tags": "b"}})
            yield result

    monkeypatch.setattr(captioning, "caption_images", slow)
    file = pictures / "meta.json"
    ran = vlv("caption", pictures, "--output-format", "json", "--output", file)
    assert ran.out.startswith("2 captions written, 1 left") and "kept: 1 caption was" in ran.err
    entries = json.loads(file.read_text())
    assert entries["red"] == {"caption": "mine"} and len(entries) == 3
    assert entries["blue"] == {"tags": "b", "caption": CAPTIONS["blue"]}
