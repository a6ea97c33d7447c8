"""The dataset that a teacher captions: its images one by one, and the dataset with new captions.

A damaged image, caption or shard stops nothing else. Old captions are kept as `source_caption`.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from vlv.data.folder import METADATA
from vlv.data.items import items, origins
from vlv.data.lenient import Unusable
from vlv.data.recaptioning import with_old_captions
from vlv.data.samples import Sample
from vlv.data.sets import holds_only, write_set
from vlv.data.teacher.captioning import Item, image_hash
from vlv.data.teacher.request import Request
from vlv.endpoints.ledger import FOLDER, Captioned, Ledger
from vlv.errors import ConfigError
from vlv.files import atomic_file
from vlv.text import printable

OutputFormat = Literal["jsonl", "folder", "webdataset", "parquet"]


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


@dataclass
class Written:
    """captions: images with one. not_asked: images that the ledger does not know."""

    captions: int = 0
    not_asked: int = 0


def write_captioned(
    items: Iterator[Item],
    ledger: Ledger,
    request: Request,
    target: Path,
    format: OutputFormat,
    *,
    shard_size: int,
) -> Written:
    """Write the images of the ledger that have captions, each with its provenance.

    jsonl: `metadata.jsonl` alone, which names the images. Otherwise a dataset that holds them.
    """
    written = Written()
    samples = _captioned(items, ledger, request, written)
    if format != "jsonl":
        write_set((one for _, one in samples), target, format=format, shard_size=shard_size)
        return written
    with (
        atomic_file(target / METADATA) as unfinished,
        open(unfinished, "w", encoding="utf-8") as out,
    ):
        for name, sample in samples:
            record = {**sample.meta, "file_name": name, "text": sample.caption}
            out.write(json.dumps(record, ensure_ascii=False) + "\n")
    return written


def _captioned(
    items: Iterator[Item], ledger: Ledger, request: Request, written: Written
) -> Iterator[tuple[str, Sample]]:
    for name, sample in items:
        if isinstance(sample, Unusable):
            continue
        image = image_hash(sample)
        found = ledger.caption(image)
        if found is None:
            written.not_asked += ledger.refusal(image) is None
        else:
            written.captions += 1
            meta = {**sample.meta, "teacher": provenance(found, request)}
            yield name, replace(sample, caption=found.caption, meta=meta)


def provenance(found: Captioned, request: Request) -> dict[str, Any]:
    """Where a caption comes from."""
    about = asdict(found)
    del about["caption"]
    return {"model": request.model, "request": request.fingerprint, **about}
