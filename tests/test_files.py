"""Files and folders that are complete or absent, and what was there before them."""

import os
import tempfile
from pathlib import Path

import pytest

from vlv.errors import ConfigError
from vlv.files import atomic_file, atomic_folder, usual_mode, write_json


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """A folder with something in it."""
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "old").touch()
    return folder


def test_a_file_may_have_the_longest_name_there_is(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 251 + ".txt")
    with atomic_file(path) as unfinished:
        unfinished.write_text("whole")
    assert path.read_text() == "whole"
    assert names(tmp_path) == [path.name]


def test_json_keeps_the_bytes_of_names_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_json(path, {"name": os.fsdecode(b"\xff.png"), "text": "Größe"})
    assert b'"name": "\xff.png"' in path.read_bytes()
    assert "Größe".encode() in path.read_bytes()
    assert names(tmp_path) == ["result.json"]


def test_a_file_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_file(path) as unfinished:
        unfinished.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_replacement_that_is_interrupted_puts_the_older_folder_back(
    older: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if self.suffix == ".tmp":
            raise KeyboardInterrupt
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(KeyboardInterrupt), atomic_folder(older, overwrite=True) as unfinished:
        (unfinished / "new").touch()
    assert names(older) == ["old"]
    assert names(older.parent) == ["set"]


def test_writers_of_one_name_do_not_meet(tmp_path: Path) -> None:
    """As two processes of one number do, in two containers that share a disk."""
    path = tmp_path / "a.txt"
    with atomic_file(path) as first:
        first.write_text("first")
        with atomic_file(path) as second:
            second.write_text("second")
        assert path.read_text() == "second"
    assert path.read_text() == "first"
    assert names(tmp_path) == ["a.txt"]


def test_a_link_to_a_folder_stays_one(older: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(older)
    with atomic_folder(link, overwrite=True) as unfinished:
        (unfinished / "new").touch()
    assert link.is_symlink()
    assert names(older) == ["new"]
    assert names(tmp_path) == ["link", "set"]


def test_places_that_cannot_be_replaced(older: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="no folder"), atomic_folder(older / "old"):
        pass
    with pytest.raises(ConfigError, match="--overwrite"), atomic_folder(older):
        pass
    monkeypatch.chdir(older)
    with pytest.raises(ConfigError, match="current folder"), atomic_folder(Path(), overwrite=True):
        pass
    assert names(older) == ["old"]


def test_a_library_that_hides_its_file_leaves_the_usual_mode(tmp_path: Path) -> None:
    def written(path: Path) -> int:
        with usual_mode(path):
            descriptor, name = tempfile.mkstemp(dir=tmp_path)
            os.close(descriptor)
            os.replace(name, path)
        return path.stat().st_mode & 0o777

    before = os.umask(0o027)
    try:
        assert written(tmp_path / "new") == 0o640
        (tmp_path / "new").chmod(0o604)
        assert written(tmp_path / "new") == 0o604
    finally:
        os.umask(before)
