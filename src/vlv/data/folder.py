"""Images in a folder, with captions beside them and in `metadata.jsonl`.

`a.png` has its caption in `a.txt` (the first line), as trainers of image generators read it, or in
`a.caption`, and in `metadata.jsonl` (`{"file_name", "text"}`), as Hugging Face's ImageFolder reads
it (`vlv.data.folder_metadata`).
"""

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from vlv.data.folder_metadata import METADATA, metadata_in, pop_caption, read_metadata
from vlv.data.images import EXTENSIONS, image_bytes
from vlv.data.samples import (
    Sample,
    caption_line,
    caption_lines,
    parse_caption,
)
from vlv.data.walking import walk
from vlv.errors import DatasetError, ImageError
from vlv.files import atomic_file
from vlv.text import json_line, printable


def write_folder(samples: Iterable[Sample], folder: Path, *, keep_meta: bool = False) -> int:
    """Write images, caption files and `metadata.jsonl`; returns the number of samples.

    keep_meta: whether the lines of `metadata.jsonl` hold the samples' meta data too.

    Raises:
        DatasetError: a key leads out of the folder or occurs twice, or a sample has no caption.
    """
    keys: set[str] = set()
    with (
        atomic_file(folder / METADATA) as index,
        open(index, "w", encoding="utf-8", newline="\n") as metadata,
    ):
        for sample in samples:
            line = caption_line(sample)
            _check_key(sample.key, keys)
            image = folder / sample.file_name
            image.parent.mkdir(parents=True, exist_ok=True)
            image.write_bytes(sample.image)
            image.with_suffix(".txt").write_text(line + "\n", encoding="utf-8")
            meta = sample.meta if keep_meta else {}
            metadata.write(json_line({**meta, "file_name": sample.file_name, "text": line}))
            keys.add(sample.key)
    return len(keys)


def _check_key(key: str, taken: set[str]) -> None:
    path = PurePosixPath(key)
    if path.is_absolute() or ".." in path.parts:
        raise DatasetError(f"the key {key!r} leads out of the folder that is written; rename it")
    if key in taken:
        raise DatasetError(f"two samples have the key {key!r} and would share a caption file")


def read_folder(folder: Path, *, caption_extension: str = ".txt") -> Iterator[Sample]:
    """The images of a folder and its subfolders, linked ones too, in the order of their paths.

    A caption file beside an image takes precedence over `metadata.jsonl`. The other fields of the
    image's line in `metadata.jsonl` become `meta`. A warning names a caption file with several
    lines, of which one is the caption.

    Raises:
        DatasetError: there is no such folder, a file in it cannot be read, or `metadata.jsonl` is
            damaged or names an image that is missing.
    """
    if not folder.is_dir():
        raise DatasetError(f"there is no folder {printable(folder)}")
    metadata = read_metadata(folder)
    names = image_names(folder, metadata)
    warn_of_shared_captions(folder, names, caption_extension)
    several = []
    for name in names:
        entry = metadata.get(name, {})
        sample = read_sample(folder, name, entry, caption_extension)
        others = dict(entry)
        pop_caption(others)
        if sample.meta.get("texts") != others.get("texts"):
            several.append(name)
        yield sample
    warn_of_several_lines(folder, several)


def image_names(folder: Path, metadata: dict[str, dict[str, Any]]) -> list[str]:
    """The names of the images in a folder and its subfolders, in the order of their paths. Hidden
    files and folders are skipped. Linked folders are followed, each folder once.

    If an entry of `metadata` has another name for an image, through another link, it moves to the
    name that is returned. Folders that cannot be read and broken links give a warning.

    Raises:
        DatasetError: `metadata` names an image that is missing.
    """
    names, problems = [], []
    for path, problem in walk(folder, extensions=EXTENSIONS):
        if problem is None:
            names.append(PurePath(os.path.relpath(path, folder)).as_posix())
        else:
            problems.append(problem)
    if problems:
        more = f" (and {len(problems) - 1:,} more like it)" if len(problems) > 1 else ""
        warnings.warn(printable(problems[0]) + more, stacklevel=3)
    names.sort(key=lambda name: PurePosixPath(name).parts)
    if missing := sorted(set(metadata) - set(names)):
        by_place = {_place(folder, name): name for name in names}
        for other in missing:
            name = by_place.get(_place(folder, other))
            if name is None:
                where = printable(metadata_in(folder) or folder / METADATA)
                raise DatasetError(f"{where} names {printable(other)}, which is not in the folder")
            metadata.setdefault(name, metadata.pop(other))
    return names


def read_sample(
    folder: Path, name: str, entry: dict[str, Any], caption_extension: str = ".txt"
) -> Sample:
    """The image `name` of a folder, with its `entry` in metadata.jsonl.

    The first line of a caption file is the caption, as for trainers of image generators; if there
    are several, all of them become `texts` in `meta`.

    Raises:
        DatasetError: the image or its caption cannot be read.
    """
    path = folder / name
    meta = dict(entry)
    text = pop_caption(meta)
    sidecar = caption_file(path, caption_extension)
    lines: list[str] = []
    try:
        image = image_bytes(path)
        if sidecar.is_file():
            lines = caption_lines(sidecar.read_bytes())
    except ImageError as error:
        raise DatasetError(printable(str(error))) from error
    except OSError as error:
        raise DatasetError(
            f"{printable(error.filename)} cannot be read ({error.strerror})"
        ) from error
    except ValueError as error:
        raise DatasetError(
            f"{printable(sidecar)} is not UTF-8 text, nor in another encoding that is known; save "
            "it as UTF-8"
        ) from error
    # An empty caption file does not count.
    caption = (
        lines[0] if lines else parse_caption(text, printable(f"{name} in {folder / METADATA}"))
    )
    if len(lines) > 1:
        meta["texts"] = lines
    return Sample(
        key=name.removesuffix(path.suffix),
        image=image,
        extension=path.suffix,
        caption=caption,
        meta=meta,
    )


def caption_file(image: Path, extension: str = ".txt") -> Path:
    """The place of an image's caption file; where there is no `.txt`, the `.caption` that kohya's
    scripts write.
    """
    file, other = image.with_suffix(extension), image.with_suffix(".caption")
    # Of a name that leaves no room for the extension, neither is there.
    is_kohya = extension == ".txt" and not os.path.isfile(file) and os.path.isfile(other)
    return other if is_kohya else file


def several_lines(folder: Path, names: Iterable[str]) -> list[str]:
    """The names of images whose caption files hold several lines."""
    found = []
    for name in names:
        sidecar = caption_file(folder / name)
        # A file that cannot be read is reported when the sample is read.
        with suppress(OSError, ValueError):
            if sidecar.is_file() and len(caption_lines(sidecar.read_bytes())) > 1:
                found.append(name)
    return found


def warn_of_several_lines(folder: Path, names: Sequence[str], *, stacklevel: int = 3) -> None:
    """Warn that only the first line of these images' caption files is the caption."""
    if not names:
        return
    files = f"{len(names):,} caption files hold" if len(names) > 1 else "1 caption file holds"
    warnings.warn(
        f"in {printable(folder)}, {files} several lines (that of {printable(names[0])} first): the "
        "first line is the caption and all lines are `texts`; write a paragraph on one line if it "
        "is meant as a whole",
        stacklevel=stacklevel,
    )


def shared_stems(images: Iterable[Path]) -> dict[Path, list[Path]]:
    """Images whose captions would lie in the same file: path without suffix -> the images."""
    several = _with_one_stem(map(str, images))
    return {Path(stem): [*map(Path, files)] for stem, files in several.items()}


def _with_one_stem(files: Iterable[str]) -> dict[str, list[str]]:
    """Texts, of which there may be millions, in place of paths."""
    first: dict[str, str] = {}
    several: dict[str, list[str]] = {}
    for file in files:
        stem = os.path.splitext(file)[0]
        other = first.setdefault(stem, file)
        if other is not file:
            several.setdefault(stem, [other]).append(file)
    return several


def warn_of_shared_captions(
    folder: Path, names: Iterable[str], extension: str = ".txt", *, stacklevel: int = 3
) -> None:
    """Warn of images that have one caption file together, which may be true of one of them only.
    Those without a caption file share nothing.
    """
    found = [
        several
        for several in _with_one_stem(names).values()
        if caption_file(folder / several[0], extension).is_file()
    ]
    if not found:
        return
    *others, last = map(printable, found[0])
    more = f" (of {len(found):,} such files)" if found[1:] else ""
    warnings.warn(
        f"in {printable(folder)}, {', '.join(others)} and {last} share one caption file{more}. It "
        "may be wrong for all but one of them: give each image a name and a caption file of its "
        "own",
        stacklevel=stacklevel,
    )


def _place(folder: Path, name: str) -> tuple[str, str]:
    """The identity of an image: the same for all names of its folder."""
    parent, last = os.path.split(folder / name)
    return os.path.realpath(parent), last
