"""The images of one shard, still encoded, in a fixed order. A bad image stops no other image.

A `Refused` takes the place of a damaged sample or file, so that nothing is lost silently.

An `ImageInput` of a job has a name that is unique in the job and a safe path inside any folder, and
a key that is unique in its shard and has no dot in its last part.
"""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from vlv.data.images import EXTENSIONS, extension_of, image_bytes
from vlv.data.lenient import Unusable, sample_of_cells
from vlv.data.recaptioning import with_old_captions
from vlv.data.remote.samples import fetched_rows, fetched_shard
from vlv.data.samples import Sample
from vlv.data.tables import columns_of
from vlv.errors import ImageError
from vlv.inference.bulk.image_names import KEPT
from vlv.inference.bulk.layout import Kind, load_dataset
from vlv.inference.bulk.output import GONE
from vlv.inference.bulk.plan import NAMES, Shard, freed_names
from vlv.inference.records import ImageInput, Refused
from vlv.text import printable


def read_shard(
    source: str,
    kind: Kind,
    shard: Shard,
    plan_folder: Path,
    *,
    bytes_needed: bool,
    keeps: Callable[[str], bool] = lambda name: True,
) -> Iterator[ImageInput | Refused]:
    """The images of a shard.

    Args:
        source: of the whole job, as for `vlv.inference.bulk.plan`.
        kind: the layout of the source.
        shard: a shard of the plan.
        plan_folder: the folder of the plan.
        bytes_needed: read images of a folder here, because they are written again; otherwise the
            decoder reads them.
        keeps: whether an image that had a caption when it was planned keeps it.
    """
    if kind == "folder":
        return _of_folder(Path(source), shard, plan_folder, bytes_needed, keeps)
    if kind == "webdataset":
        return _of_tar(shard)
    return _of_table(shard) if kind == "parquet" else _of_dataset(source, shard)


def _of_folder(
    root: Path,
    shard: Shard,
    plan_folder: Path,
    bytes_needed: bool,
    keeps: Callable[[str], bool],
) -> Iterator[ImageInput | Refused]:
    freed = set(freed_names(plan_folder))
    with open(plan_folder / NAMES, "rb") as names:
        names.seek(shard.first)
        for index in range(shard.images or 0):
            name, *refused = json.loads(names.readline())
            # What the plan refused may need a caption by now.
            reason = refused[0] if refused else None
            is_there = reason == "unreadable" and (root / name).is_file()
            can_be_done = is_there or name in freed
            if refused and not can_be_done and (reason != KEPT or keeps(name)):
                yield Refused(name, *refused)
                continue
            item = ImageInput(name, root / name, _key(shard, index))
            yield _with_bytes(item, root / name) if bytes_needed else item


def _with_bytes(item: ImageInput, path: Path) -> ImageInput | Refused:
    try:
        return replace(item, image=image_bytes(path))
    except ImageError as error:
        if not os.path.lexists(path):
            return gone(item.name)
        return Refused(item.name, error.reason, printable(str(error)))


def gone(name: str) -> Refused:
    """The refusal of an image that its folder no longer holds."""
    return Refused(name, GONE, f"{printable(name)} is no longer there")


def _of_tar(shard: Shard) -> Iterator[ImageInput | Refused]:
    for sample in map(with_old_captions, fetched_shard(shard.file or "")):
        if isinstance(sample, Unusable):
            yield Refused(f"{shard.name}/{sample.name}", sample.reason, sample.message)
        else:
            name = f"{shard.name}/{sample.file_name}"
            yield ImageInput(name, sample.image, sample.key, sample.meta)


def _of_table(shard: Shard) -> Iterator[ImageInput | Refused]:
    groups = range(*shard.groups) if shard.groups else None
    for row, sample in fetched_rows(shard.file or "", groups, shard.first):
        yield _of_row(shard, row - shard.first, with_old_captions(sample))


def _of_dataset(source: str, shard: Shard) -> Iterator[ImageInput | Refused]:
    from pyarrow import ArrowException  # which `datasets` brings

    dataset, caption = _dataset(source)
    for index in range(shard.images or 0):
        row = shard.first + index
        try:
            values = dataset[row]
        except (ValueError, ArrowException) as error:  # such as text that is not UTF-8
            message = f"row {row} of {source} cannot be read ({error})"
            yield Refused(f"{shard.name}/{index:06d}", "bad-sample", message)
            continue
        image = values["image"] or {}
        if image.get("bytes") is None and image.get("path"):
            path = Path(image["path"])
            name = f"{shard.name}/{index:06d}{path.suffix.lower()}"
            yield _with_bytes(ImageInput(name, path, _key(shard, index)), path)
        else:
            old = values[caption] if caption else None
            sample = sample_of_cells(Path(source), row, image.get("bytes"), None, old, None)
            yield _of_row(shard, index, with_old_captions(sample))


@lru_cache(maxsize=1)
def _dataset(source: str) -> tuple[Any, str | None]:
    """The columns that are read of a dataset, and the name of that of captions. All shards share
    it: opening it opens each of its files.
    """
    dataset = load_dataset(source)
    caption = columns_of(Path(source), dataset.column_names).caption
    return dataset.select_columns(["image", *([caption] if caption else [])]), caption


def _of_row(shard: Shard, index: int, sample: Sample | Unusable) -> ImageInput | Refused:
    name = f"{shard.name}/{index:06d}"
    if isinstance(sample, Unusable):
        return Refused(name, sample.reason, sample.message)
    extension = sample.extension.lower()
    if extension not in EXTENSIONS:
        extension = extension_of(sample.image)
    return ImageInput(name + extension, sample.image, _key(shard, index), sample.meta)


def _key(shard: Shard, index: int) -> str:
    """A key as img2dataset writes it: five digits for the shard and four for the place in it."""
    return f"{shard.name}{index:04d}"
