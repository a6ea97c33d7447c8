"""Images in a folder: captions beside them and in `metadata.jsonl`.

`a.png` has its caption in `a.txt` (one line), as trainers of image generators want it, and in
`metadata.jsonl` (`{"file_name", "text"}`), as Hugging Face's ImageFolder wants it.
"""

import json
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from vlv.data.files import atomic_file
from vlv.data.images import EXTENSIONS
from vlv.data.samples import Sample, caption_line, parse_object, parse_text
from vlv.errors import DatasetError

METADATA = "metadata.jsonl"


def write_folder(samples: Iterable[Sample], folder: Path) -> int:
    """Write images, sidecar captions and `metadata.jsonl`; the number of samples is returned."""
    count = 0
    with (
        atomic_file(folder / METADATA) as index,
        open(index, "w", encoding="utf-8", newline="\n") as metadata,
    ):
        for sample in samples:
            line = caption_line(sample)
            image = folder / sample.file_name
            image.parent.mkdir(parents=True, exist_ok=True)
            image.write_bytes(sample.image)
            image.with_suffix(".txt").write_text(line + "\n", encoding="utf-8")
            entry = {"file_name": sample.file_name, "text": line}
            metadata.write(json.dumps(entry, ensure_ascii=False) + "\n")
            count += 1
    return count


def read_folder(folder: Path, *, caption_extension: str = ".txt") -> Iterator[Sample]:
    """The images of a folder and its sub-folders, in the order of their paths.

    A caption file beside an image goes before `metadata.jsonl`; the other fields of its line
    there, if there is one, become `meta`.

    Raises:
        DatasetError: `metadata.jsonl` is damaged or names an image that is missing.
    """
    metadata = _read_metadata(folder)
    paths = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in EXTENSIONS and not path.name.startswith(".")
    )
    names = {path.relative_to(folder).as_posix() for path in paths}
    missing = sorted(set(metadata) - names)
    if missing:
        raise DatasetError(f"{folder / METADATA} names {missing[0]}, which is not in the folder")
    _warn_of_shared_captions(paths)
    for path in paths:
        name = path.relative_to(folder).as_posix()
        meta = metadata.get(name, {})
        caption = meta.pop("text", None)
        sidecar = path.with_suffix(caption_extension)
        if sidecar.is_file():
            caption = parse_text(sidecar.read_bytes(), str(sidecar))
        yield Sample(
            key=name.removesuffix(path.suffix),
            image=path.read_bytes(),
            extension=path.suffix,
            caption=caption or None,
            meta=meta,
        )


def _read_metadata(folder: Path) -> dict[str, dict[str, Any]]:
    """file_name -> the other fields of its line."""
    path = folder / METADATA
    if not path.is_file():
        return {}
    entries: dict[str, dict[str, Any]] = {}
    lines = parse_text(path.read_bytes(), str(path)).splitlines()
    for number, line in enumerate(lines, start=1):
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
