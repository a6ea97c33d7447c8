"""Captions in a folder's metadata, in every form that readers know: none is lost, and all readers
see the same.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vlv.data.image_sets import open_image_set
from vlv.data.items import items, origins
from vlv.data.samples import Sample
from vlv.data.sets import FORMATS, read_set

# The fields of an image, and the captions that they hold.
ENTRIES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "a": ({"text": ["one", "two"]}, ["one", "two"]),
    "b": ({"texts": ["x", "y"]}, ["x", "y"]),
    "c": ({"caption": ["l1", "l2"], "prompt": "p"}, ["l1", "l2"]),
    "d": ({"text": "", "caption": "mine"}, ["mine"]),
    "e": ({"text": [], "caption": "\ufeff", "texts": ["z"]}, ["z"]),
    "f": ({"text": None, "caption": ["", " only "]}, ["only"]),
    "g": ({"text": "short", "texts": ["short", "long"], "caption": "other"}, ["short", "long"]),
    "h": ({"text": "", "texts": [{"box": [0, 1]}]}, []),
}
BAD: dict[str, dict[str, Any]] = {
    "number": {"text": 5, "caption": "not asked"},
    "object": {"caption": {"en": "a"}},
    "mixed": {"text": "", "caption": ["a", 5]},
}


def folder_of(place: Path, entries: dict[str, dict[str, Any]]) -> Path:
    place.mkdir()
    lines = []
    for number, (key, entry) in enumerate(entries.items()):
        Image.new("RGB", (32, 32), (number * 9, 80, 120)).save(place / f"{key}.png")
        lines.append(json.dumps({"file_name": f"{key}.png", **entry}))
    (place / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return place


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return folder_of(tmp_path / "source", {key: entry for key, (entry, _) in ENTRIES.items()})


def captions(found: dict[str, Sample]) -> dict[str, tuple[str | None, list[str]]]:
    return {key: (one.caption and one.caption.strip(), one.texts) for key, one in found.items()}


def contents(folder: Path) -> dict[str, Sample]:
    found = [item.sample for item in items(origins([folder]))]
    return {one.key: one for one in found if isinstance(one, Sample)}


WANTED = {key: (texts[0] if texts else None, texts) for key, (_, texts) in ENTRIES.items()}


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("command", ["convert", "merge", "split"])
def test_no_caption_is_lost(
    vlv: Callable, source: Path, tmp_path: Path, command: str, layout: str
) -> None:
    out = tmp_path / "out"
    flags = ("--fraction", "validation=5%") if command == "split" else ()
    ran = vlv("data", command, source, out, *flags, "--output-format", layout)
    assert ran.code == 0, ran.err
    parts = [path for path in out.iterdir() if path.name[0] != "."] if command == "split" else [out]
    found = {key: one for part in parts for key, one in contents(part).items()}
    assert captions(found) == WANTED
    assert found["c"].meta["prompt"] == "p"
    assert found["g"].meta["source_caption"] == "other"
    assert found["h"].meta["texts"] == [{"box": [0, 1]}]


def test_all_readers_see_the_same_captions(vlv: Callable, source: Path, tmp_path: Path) -> None:
    assert captions({one.key: one for one in read_set(source)}) == WANTED
    images = open_image_set(source, index_folder=tmp_path / "index")
    numbered = [images[number] for number in range(len(images))]
    assert captions({one.key: one for one in numbered}) == WANTED
    assert captions(contents(source)) == WANTED


def test_a_caption_file_goes_before_any_of_them(source: Path) -> None:
    (source / "a.txt").write_text("two\n")
    (source / "c.txt").write_text("of a file\n")
    found = {one.key: one for one in read_set(source)}
    assert (found["a"].caption, found["a"].texts) == ("two", ["one", "two"])
    assert (found["c"].caption, found["c"].texts) == ("of a file", ["of a file"])


def test_what_is_no_text_is_named(vlv: Callable, tmp_path: Path) -> None:
    source = folder_of(tmp_path / "source", {"good": {"caption": ["a", "b"]}, **BAD})
    ran = vlv("data", "convert", source, tmp_path / "out", "--json")
    assert ran.code == 1
    last = json.loads(ran.out.splitlines()[-1])
    assert last["refused"] == {"bad-caption": len(BAD)} and last["images"] == 1
    for key, kind in {"number": "int", "object": "dict", "mixed": "list"}.items():
        assert f"the caption of {key}.png in metadata.jsonl is no text but {kind}" in ran.err
