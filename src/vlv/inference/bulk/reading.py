"""The images of one shard, still encoded, in a fixed order; a bad one costs itself alone.

Knows the layouts of sources; decodes nothing. What is wrong with one sample, or with a whole file,
comes as a `Refused` in its place, so that nothing is lost silently.
"""

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from vlv.data.images import EXTENSIONS, MAX_FILE_BYTES, extension_of
from vlv.data.samples import Sample
from vlv.data.shards import check_complete, check_member, sample_of_members, without_gaps
from vlv.data.tables import caption_column, holds_text, import_pyarrow, sample_of_row
from vlv.errors import DatasetError
from vlv.inference.bulk.plan import NAMES, Kind, Shard, load_dataset
from vlv.inference.sources import Refused

_ROWS = 64


@dataclass(frozen=True)
class Item:
    """An image to caption. `name` is unique in the job and a safe path inside any folder; `key`
    is unique in its shard and has no dot in its last part.
    """

    name: str
    key: str
    image: Path | bytes
    meta: dict[str, Any] = field(default_factory=dict)


def read_shard(
    source: str, kind: Kind, shard: Shard, plan_folder: Path, *, bytes_needed: bool
) -> Iterator[Item | Refused]:
    """What a shard holds, one for each image.

    Args:
        source: the whole job's, as `vlv.inference.bulk.plan` takes it.
        kind: its layout.
        shard: of its plan.
        plan_folder: where the plan lies.
        bytes_needed: whether images of a folder are read here, because they are written again, and
            not where they are decoded.
    """
    if kind == "folder":
        return _of_folder(Path(source), shard, plan_folder, bytes_needed)
    if kind == "webdataset":
        return _of_tar(shard)
    return _of_table(shard) if kind == "parquet" else _of_dataset(source, shard)


def _of_folder(
    root: Path, shard: Shard, plan_folder: Path, bytes_needed: bool
) -> Iterator[Item | Refused]:
    with open(plan_folder / NAMES, "rb") as names:
        names.seek(shard.first)
        for index in range(shard.images or 0):
            name, *refused = json.loads(names.readline())
            if refused:
                yield Refused(name, *refused)
                continue
            item = Item(name, _key(shard, index), root / name)
            yield _with_bytes(item, root / name) if bytes_needed else item


def _with_bytes(item: Item, path: Path) -> Item | Refused:
    try:
        # More than an image may have is left to the decoder to refuse.
        with path.open("rb") as file:
            return Item(item.name, item.key, file.read(MAX_FILE_BYTES + 1))
    except OSError as error:
        return Refused(item.name, "unreadable", f"{path} cannot be read ({error.strerror})")


def _of_tar(shard: Shard) -> Iterator[Item | Refused]:
    path = Path(shard.file or "")
    keys: set[str] = set()
    for key, members, problem in _groups(path):
        name = f"{shard.name}/{key}"
        if problem is None and key in keys:
            problem = f"the shard {path} holds {key!r} twice"
        if problem is None:
            try:
                sample = sample_of_members(path, key, members)
            except DatasetError as error:
                problem = str(error)
        if problem is not None:
            yield Refused(name, "bad-sample", problem)
            continue
        keys.add(key)
        yield Item(name + sample.extension, key, sample.image, _meta(sample))


def _groups(path: Path) -> Iterator[tuple[str, dict[str, bytes], str | None]]:
    """(key, extension -> content, what is wrong) of the samples of a tar archive, and wherever it
    is damaged one more that says so.
    """
    key, members, problem, count = "", {}, None, 0  # type: str, dict[str, bytes], str | None, int
    gaps = 0
    try:
        # "r:" reads plain tar only: a compressed one could grow without bound.
        with tarfile.open(path, "r:", ignore_zeros=True) as tar:
            for member in without_gaps(path, tar):
                if isinstance(member, DatasetError):
                    gaps += 1
                    yield f"damaged-{gaps}", {}, str(member)
                    continue
                # tarfile keeps every header it has seen; a shard is read once.
                tar.members = []  # type: ignore[attr-defined]
                place = PurePosixPath(member.name)
                stem, dot, extension = place.name.partition(".")
                if member.isdir() or not stem:
                    continue
                this_key = place.with_name(stem).as_posix()
                if this_key != key:
                    if key:
                        yield key, members, problem
                    key, members, problem, count = this_key, {}, None, count + 1
                try:
                    check_member(path, member)
                except DatasetError as error:
                    problem = str(error)
                    continue
                if (dot + extension).lower() in (*EXTENSIONS, ".txt", ".json"):
                    content = tar.extractfile(member)
                    assert content is not None  # it is a regular file
                    members[(dot + extension).lower()] = content.read()
            if key:
                yield key, members, problem
            if not gaps:
                check_complete(path, count)
    except (tarfile.TarError, OSError, EOFError, DatasetError) as error:
        after = f"; samples from {key} on may be lost" if key else ""
        yield "damaged", {}, f"the shard {path} is damaged ({error}){after}"


def _of_table(shard: Shard) -> Iterator[Item | Refused]:
    pa, pq = import_pyarrow()
    path, index, images = Path(shard.file or ""), 0, shard.images or 0
    try:
        with pq.ParquetFile(path) as file:
            caption = caption_column(path, file.schema_arrow.names)
            columns = ["image", *([caption] if caption else [])]
            columns += ["meta"] if holds_text(pa, file.schema_arrow, "meta") else []
            groups = range(*(shard.groups or (0, 0)))
            batches = file.iter_batches(_ROWS, groups, columns, use_threads=False)
            for batch in batches:
                for values in batch.to_pylist():
                    yield _of_row(shard, index, path, values, caption)
                    index += 1
    except (pa.ArrowException, OSError) as error:
        message = f"{path} is damaged ({error})"
        for lost in range(index, images):
            yield Refused(f"{shard.name}/{lost:06d}", "bad-sample", message)


def _of_dataset(source: str, shard: Shard) -> Iterator[Item | Refused]:
    dataset = load_dataset(source)
    caption = caption_column(Path(source), dataset.column_names)
    dataset = dataset.select_columns(["image", *([caption] if caption else [])])
    for index in range(shard.images or 0):
        values = dataset[shard.first + index]
        image = values["image"] or {}
        if image.get("bytes") is None and image.get("path"):
            path = Path(image["path"])
            name = f"{shard.name}/{index:06d}{path.suffix.lower()}"
            yield _with_bytes(Item(name, _key(shard, index), path), path)
        else:
            yield _of_row(shard, index, Path(source), values, caption)


def _of_row(
    shard: Shard, index: int, path: Path, values: dict[str, Any], caption: str | None
) -> Item | Refused:
    name = f"{shard.name}/{index:06d}"
    try:
        sample = sample_of_row(path, shard.first + index, values, caption)
    except DatasetError as error:
        return Refused(name, "bad-sample", str(error))
    extension = sample.extension.lower()
    if extension not in EXTENSIONS:
        extension = extension_of(sample.image)
    return Item(name + extension, _key(shard, index), sample.image, _meta(sample))


def _meta(sample: Sample) -> dict[str, Any]:
    """What the source says of an image; a caption there is kept under another name than ours."""
    own = {"source_caption": sample.caption} if sample.caption else {}
    return {name: value for name, value in sample.meta.items() if name != "caption"} | own


def _key(shard: Shard, index: int) -> str:
    """As img2dataset's: five digits for the shard and four for the place in it."""
    return f"{shard.name}{index:04d}"
