"""The dataset that a teacher captions: its images one by one, and the dataset with new captions.

A damaged image, caption or shard stops nothing else. Old captions are kept as `source_caption`.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from vlv.data.folder import write_folder
from vlv.data.folder_metadata import METADATA
from vlv.data.images import EXTENSIONS
from vlv.data.items import items, origins
from vlv.data.keys import Keys
from vlv.data.recaptioning import with_old_captions
from vlv.data.remote.samples import NOT_FETCHED
from vlv.data.samples import Sample
from vlv.data.sets import holds_only, remove_shards, write_set
from vlv.data.teacher.captioning import Item, image_hash
from vlv.data.teacher.request import Request
from vlv.data.walking import walk
from vlv.endpoints.ledger import FOLDER, KeptCaption, Ledger
from vlv.errors import ConfigError, DatasetError
from vlv.files import atomic_file, sha256_of
from vlv.text import json_line, printable

_SUFFIXES = {"webdataset": ".tar", "parquet": ".parquet"}

OutputFormat = Literal["jsonl", "folder", "webdataset", "parquet"]
Note = tuple[str, str, dict[str, Any]]
"""The name of an image, its hash in the ledger, and its meta data."""


def dataset_items(source: Path, leave_out: Path | None = None) -> Iterator[Item]:
    """Every image of a folder, of .tar shards or of parquet files, each with a name. Its captions
    become meta data.

    Raises:
        DatasetError: nothing readable is there.
        ConfigError: pyarrow is needed and not installed.
    """
    for item in items(origins([source]), leave_out=leave_out):
        yield item.name, with_old_captions(item.sample)


def check_target(source: Path, target: Path, format: OutputFormat) -> None:
    """Raise ConfigError for a folder that holds something else than results in this format."""
    if target.exists() and not target.is_dir():
        raise ConfigError(
            f"{printable(target)} exists already and is no folder; choose another name"
        )
    if not target.is_dir():
        return
    if (target / FOLDER).is_dir():
        _check_layout(target, format)
        return
    if os.path.realpath(target) == os.path.realpath(source):
        raise ConfigError("SRC and DST are one folder; name a new folder for the captions")
    if format == "jsonl" or format == "folder":
        taken = any(target.iterdir())
    else:
        taken = not holds_only(target, format)
    if taken:
        raise ConfigError(f"{printable(target)} holds other files already; name a new folder")


def _check_layout(target: Path, format: OutputFormat) -> None:
    """Raise ConfigError where readers would take an earlier result for this one, or mix both."""
    names = {path.suffix for path in target.iterdir()}
    there = {layout for layout, suffix in _SUFFIXES.items() if suffix in names}
    if next(walk(target, extensions=EXTENSIONS), None) is not None:
        there.add("folder")
    others = sorted(there - {format} if format != "jsonl" else there & {"folder"})
    if others:
        raise ConfigError(
            f"{printable(target)} holds captions in the layout {others[0]}; give --output-format "
            f"{others[0]}, and write another layout of it with vlv data convert"
        )


@dataclass
class Written:
    """captions: images with one. not_asked: images that the ledger does not know."""

    captions: int = 0
    not_asked: int = 0


def noted(items: Iterator[Item], path: Path) -> Iterator[Item]:
    """The items, each of which leaves a line in a file, so that no image is read again to name it.

    The file is whole when the last item was asked for.
    """
    with open(path, "w", encoding="utf-8") as out:
        for name, sample in items:
            if isinstance(sample, Sample):
                out.write(json.dumps([name, image_hash(sample), sample.meta]) + "\n")
            yield name, sample


def notes(path: Path) -> Iterator[Note]:
    """What `noted` wrote of each image."""
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            name, image, meta = json.loads(line)
            yield name, image, meta


def notes_of(items: Iterator[Item]) -> Iterator[Note]:
    """What `noted` writes, of images that are read again."""
    for name, sample in _read_again(items):
        yield name, image_hash(sample), sample.meta


def _read_again(items: Iterator[Item]) -> Iterator[tuple[str, Sample]]:
    """The images of a dataset whose captions are paid. Raises DatasetError where a store does not
    give a file again: a result without its images would look whole.
    """
    for name, sample in items:
        if isinstance(sample, Sample):
            yield name, sample
        elif sample.reason == NOT_FETCHED:
            raise DatasetError(sample.message)


def write_lines(notes: Iterator[Note], ledger: Ledger, request: Request, target: Path) -> Written:
    """Write `metadata.jsonl` with a line for each image that has a caption."""
    written = Written()
    with (
        atomic_file(target / METADATA) as unfinished,
        open(unfinished, "w", encoding="utf-8") as out,
    ):
        for name, image, meta in notes:
            if (found := _answer(ledger, image, written)) is not None:
                about = {**meta, "teacher": provenance(found, request)}
                out.write(json_line({**about, "file_name": name, "text": found.caption}))
    return written


def write_captioned(
    items: Iterator[Item],
    ledger: Ledger,
    request: Request,
    target: Path,
    format: str,
    *,
    shard_size: int,
) -> Written:
    """Write the images that have captions as a dataset, each with its provenance. What an earlier
    run wrote of images that the dataset has lost is removed.
    """
    written = Written()
    files: set[str] = set()

    def captioned() -> Iterator[Sample]:
        keys = Keys(format)
        for _, sample in _read_again(items):
            if (found := _answer(ledger, image_hash(sample), written)) is not None:
                if format != "folder" and written.captions % shard_size == 1 % shard_size:
                    keys = Keys(format)  # of the next shard
                meta = {**sample.meta, "teacher": provenance(found, request)}
                named = keys.named(replace(sample, caption=found.caption, meta=meta))
                if format == "folder":
                    files.update((named.file_name, f"{named.key}.txt"))
                yield named

    if format == "folder":
        write_folder(captioned(), target, keep_meta=True)
        _remove_lost(target, files, ledger)
    else:
        write_set(captioned(), target, format=format, shard_size=shard_size)
        # Of a run with more images, or with smaller shards.
        remove_shards(target, format, -(-written.captions // shard_size))
    return written


def _remove_lost(target: Path, files: set[str], ledger: Ledger) -> None:
    """Remove captioned images, with their caption files, that are not among these files. Other
    files that lie in the folder stay.
    """
    for path, problem in walk(target, extensions=EXTENSIONS):
        image = Path(path)
        if problem or _name_in(target, image) in files or ledger.caption(sha256_of(image)) is None:
            continue
        image.unlink()
        text = image.with_suffix(".txt")
        if _name_in(target, text) not in files:  # else it belongs to an image that was written
            text.unlink(missing_ok=True)


def _name_in(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix()


def _answer(ledger: Ledger, image: str, written: Written) -> KeptCaption | None:
    """The caption of an image in the ledger, counted; None if there is none."""
    found = ledger.caption(image)
    if found is None:
        written.not_asked += ledger.refusal(image) is None
    else:
        written.captions += 1
    return found


def provenance(found: KeptCaption, request: Request) -> dict[str, Any]:
    """Where a caption comes from."""
    about = asdict(found)
    del about["caption"]
    return {"model": request.model, "request": request.fingerprint, **about}
