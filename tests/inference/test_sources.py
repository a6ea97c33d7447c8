"""Which images paths stand for."""

import os
from pathlib import Path

import pytest

from vlv.inference.sources import find_images, shared_stems


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("b.PNG", "a.jpg", "a.txt", ".hidden.png", "sub/c.webp", ".cache/d.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    return tmp_path


def test_a_folder_gives_its_images_in_order(tree: Path) -> None:
    assert find_images([tree]).images == [tree / "a.jpg", tree / "b.PNG"]


def test_recursive_searches_subfolders_but_not_hidden_ones(tree: Path) -> None:
    found = find_images([tree], recursive=True)
    assert found.images == [tree / "a.jpg", tree / "b.PNG", tree / "sub/c.webp"]


def test_named_files_are_taken_as_they_are_and_once(tree: Path) -> None:
    named = [tree / "a.txt", tree / "missing.png", tree, tree / "a.jpg"]
    assert find_images(named).images == [
        tree / "a.txt",
        tree / "missing.png",
        tree / "a.jpg",
        tree / "b.PNG",
    ]


def test_a_name_that_is_too_long_is_left_to_whoever_reads_it(tree: Path) -> None:
    long = tree / ("x" * 300)
    assert find_images([long, tree / "a.jpg"]).images == [long, tree / "a.jpg"]


def test_a_folder_that_cannot_be_read_is_refused(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Permissions do not stop root, who may run these tests.
    real = os.scandir

    def scandir(path: str) -> object:
        if str(path).endswith("sub"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    found = find_images([tree], recursive=True)
    assert [one.reason for one in found.refused] == ["unreadable"]
    assert str(tree / "sub") in found.refused[0].message
    assert found.images == [tree / "a.jpg", tree / "b.PNG"]


def test_shared_stems() -> None:
    images = [Path("x/a.jpg"), Path("x/a.png"), Path("y/a.png"), Path("x/a.b.png")]
    assert shared_stems(images) == {Path("x/a"): images[:2]}
