"""Which images paths stand for."""

import os
from pathlib import Path

import pytest

from vlv.inference.inputs import find_images, find_inputs


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


def linked(tmp_path: Path) -> Path:
    """A folder of links: to a folder outside, twice, to itself, to one of its own, to an image, and
    to nothing.
    """
    folder, outside = tmp_path / "set", tmp_path / "outside"
    for image in (folder / "real" / "a.png", outside / "deep" / "b.png"):
        image.parent.mkdir(parents=True)
        image.touch()
    for name, target in {
        "again": "real",
        "gone": "../nothing",
        "linked": "../outside",
        "linked2": "../outside",
        "loop": ".",
        "self": "self",
        "up": "..",
        "z.png": "real/a.png",
    }.items():
        (folder / name).symlink_to(target)
    return folder


def test_linked_folders_are_searched_once_each(tmp_path: Path) -> None:
    folder = linked(tmp_path)
    found = find_images([folder, folder / "again"], recursive=True)
    names = [path.relative_to(folder).as_posix() for path in found.images]
    assert names == ["z.png", "linked/deep/b.png", "real/a.png"]
    assert [one.message.split("; ")[0] for one in found.refused] == [
        f"the link {folder / 'gone'} leads nowhere",
        f"the link {folder / 'self'} leads nowhere",
    ]
    assert [path.name for path in find_images([folder]).images] == ["z.png"]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("**/*.png", ["linked/deep/b.png", "real/a.png", "z.png"]),
        ("**", ["linked/deep/b.png", "real/a.png", "z.png"]),
        ("*/*.png", ["loop/z.png", "real/a.png"]),
        ("**/again/?.png", ["again/a.png"]),
        ("l*/**/b.png", ["linked/deep/b.png"]),
        ("real/a.png", ["real/a.png"]),
    ],
)
def test_patterns_end_where_links_form_loops(
    tmp_path: Path, pattern: str, names: list[str]
) -> None:
    folder = linked(tmp_path)
    found = find_inputs([], patterns=[str(folder / pattern)])
    assert [path.relative_to(folder).as_posix() for path in found.images] == names


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("end", ["\n", "\r\n", " \r\n"])
def test_lists_of_names_that_were_edited_on_windows(
    tmp_path: Path, encoding: str, end: str
) -> None:
    images = [tmp_path / "Grün.png", tmp_path / "b c.png"]
    for image in images:
        image.touch()
    filelist = tmp_path / "list.txt"
    filelist.write_bytes("".join(f"{image}{end}" for image in images).encode(encoding))
    assert find_inputs([], filelist=filelist).images == images


def test_names_in_a_list_are_bytes(tmp_path: Path) -> None:
    image = os.fsencode(tmp_path) + b"/caf\xe9.png"
    with open(image, "wb"):
        pass
    filelist = tmp_path / "list.txt"
    filelist.write_bytes(image + b"\n")
    assert find_inputs([], filelist=filelist).images == [Path(os.fsdecode(image))]


@pytest.mark.parametrize("url", ["https://a.org/b.png", "HTTP://a.org/b", "s3://b/a.png"])
def test_a_url_is_called_one(url: str) -> None:
    found = find_images([Path(url)])
    assert not found.images
    assert found.refused[0].reason == "url" and found.refused[0].message.startswith(url)


def test_a_file_url_is_a_path(tmp_path: Path) -> None:
    image = tmp_path / "a b.png"
    image.touch()
    for url in (f"file://{image}", f"file://{str(image).replace(' ', '%20')}"):
        assert find_images([Path(url)]).images == [image]
        assert find_inputs([Path(url)]).images == [image]
    assert find_inputs([Path(f"file://{tmp_path}")]).images == [image]
    gone = tmp_path / "gone.png"
    assert find_images([Path(f"file://{gone}")]).images == [gone]  # reading it gives the reason
