"""Files and folders that are complete or absent, and what was there before them."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from vlv.errors import ConfigError
from vlv.files import atomic_file, atomic_folder, atomic_large_file, usual_mode, write_json

# Writes with the function named first, and stops in the middle.
_WRITER = """
import sys, time
from pathlib import Path
from vlv import files

with getattr(files, sys.argv[1])(Path(sys.argv[2])) as unfinished:
    half = unfinished / "half" if unfinished.is_dir() else unfinished
    half.write_text("half")
    (half.parent / ".of-a-library").touch()
    print("half", flush=True)
    sys.stdin.read()
"""
# Replaces a folder, and is killed when the older one has lost its name.
_REPLACER = """
import os, signal, sys
from pathlib import Path
from vlv.files import atomic_folder

real = Path.rename

def rename(self, target):
    if target == Path(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, target)

with atomic_folder(Path(sys.argv[1]), overwrite=True) as unfinished:
    Path.rename = rename
"""
large = pytest.mark.parametrize("kind", ["atomic_folder", "atomic_large_file"])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def writer(kind: str, path: Path) -> "subprocess.Popen[str]":
    """A process that has written half of `path`."""
    command = [sys.executable, "-c", _WRITER, kind, str(path)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=path.parent
    )
    assert process.stdout is not None and process.stdout.readline() == "half\n"
    return process


def left_by_a_killed_one(kind: str, path: Path) -> Path:
    process = writer(kind, path)
    process.kill()
    process.communicate()
    (left,) = path.parent.iterdir()
    return left


def write(kind: str, path: Path) -> None:
    if kind == "atomic_folder":
        with atomic_folder(path, overwrite=True) as unfinished:
            (unfinished / "whole").touch()
    else:
        with atomic_large_file(path) as unfinished:
            unfinished.write_text("whole")


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


@large
def test_what_a_killed_process_left_is_removed_by_the_next_one(kind: str, tmp_path: Path) -> None:
    left_by_a_killed_one(kind, tmp_path / "a")
    write(kind, tmp_path / "b")
    assert len(names(tmp_path)) == 2  # of another target
    write(kind, tmp_path / "a")
    assert names(tmp_path) == ["a", "b"]


@large
def test_what_a_living_process_writes_stays(kind: str, tmp_path: Path) -> None:
    process = writer(kind, tmp_path / "a")
    write(kind, tmp_path / "a")
    assert len(names(tmp_path)) == 2
    if kind == "atomic_folder":
        process.kill()
        process.communicate()
        write(kind, tmp_path / "a")
    else:
        process.communicate("")
        assert (tmp_path / "a").read_text() == "half"
    assert names(tmp_path) == ["a"]


@large
def test_what_another_machine_writes_is_removed_when_it_is_old(kind: str, tmp_path: Path) -> None:
    """A lock says nothing of another machine."""
    left = left_by_a_killed_one(kind, tmp_path / "a")
    target = left.name.rpartition("-")[2]
    for writer_of_it in ("00000000-12345678", "42"):  # the second one is of an older version
        other = left.rename(tmp_path / f".{writer_of_it}-{target}")
        write(kind, tmp_path / "a")
        assert names(tmp_path) == sorted([other.name, "a"])
        left = other
    os.utime(left, times=(time.time() - 25 * 3600,) * 2)
    write(kind, tmp_path / "a")
    assert names(tmp_path) == ["a"]


def test_a_folder_that_a_killed_process_was_replacing_is_put_back(
    older: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", _REPLACER, str(older)]
    assert subprocess.run(command, check=False).returncode == -9
    assert "set" not in names(tmp_path)
    with pytest.raises(ConfigError, match="--overwrite"), atomic_folder(older):
        pass
    assert names(older) == ["old"]
    assert names(tmp_path) == ["set"]


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
