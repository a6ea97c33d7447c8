"""The dataset that a teacher captions: its images one by one, and the dataset with new captions.

A damaged image, caption or shard stops nothing else. Old captions are kept as `source_caption`.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path, PurePath
from typing import Any, Literal

from vlv.data.folder import METADATA, metadata_line
from vlv.data.images import EXTENSIONS, image_bytes
from vlv.data.recaptioning import Unusable, old_text, recaptioned, renamed
from vlv.data.samples import Sample
from vlv.data.sets import detect_format, files_of, holds_only, write_set
from vlv.data.teacher.captioning import Item, image_hash
from vlv.data.teacher.request import Request
from vlv.data.walking import walk
from vlv.endpoints.ledger import FOLDER, Captioned, Ledger
from vlv.errors import ConfigError, DatasetError, ImageError
from vlv.files import atomic_file
from vlv.text import decode_text, printable

OutputFormat = Literal["jsonl", "folder", "webdataset", "parquet"]


def dataset_items(source: Path, leave_out: Path | None = None) -> Iterator[Item]:
    """Every image of a folder, of .tar shards or of parquet files, each with a name.

    Raises:
        DatasetError: nothing readable is there.
        ConfigError: pyarrow is needed and not installed.
    """
    format = detect_format(source)
    if format == "folder":
        yield from _folder_items(source, leave_out)
        return
    for file in files_of(source, format):
        for sample in recaptioned(file):
            inside = sample.name if isinstance(sample, Unusable) else sample.file_name
            yield f"{file.name}/{inside}", sample


def _folder_items(folder: Path, leave_out: Path | None) -> Iterator[Item]:
    entries = _old_entries(folder)
    for path, problem in walk(folder, leave_out=leave_out, extensions=EXTENSIONS):
        name = PurePath(os.path.relpath(path, folder)).as_posix()
        if problem is not None:
            yield name, Unusable(printable(name), printable(problem), "unreadable")
            continue
        try:
            image = image_bytes(path)
        except ImageError as error:
            yield name, Unusable(printable(name), printable(str(error)), error.reason)
            continue
        entry = entries.get(name, {})
        old = _old_caption(Path(path)) or old_text(entry.pop("text", None))
        extension = PurePath(name).suffix
        yield name, Sample(name.removesuffix(extension), image, extension, old, renamed(entry, old))


def _old_entries(folder: Path) -> dict[str, dict[str, Any]]:
    """Of `metadata.jsonl`, the lines that can be read."""
    entries: dict[str, dict[str, Any]] = {}
    text = ""
    with suppress(OSError, ValueError):
        text = decode_text((folder / METADATA).read_bytes())
    for line in filter(str.strip, text.split("\n")):
        with suppress(DatasetError):
            name, record = metadata_line(line, METADATA, folder)
            entries[name] = {key: value for key, value in record.items() if key != "file_name"}
    return entries


def _old_caption(image: Path) -> str | None:
    with suppress(OSError):
        return old_text(image.with_suffix(".txt").read_bytes())
    return None


def check_target(source: Path, target: Path, format: OutputFormat) -> None:
    """Raise ConfigError for a folder that holds something else than results in this format."""
    if target.exists() and not target.is_dir():
        raise ConfigError(
            f"{printable(target)} exists already and is no folder; choose another name"
        )
    if not target.is_dir() or (target / FOLDER).is_dir():
        return
    if os.path.realpath(target) == os.path.realpath(source):
        raise ConfigError("SRC and DST are one folder; name a new folder for the captions")
    if format == "jsonl" or format == "folder":
        taken = any(target.iterdir())
    else:
        taken = not holds_only(target, format)
    if taken:
        raise ConfigError(f"{printable(target)} holds other files already; name a new folder")


def write_captioned(
    items: Iterator[Item],
    ledger: Ledger,
    request: Request,
    target: Path,
    format: OutputFormat,
    *,
    shard_size: int,
    seen: Callable[[], None] = lambda: None,
) -> int:
    """Write the images of the ledger that have captions, each with its provenance.

    jsonl: `metadata.jsonl` alone, which names the images. Otherwise a dataset that holds them.
    seen: called for each item. Returns the number of captions.
    """
    samples = _captioned(items, ledger, request, seen)
    if format != "jsonl":
        return write_set((one for _, one in samples), target, format=format, shard_size=shard_size)
    count = 0
    with (
        atomic_file(target / METADATA) as unfinished,
        open(unfinished, "w", encoding="utf-8") as out,
    ):
        for name, sample in samples:
            record = {**sample.meta, "file_name": name, "text": sample.caption}
            out.write(json.dumps(record, ensure_ascii=False) + "\n")
            count += 1
    return count


def _captioned(
    items: Iterator[Item], ledger: Ledger, request: Request, seen: Callable[[], None]
) -> Iterator[tuple[str, Sample]]:
    for name, sample in items:
        seen()
        if isinstance(sample, Unusable):
            continue
        found = ledger.caption(image_hash(sample))
        if found is not None:
            meta = {**sample.meta, "teacher": provenance(found, request)}
            yield name, replace(sample, caption=found.caption, meta=meta)


def provenance(found: Captioned, request: Request) -> dict[str, Any]:
    """Where a caption comes from."""
    about = asdict(found)
    del about["caption"]
    return {"model": request.model, "request": request.fingerprint, **about}
