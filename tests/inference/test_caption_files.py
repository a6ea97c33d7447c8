"""Sidecars and metadata.jsonl: layout, what is kept, and runs that were cut off."""

import json
import os
import resource
import tempfile
from itertools import count
from pathlib import Path

import pytest

from vlv.errors import ConfigError, DatasetError
from vlv.inference.caption_files import Sidecars, metadata_path
from vlv.inference.caption_lists import kohya
from vlv.inference.caption_lists.kohya import CaptionsJson
from vlv.inference.caption_lists.metadata import MetadataFile
from vlv.inference.written import RECORD, Replace


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_sidecar_is_one_line_beside_the_image(tmp_path: Path) -> None:
    store, image = Sidecars(), tmp_path / "a.b.jpg"
    assert not store.has(image)
    store.put(image, "Ein schöner Würfel.")
    assert store.has(image)
    assert (tmp_path / "a.b.txt").read_bytes() == "Ein schöner Würfel.\n".encode()
    assert {path.name for path in tmp_path.iterdir()} == {"a.b.txt", RECORD}


def test_an_empty_sidecar_is_no_caption(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    assert not Sidecars().has(tmp_path / "a.jpg")


@pytest.mark.parametrize("extension", ["txt", ".", "", "./x", ".PNG", ".jpg"])
def test_extensions_that_cannot_be(extension: str) -> None:
    with pytest.raises(ConfigError):
        Sidecars(extension)


def test_a_caption_file_whose_name_would_be_too_long_is_not_there(tmp_path: Path) -> None:
    image = tmp_path / ("x" * 251 + ".png")
    assert not Sidecars(".caption").has(image)
    with pytest.raises(OSError, match="too long"):
        Sidecars(".caption").put(image, "A.")


def test_nothing_is_made_before_there_is_a_caption(tmp_path: Path) -> None:
    MetadataFile(tmp_path / "new" / "metadata.jsonl").close()
    assert not (tmp_path / "new").exists()
    with pytest.raises(ConfigError, match="is a folder"):
        MetadataFile(tmp_path)


def test_a_full_disk_leaves_no_half_line(tmp_path: Path) -> None:
    store = MetadataFile(tmp_path / "metadata.jsonl")
    store.put(tmp_path / "a.png", "A.")
    before = store.path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, hard))
    try:
        with pytest.raises(OSError):
            store.put(tmp_path / "b.png", "B.")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert store.path.read_bytes() == before
    assert not store.has(tmp_path / "b.png")
    store.put(tmp_path / "c.png", "C.")
    assert [one["file_name"] for one in lines(store.path)] == ["a.png", "c.png"]


def test_metadata_names_are_relative_to_its_folder(tmp_path: Path) -> None:
    store = MetadataFile(tmp_path / "new" / "metadata.jsonl")
    store.put(tmp_path / "new" / "sub" / "a.png", "A.")
    store.put(tmp_path / "b.png", "B.")
    assert lines(store.path) == [
        {"file_name": "sub/a.png", "text": "A."},
        {"file_name": "../b.png", "text": "B."},
    ]


def test_what_a_metadata_file_holds_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "metadata.jsonl"
    path.write_text(
        '{"file_name": "a.png", "text": "A.", "label": 3}\n\n{"file_name": "b.png", "label": 4}'
    )
    store = MetadataFile(path)
    assert store.has(tmp_path / "a.png")
    assert not store.has(tmp_path / "b.png")  # a line, but no text
    store.put(tmp_path / "b.png", "B.")
    store.put(tmp_path / "c.png", "C.")
    store.close()
    assert lines(path) == [
        {"file_name": "a.png", "text": "A.", "label": 3},
        {"file_name": "b.png", "label": 4, "text": "B."},
        {"file_name": "c.png", "text": "C."},
    ]


def test_every_line_is_on_disk_before_the_next(tmp_path: Path) -> None:
    store = MetadataFile(tmp_path / "metadata.jsonl")
    for number in range(3):
        store.put(tmp_path / f"{number}.png", "x")
        assert len(lines(store.path)) == number + 1


def test_a_run_that_was_cut_off_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "metadata.jsonl"
    path.write_text('{"file_name": "a.png", "text": "A."}\n{"file_name": "b.png", "te')
    os.utime(path, (0, 0))  # no other program is about to end the line
    store = MetadataFile(path)
    assert not store.has(tmp_path / "b.png")
    store.put(tmp_path / "b.png", "B.")
    assert [one["file_name"] for one in lines(path)] == ["a.png", "b.png"]


def test_the_last_line_of_an_image_counts(tmp_path: Path) -> None:
    path = tmp_path / "metadata.jsonl"
    store = MetadataFile(path, Replace.OURS)
    store.put(tmp_path / "a.png", "old")
    store.put(tmp_path / "a.png", "new")
    # Cut off before `close`: both lines are there, and the next run sees the newer one.
    assert len(lines(path)) == 2
    MetadataFile(path).close()
    assert lines(path) == [{"file_name": "a.png", "text": "new"}]


@pytest.mark.parametrize("content", ["[1]\n", "{]\n", '{"text": "x"}\n', '{"file_name": 3}\n'])
def test_a_file_that_holds_something_else_is_not_touched(tmp_path: Path, content: str) -> None:
    path = tmp_path / "metadata.jsonl"
    path.write_text(content)
    with pytest.raises(DatasetError, match="line 1 of"):
        MetadataFile(path)
    assert path.read_text() == content


def test_the_metadata_file_lies_in_the_folder_of_the_inputs(tmp_path: Path) -> None:
    assert metadata_path([tmp_path]) == tmp_path / "metadata.jsonl"
    both = [tmp_path / "a.png", tmp_path / "b.png"]
    assert metadata_path(both) == tmp_path / "metadata.jsonl"
    with pytest.raises(ConfigError, match="--output"):
        metadata_path([tmp_path / "a.png", tmp_path / "sub" / "b.png"])


def test_several_captions_in_kohyas_json_are_the_lines_of_one(tmp_path: Path) -> None:
    path, image = tmp_path / "metadata.json", tmp_path / "a.png"
    path.write_text(json.dumps({str(image): {"tags": "cone", "caption": "old"}}))
    store = CaptionsJson(path, Replace.ALL)
    store.put(image, "best", "second")
    store.close()
    assert json.loads(path.read_text()) == {str(image): {"tags": "cone", "caption": "best\nsecond"}}
    store.put(image, "alone")
    store.close()
    assert json.loads(path.read_text())[str(image)]["caption"] == "alone"


def test_a_json_larger_than_configs_may_be_is_added_to(tmp_path: Path) -> None:
    """As of 70,000 pictures."""
    path = tmp_path / "meta.json"
    entries = {str(tmp_path / f"{n}.png"): {"caption": "A ball. " * 125_000} for n in range(70)}
    path.write_text(json.dumps(entries))
    store = CaptionsJson(path)
    assert store.has(tmp_path / "69.png") and not store.has(tmp_path / "70.png")
    store.put(tmp_path / "70.png", "A cube.")
    store.close()
    assert len(json.loads(path.read_text())) == 71


def test_captions_of_a_json_that_cannot_be_written_are_kept_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk of the file goes away during the run."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    clock = count(0.0, 0.1)
    monkeypatch.setattr(kohya.time, "monotonic", lambda: next(clock))
    store = CaptionsJson(tmp_path / "disk" / "meta.json")
    store.check_place()
    (tmp_path / "disk").rmdir()
    (tmp_path / "disk").touch()
    names = [tmp_path / f"{number}.png" for number in range(100)]
    for name in names:
        assert store.put(name, "A ball.")
    with pytest.raises(
        DatasetError,
        match=r"meta\.json cannot be written .*; the captions of this run are in (.*)$",
    ) as lost:
        store.close()
    kept = Path(str(lost.value).rpartition(" are in ")[2])
    assert kept.parent == tmp_path / "temporary"
    assert set(json.loads(kept.read_text())) == set(map(str, names))


def test_a_long_json_is_not_written_all_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each write takes a second here, and so does each caption."""
    clock = count(0.0)
    monkeypatch.setattr(kohya.time, "monotonic", lambda: next(clock))
    path = tmp_path / "meta.json"
    store = CaptionsJson(path)
    written = set()
    for number in range(60):
        assert store.put(tmp_path / f"{number}.png", "A ball.")
        written.add(len(json.loads(path.read_text())) if path.exists() else 0)
    assert 2 <= len(written) <= 5
    assert store.close() == [] and len(json.loads(path.read_text())) == 60
