"""The images that a command was given: files, folders, glob patterns, lists of names, and sets.

First names are found, which opens no image; then each becomes an `ImageInput` as it is needed.
"""

import codecs
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from vlv.data.images import EXTENSIONS, MAX_FILE_BYTES, MAX_OWN_PIXELS, OTHER_EXTENSIONS
from vlv.data.lenient import Unusable
from vlv.data.recaptioning import recaptioned
from vlv.data.remote.locations import SetFile, expanded, local_path, suffix_of, url_of
from vlv.data.remote.store import scheme_of, shown
from vlv.data.sets import set_files
from vlv.data.walking import matches, walk
from vlv.errors import ConfigError, DatasetError
from vlv.inference.records import ImageInput, Refused
from vlv.text import decode_text

# A name that stands for standard input.
STANDARD_INPUT = Path("-")
# Files that hold many images.
_SETS = (".tar", ".parquet")
_BYTE_ORDER_MARKS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
# Matches a URL, also one that became a path, where two slashes become one.
_URL = re.compile(r"(https?|ftp|s3|gcs|gs|hf|az|abfs|memory):/{1,2}[^/]|data:image/", re.IGNORECASE)
# Of the stores, these have no folders that can be listed.
_WEB = ("http", "https")


@dataclass
class Found:
    """The names that were found, each once, in the order of work: first `images`, then the shards
    and tables of `sets`. `refused` holds folders that cannot be read, broken links, and URLs.
    """

    images: list[Path] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    sets: list[SetFile] = field(default_factory=list)


def find_images(paths: Iterable[Path], *, recursive: bool = False) -> Found:
    """The images that `paths` stand for.

    A file is used whatever its name is, even if it does not exist: reading it gives the reason.
    A folder stands for its files with an image's extension, in the order of their names; with
    `recursive` also for those in its subfolders, linked ones too. Hidden files and folders are
    skipped. An image that several names of its folder lead to is used once. `file:///a.png` is
    `/a.png`.
    """
    found = Found()
    for path in map(local_path, paths):
        # Unlike `Path.is_dir`, this is false for names that are too long or not accessible.
        if os.path.isdir(path):
            _search(path, recursive, found)
        elif _URL.match(os.fspath(path)) and not os.path.lexists(path):
            found.refused.append(_url(path))
        else:
            found.images.append(path)
    found.images = _each_once(found.images)
    return found


def find_inputs(
    paths: Sequence[Path],
    *,
    patterns: Sequence[str] = (),
    filelist: Path | None = None,
    recursive: bool = False,
) -> Found:
    """`find_images` that also reads glob patterns, a list of names, and sets of images.

    A shard (.tar), a parquet file, and a folder that holds such files and no image are sets;
    shards, tables and folders of them may also be in an object store, with patterns
    (`vlv.data.remote.locations`). The path `-` is an image on standard input; as a filelist it is
    the names on standard input. Patterns find images and sets only.

    Raises:
        ConfigError: `-` is given more than once or standard input is closed, or what reads a store
            is not installed.
        DatasetError: the filelist cannot be read, a pattern matches nothing, or a store does not
            give what is asked for.
    """
    if list(paths).count(STANDARD_INPUT) + (filelist == STANDARD_INPUT) > 1:
        raise ConfigError("standard input can be read only once, but - is given more than once")
    every, problems = list(paths), list[Refused]()
    for pattern in patterns:
        every += _matches(pattern, problems)
    if filelist is not None:
        every += _listed(filelist)
    if STANDARD_INPUT in every:
        _standard_input()  # before a model is loaded
    files, sets = list[Path](), list[SetFile]()
    for path in map(local_path, every):
        here = _set_files(path)
        sets += here
        files += [] if here else [path]
    found = find_images(files, recursive=recursive)
    found.refused += problems
    found.sets = [
        *_each_once(one for one in sets if isinstance(one, Path)),
        *dict.fromkeys(one for one in sets if not isinstance(one, Path)),
    ]
    return found


def inputs_of(
    images: Iterable[Path], sets: Iterable[SetFile], *, max_pixels: int = MAX_OWN_PIXELS
) -> Iterator[ImageInput | Refused]:
    """The inputs in order, read one by one; a sample of a set without a picture is refused.

    Raises:
        ConfigError: what reading a set needs is not installed.
    """
    for path in images:
        if path == STANDARD_INPUT:
            data = _standard_input().read(MAX_FILE_BYTES + 1)
            yield ImageInput("standard input", data, str(STANDARD_INPUT), max_pixels=max_pixels)
        else:
            yield ImageInput.of_file(path, max_pixels)
    for file in sets:
        for sample in recaptioned(file):
            if isinstance(sample, Unusable):
                yield Refused(f"{file}/{sample.name}", sample.reason, sample.message)
            else:
                name = f"{file}/{sample.file_name}"
                yield ImageInput(name, sample.image, meta=sample.meta, max_pixels=max_pixels)


def _standard_input() -> BinaryIO:
    """The bytes of standard input. Raises ConfigError where it is closed."""
    if sys.stdin is None:
        raise ConfigError(
            "standard input is closed, and - stands for it; send something into it, or name files"
        )
    return sys.stdin.buffer


def _matches(pattern: str, problems: list[Refused]) -> list[Path]:
    """The images and sets that match; folders that cannot be read are added to `problems`."""
    known = (*EXTENSIONS, *OTHER_EXTENSIONS, *_SETS)
    found, unreadable = [], False
    for name, problem in matches(pattern):
        if problem is not None:
            problems.append(Refused(name, "unreadable", problem))
            unreadable = True
        elif name.lower().endswith(known):
            found.append(Path(name))
    if not found and not unreadable:
        raise DatasetError(f"no image matches {pattern!r}; quote the pattern, ** means subfolders")
    return sorted(found)


def _listed(filelist: Path) -> list[Path]:
    """The names in a list: one per line, or separated by NUL as `find -print0` writes them.

    They are bytes, as file names are, unless the list begins with a byte order mark.
    """
    try:
        standard = filelist == STANDARD_INPUT
        data = _standard_input().read() if standard else filelist.read_bytes()
    except OSError as error:
        raise DatasetError(f"the file list {filelist} cannot be read ({error.strerror})") from error
    if data.startswith(_BYTE_ORDER_MARKS):
        try:
            data = os.fsencode(decode_text(data))
        except ValueError as error:
            raise DatasetError(
                f"the file list {filelist} cannot be read: {error}; save it as UTF-8"
            ) from error
    names = data.split(b"\0") if b"\0" in data else data.splitlines()
    return [_named(name) for name in names if name.strip()]


def _named(name: bytes) -> Path:
    """The file that a name in a list means: the exact name if it exists, or else the name without
    blanks at its ends, in the list's encoding.
    """
    exact = Path(os.fsdecode(name))
    if os.path.lexists(exact):
        return exact
    candidates = [name.strip()]
    with suppress(ValueError):
        candidates.append(os.fsencode(decode_text(name).strip()))
    others = [Path(os.fsdecode(candidate)) for candidate in candidates]
    return next((path for path in others if os.path.lexists(path)), exact)


def _url(path: Path) -> Refused:
    # A path has single slashes only. A query or a user may hold a key.
    name = shown(re.sub(r"^(\w+):/([^/])", r"\1://\2", os.fspath(path)))
    short = name if len(name) < 200 else name[:40] + "..."
    return Refused(
        short, "url", f"{short} is a URL, which is not fetched; save the image and name its file"
    )


def _each_once(paths: Iterable[Path]) -> list[Path]:
    """The first path of each file; a folder may be reached under several names."""
    folders: dict[str, str] = {}
    first: dict[tuple[str, str], Path] = {}
    for path in paths:
        parent, name = os.path.split(path)
        if parent not in folders:
            folders[parent] = os.path.realpath(parent)
        first.setdefault((folders[parent], name), path)
    return list(first.values())


def _set_files(path: Path) -> list[SetFile]:
    """The shards or tables that a path stands for; none if it stands for images."""
    url = url_of(path)
    if url is not None:
        return _in_store(url)
    if not os.path.isdir(path):
        return [path] if path.suffix.lower() in _SETS else []
    try:
        return list(set_files(path))
    except OSError:
        return []  # searching it for images gives the reason


def _in_store(url: str) -> list[SetFile]:
    """The shards or tables of a URL, also of a folder; none of the URL of a single image."""
    suffix = suffix_of(url).lower()
    if suffix in _SETS:
        return expanded(url, _SETS)
    if suffix in (*EXTENSIONS, *OTHER_EXTENSIONS) or scheme_of(url) in _WEB:
        return []
    return [file for file in expanded(url, _SETS) if file.suffix in _SETS]


def _search(folder: Path, recursive: bool, found: Found) -> None:
    images = []
    for name, problem in walk(folder, recursive=recursive):
        if problem is None:
            images.append(Path(name))
        else:
            found.refused.append(Refused(name, "unreadable", problem))
    # A walk gives linked folders last; here they are sorted among the others.
    found.images += sorted(images, key=lambda path: (path.parent.parts, path.name))
