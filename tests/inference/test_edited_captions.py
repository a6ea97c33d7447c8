"""Captions that somebody wrote or edited by hand, between two runs and during one; files that other
programs, and other runs, write at the same time.
"""

import json
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from vlv.data.folder import read_folder
from vlv.errors import DatasetError
from vlv.inference.caption_files import CaptionStore, Sidecars
from vlv.inference.caption_lists import common, kohya
from vlv.inference.caption_lists.kohya import CaptionsJson
from vlv.inference.caption_lists.metadata import MetadataFile
from vlv.inference.written import RECORD, Replace, Written

KINDS = ("txt", "jsonl", "json")


def a_store(kind: str, folder: Path, replace: Replace = Replace.NONE) -> CaptionStore:
    if kind == "txt":
        return Sidecars(".txt", replace)
    if kind == "jsonl":
        return MetadataFile(folder / "metadata.jsonl", replace)
    return CaptionsJson(folder / "meta.json", replace)


def put(store: CaptionStore, image: Path, *texts: str) -> bool:
    written = store.put(image, *texts)
    return written and not store.close()


def edit(kind: str, folder: Path, change: Callable[[str], str]) -> None:
    """Change the caption of a.png as an editor would."""
    path = folder / {"txt": "a.txt", "jsonl": "metadata.jsonl", "json": "meta.json"}[kind]
    new = path.with_name("unsaved")
    new.write_text(change(path.read_text()))
    os.replace(new, path)


def text(kind: str, folder: Path) -> str:
    if kind == "txt":
        return (folder / "a.txt").read_text().rstrip("\n")
    if kind == "jsonl":
        (line,) = (folder / "metadata.jsonl").read_text().splitlines()
        return str(json.loads(line)["text"])
    (entry,) = json.loads((folder / "meta.json").read_text()).values()
    return str(entry["caption"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_caption_of_ours_is_replaced_and_an_edited_one_is_not(tmp_path: Path, kind: str) -> None:
    image = tmp_path / "a.png"
    assert put(a_store(kind, tmp_path), image, "One.")
    assert not put(a_store(kind, tmp_path), image, "Two.")
    assert a_store(kind, tmp_path).keeps(image)
    assert put(a_store(kind, tmp_path, Replace.OURS), image, "Three.")
    assert text(kind, tmp_path) == "Three."
    edit(kind, tmp_path, lambda text: text.replace("Three.", "Three, by hand."))
    store = a_store(kind, tmp_path, Replace.OURS)
    assert store.has(image) and store.keeps(image) and not put(store, image, "Four.")
    assert text(kind, tmp_path) == "Three, by hand."
    assert put(a_store(kind, tmp_path, Replace.ALL), image, "Five.")
    assert text(kind, tmp_path) == "Five."


@pytest.mark.parametrize("kind", KINDS)
def test_several_captions_are_ours_together(tmp_path: Path, kind: str) -> None:
    image = tmp_path / "a.png"
    assert put(a_store(kind, tmp_path), image, "One.", "Two.")
    assert put(a_store(kind, tmp_path, Replace.OURS), image, "Three.", "Four.")
    edit(kind, tmp_path, lambda text: text.replace("Four.", "By hand."))
    assert a_store(kind, tmp_path, Replace.OURS).keeps(image)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_by_hand_while_captions_are_made_stays(tmp_path: Path, kind: str) -> None:
    image = tmp_path / "a.png"
    put(a_store(kind, tmp_path), image, "One.")
    store = a_store(kind, tmp_path, Replace.OURS)
    assert not store.keeps(image)
    edit(kind, tmp_path, lambda text: text.replace("One.", "By hand."))
    assert not put(store, image, "Two.")
    assert text(kind, tmp_path) == "By hand."


@pytest.mark.parametrize("kind", KINDS)
def test_captions_of_unknown_origin_stay(tmp_path: Path, kind: str) -> None:
    put(a_store(kind, tmp_path), tmp_path / "a.png", "One.")
    (tmp_path / RECORD).unlink()
    assert a_store(kind, tmp_path, Replace.OURS).keeps(tmp_path / "a.png")


def test_saving_a_caption_without_a_change_is_no_edit(tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    put(a_store("txt", tmp_path), image, "Grün.")
    for data in (
        b"\xef\xbb\xbfGr\xc3\xbcn.\r\n",
        "Grün.".encode("utf-16"),
        "Grün. ".encode("cp1252"),
    ):
        (tmp_path / "a.txt").write_bytes(data)
        assert not a_store("txt", tmp_path, Replace.OURS).keeps(image)


@pytest.mark.parametrize(
    "data", [b"", b" \r\n\n", b"\xef\xbb\xbf", b"\xff\xfe", "\u200b\u00a0\ufeff".encode(), b"\0\0"]
)
def test_an_emptied_caption_file_is_no_caption(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.txt").write_bytes(data)
    assert not Sidecars().has(tmp_path / "a.png")
    assert put(Sidecars(), tmp_path / "a.png", "A.")


@pytest.mark.parametrize("data", [b"\x92\x8d\x81", b"\xff\xfe\x41", b"it\x92s"])
def test_a_caption_in_an_encoding_of_its_own_stays(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.txt").write_bytes(data)
    assert not put(Sidecars(".txt", Replace.OURS), tmp_path / "a.png", "A.")
    assert (tmp_path / "a.txt").read_bytes() == data


def test_the_record_survives_damage_and_several_writers(tmp_path: Path) -> None:
    first, second = Written(tmp_path), Written(tmp_path)
    first.note([("a.txt", "One.")])
    with open(tmp_path / RECORD, "ab") as file:
        file.write(b'[1]\n\xff\n{"name": 3}\n{"name": "a.txt", "sha')
    second.note([("b.txt", "Two.")])
    for record in (first, second, Written(tmp_path)):
        assert record.is_ours("a.txt", "One.") and record.is_ours("b.txt", "Two.")
        assert not record.is_ours("a.txt", "Two.") and not record.is_ours("c.txt", "One.")


ODD = ["NaN", '["", null]', "null", "3", '"\\u200b"', "{}"]


@pytest.mark.parametrize("value", ODD)
@pytest.mark.parametrize("kind", ["jsonl", "json"])
def test_old_captions_that_are_none_give_way(tmp_path: Path, kind: str, value: str) -> None:
    image = tmp_path / "a.png"
    if kind == "jsonl":
        line = f'{{"file_name": "a.png", "text": {value}, "label": 3}}\n'
        (tmp_path / "metadata.jsonl").write_text(line)
    else:
        others = f'"/other.png": {{"tags": "x"}}, "{image}": {{"caption": {value}}}'
        (tmp_path / "meta.json").write_text(f'{{{others}, "/third.png": {value}}}')
    store = a_store(kind, tmp_path)
    assert not store.has(image)
    assert put(store, image, "New.")
    assert a_store(kind, tmp_path).has(image)


def test_lines_that_cannot_be_read_stay_and_cost_no_caption(tmp_path: Path) -> None:
    path = tmp_path / "metadata.jsonl"
    path.write_bytes(b'{"file_name": "a.png", "text": "A."}\r\n{broken\r\n{"text": "x"}\r\n')
    store = MetadataFile(path)
    assert store.unread == 2
    assert put(store, tmp_path / "b.png", "B.")
    assert path.read_text().splitlines()[1:] == [
        "{broken",
        '{"text": "x"}',
        '{"file_name": "b.png", "text": "B."}',
    ]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("kind", ["jsonl", "json"])
def test_lists_that_were_edited_on_windows_are_added_to(
    tmp_path: Path, kind: str, encoding: str
) -> None:
    grey = tmp_path / "a.png"
    if kind == "jsonl":
        content = '{"file_name": "a.png", "text": "Grün."}\r\n'
    else:
        content = json.dumps({str(grey): {"caption": "Grün."}}, ensure_ascii=False)
    path = tmp_path / ("metadata.jsonl" if kind == "jsonl" else "meta.json")
    path.write_bytes(content.encode(encoding))
    store = a_store(kind, tmp_path)
    assert store.keeps(grey) and put(store, tmp_path / "b.png", "B.")
    found = path.read_text(encoding="utf-8")
    assert json.dumps("Grün.") in found or "Grün." in found
    assert a_store(kind, tmp_path).has(tmp_path / "b.png")


def _fill(kind: str, folder: Path, first: int, count: int) -> None:
    store = a_store(kind, folder)
    for number in range(first, first + count):
        store.put(folder / f"{number}.png", f"Number {number}.")
    store.close()


@pytest.mark.parametrize("kind", ["jsonl", "json"])
def test_two_runs_write_one_file(tmp_path: Path, kind: str) -> None:
    context = multiprocessing.get_context("fork")
    runs = [context.Process(target=_fill, args=(kind, tmp_path, 100 * i, 40)) for i in range(3)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert [run.exitcode for run in runs] == [0, 0, 0]
    store = a_store(kind, tmp_path)
    assert all(store.has(tmp_path / f"{100 * i + n}.png") for i in range(3) for n in range(40))
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {RECORD, "metadata.jsonl" if kind == "jsonl" else "meta.json"}


@pytest.mark.parametrize("kind", ["jsonl", "json"])
def test_what_another_program_writes_meanwhile_stays(tmp_path: Path, kind: str) -> None:
    store = a_store(kind, tmp_path)
    store.put(tmp_path / "a.png", "A.")
    tagged = tmp_path / "b.png"
    if kind == "jsonl":
        (tmp_path / "metadata.jsonl").write_text('{"file_name": "b.png", "tags": "x"}\n')
    else:
        (tmp_path / "meta.json").write_text(json.dumps({str(tagged): {"tags": "x"}}))
    store.put(tagged, "B.")
    store.close()
    again = a_store(kind, tmp_path)
    assert again.has(tmp_path / "a.png") and again.has(tagged)
    path = tmp_path / ("metadata.jsonl" if kind == "jsonl" else "meta.json")
    assert '"tags": "x"' in path.read_text()


@pytest.mark.parametrize("kind", ["jsonl", "json"])
def test_what_is_written_right_before_the_file_is_replaced_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path = tmp_path / ("metadata.jsonl" if kind == "jsonl" else "meta.json")
    put(a_store(kind, tmp_path), tmp_path / "a.png", "A.")
    if kind == "jsonl":
        path.write_text(path.read_text().rstrip())  # which has to be written anew
    store = a_store(kind, tmp_path)
    slow = common.sync

    def edited_meanwhile(unfinished: Path) -> None:
        slow(unfinished)
        monkeypatch.setattr(common, "sync", slow)
        if kind == "jsonl":
            path.write_text(
                '{"file_name": "a.png", "text": "A."}\n{"file_name": "b.png", "text": "B."}'
            )
        else:
            others = json.loads(path.read_text()) | {str(tmp_path / "b.png"): {"caption": "B."}}
            path.write_text(json.dumps(others))

    monkeypatch.setattr(common, "sync", edited_meanwhile)
    store.put(tmp_path / "c.png", "C.")
    store.close()
    assert common.sync is slow
    again = a_store(kind, tmp_path)
    assert all(again.has(tmp_path / f"{name}.png") for name in "abc")


SPELLINGS = ["./a.png", "sub/../a.png", ".//a.png", ".\\\\a.png", "{folder}/a.png"]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_file_has_one_name_however_it_is_spelled(tmp_path: Path, spelling: str) -> None:
    image = tmp_path / "a.png"
    image.touch()
    name = spelling.replace("{folder}", str(tmp_path))
    (tmp_path / "metadata.jsonl").write_text(f'{{"file_name": "{name}", "text": "By hand."}}\n')
    store = a_store("jsonl", tmp_path)
    assert store.keeps(image) and not put(store, image, "New.")
    assert [sample.caption for sample in read_folder(tmp_path)] == ["By hand."]


def test_a_backslash_in_a_name_is_one_where_there_is_such_a_file(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for image in ("sub\\a.png", "sub/a.png"):
        (tmp_path / image).touch()
    line = json.dumps({"file_name": "sub\\a.png", "text": "By hand."})
    (tmp_path / "metadata.jsonl").write_text(line + "\n")
    assert [sample.caption for sample in read_folder(tmp_path)] == [None, "By hand."]
    store = a_store("jsonl", tmp_path)
    assert store.has(tmp_path / "sub\\a.png") and not store.has(tmp_path / "sub/a.png")


def test_the_record_of_captions_does_not_grow_with_runs(tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    reader = Written(tmp_path)
    for number in range(20):
        put(a_store("txt", tmp_path, Replace.OURS), image, f"Number {number}.")
        assert reader.is_ours("a.txt", f"Number {number}.")
    assert len((tmp_path / RECORD).read_text().splitlines()) < 6
    assert not a_store("txt", tmp_path, Replace.OURS).keeps(image)
    reader.note([("b.txt", "B.")])
    assert Written(tmp_path).is_ours("b.txt", "B.") and not reader.is_ours("a.txt", "Number 3.")


def test_captions_are_not_lost_where_the_file_is_spoilt_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CaptionsJson(tmp_path / "meta.json")
    store.put(tmp_path / "a.png", "A.")
    (tmp_path / "meta.json").write_text("{")
    monkeypatch.setattr(kohya, "PATIENCE", 0.1)
    with pytest.raises(DatasetError, match=r"meta\.new\.json"):
        store.close()
    assert (tmp_path / "meta.json").read_text() == "{"
    assert CaptionsJson(tmp_path / "meta.new.json").has(tmp_path / "a.png")
