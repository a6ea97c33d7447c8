"""Images in a folder: captions beside them and in `metadata.jsonl`.

`a.png` has its caption in `a.txt` (one line), as trainers of image generators want it, and in
`metadata.jsonl` (`{"file_name", "text"}`), as Hugging Face's ImageFolder wants it.
"""

import json
import warnings
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from vlv.data.images import EXTENSIONS
from vlv.data.samples import Sample, caption_line, parse_caption, parse_object, parse_text
from vlv.errors import DatasetError
from vlv.files import atomic_file

METADATA = "metadata.jsonl"


def write_folder(samples: Iterable[Sample], folder: Path) -> int:
    """Write images, sidecar captions and `metadata.jsonl`; the number of samples is returned.

    Raises:
        DatasetError: a key leaves the folder or comes twice, or a sample has no caption.
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
            entry = {"file_name": sample.file_name, "text": line}
            metadata.write(json.dumps(entry, ensure_ascii=False) + "\n")
            keys.add(sample.key)
    return len(keys)


def _check_key(key: str, taken: set[str]) -> None:
    path = PurePosixPath(key)
    if path.is_absolute() or ".." in path.parts:
        raise DatasetError(f"the key {key!r} leads out of the folder that is written; rename it")
    if key in taken:
        raise DatasetError(f"two samples have the key {key!r} and would share a caption file")


def read_folder(folder: Path, *, caption_extension: str = ".txt") -> Iterator[Sample]:
    """The images of a folder and its sub-folders, in the order of their paths.

    A caption file beside an image goes before `metadata.jsonl`; the other fields of its line
    there, if there is one, become `meta`.

    Raises:
        DatasetError: there is no such folder, a file in it cannot be read, or `metadata.jsonl` is
            damaged or names an image that is missing.
    """
    if not folder.is_dir():
        raise DatasetError(f"there is no folder {folder}")
    metadata = read_metadata(folder)
    names = image_names(folder, metadata)
    _warn_of_shared_captions([folder / name for name in names])
    for name in names:
        yield read_sample(folder, name, metadata.get(name, {}), caption_extension)


def image_names(folder: Path, metadata: Collection[str]) -> list[str]:
    """Names below `folder` of its images and those of its sub-folders, in the order of their paths;
    hidden files and folders are left out.

    Raises:
        DatasetError: `metadata` names one that is missing.
    """
    paths = sorted(
        path.relative_to(folder)
        for path in folder.rglob("*")
        if path.suffix.lower() in EXTENSIONS and not path.is_dir()
    )
    names = [
        path.as_posix() for path in paths if not any(part.startswith(".") for part in path.parts)
    ]
    if missing := sorted(set(metadata) - set(names)):
        raise DatasetError(f"{folder / METADATA} names {missing[0]}, which is not in the folder")
    return names


def read_sample(
    folder: Path, name: str, entry: dict[str, Any], caption_extension: str = ".txt"
) -> Sample:
    """The image `name` of a folder, with what its line of metadata.jsonl says (`entry`).

    Of a caption file with several lines the first is the caption, as for trainers of image
    generators; all of them are the meta data's `texts`.

    Raises:
        DatasetError: it, or its caption, cannot be read.
    """
    path = folder / name
    meta = dict(entry)
    caption = parse_caption(meta.pop("text", None), f"{name} in {folder / METADATA}")
    sidecar = path.with_suffix(caption_extension)
    try:
        image = path.read_bytes()
        if sidecar.is_file():
            text = parse_text(sidecar.read_bytes(), str(sidecar))
            texts = [line for line in map(str.strip, text.split("\n")) if line]
            caption = texts[0] if texts else None
            if len(texts) > 1:
                meta["texts"] = texts
    except OSError as error:
        raise DatasetError(f"{error.filename} cannot be read ({error.strerror})") from error
    return Sample(
        key=name.removesuffix(path.suffix),
        image=image,
        extension=path.suffix,
        caption=caption,
        meta=meta,
    )


def read_metadata(folder: Path) -> dict[str, dict[str, Any]]:
    """file_name -> the other fields of its line."""
    path = folder / METADATA
    if not path.is_file():
        return {}
    entries: dict[str, dict[str, Any]] = {}
    # `splitlines` would also split at signs that JSON allows in a text.
    lines = parse_text(path.read_bytes(), str(path)).split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        entry = parse_object(line, f"line {number} of {path}")
        name = entry.pop("file_name", None)
        if not isinstance(name, str):
            raise DatasetError(f"line {number} of {path} has no file_name")
        entries[Path(name).as_posix()] = entry
    return entries


def _warn_of_shared_captions(paths: list[Path]) -> None:
    seen: dict[Path, Path] = {}
    for path in paths:
        other = seen.setdefault(path.with_suffix(""), path)
        if other is not path:
            warnings.warn(f"{other} and {path.name} share one caption file", stacklevel=3)
