"""The images of datasets in any layout, one by one, each with a name and a place to go on from.

A damaged image, caption or shard stops nothing else: an `Unusable` takes its place. Decodes
nothing.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path, PurePath
from typing import Any

from vlv.data.folder import caption_file
from vlv.data.folder_metadata import METADATA, metadata_files, pop_caption, read_metadata
from vlv.data.images import image_bytes
from vlv.data.lenient import Unusable, old_caption, with_readable_caption, writable
from vlv.data.remote.locations import (
    RemoteFile,
    SetFile,
    address_of,
    anywhere,
    asked_of_each,
    on_disk,
)
from vlv.data.remote.samples import lenient_samples, stats_of
from vlv.data.remote.tables import footer
from vlv.data.samples import Sample, lines_with_text, parse_text
from vlv.data.set_index import set_hash, state_of
from vlv.data.sets import detect_format, files_of, folder_of
from vlv.data.shards import extension_and_key
from vlv.data.tars import Gap, read_members
from vlv.data.walking import walk
from vlv.errors import DatasetError, ImageError
from vlv.text import printable

# Files that a sample is taken from.
_SAMPLED_FILES = 20

Place = tuple[int, int]
"""The number of an origin, and the number of an item in it."""


@dataclass(frozen=True)
class Origin:
    """A file that holds many images, or a folder of images."""

    path: SetFile
    format: str
    """One of `vlv.data.sets.FORMATS`."""

    @property
    def folder(self) -> Path | None:
        """The folder of images; None of a file, which may be in a store."""
        return self.path if self.format == "folder" and isinstance(self.path, Path) else None


@dataclass(frozen=True)
class Item:
    """What is at one place of a dataset, under a name that a person finds it by."""

    place: Place
    name: str
    sample: Sample | Unusable


def with_readable_captions(found: Iterable[Item]) -> Iterator[Item]:
    """The items, for work that keeps their captions: a sample of a shard or a table whose caption
    cannot be read is refused, as that of a folder is.
    """
    return (replace(item, sample=with_readable_caption(item.sample)) for item in found)


def origins(sources: Sequence[Path]) -> list[Origin]:
    """The files and folders that datasets consist of, in the order of their items.

    Raises:
        DatasetError: nothing readable is there.
    """
    found = []
    for source in sources:
        format = detect_format(source)
        paths = [folder_of(source)] if format == "folder" else files_of(source, format)
        found += [Origin(path, format) for path in paths]
    return found


def items(
    parts: Sequence[Origin], *, start: Place = (0, 0), leave_out: Path | None = None
) -> Iterator[Item]:
    """Every image of the origins, from `start` on.

    leave_out: a folder in a source that is not searched, such as that of the results.

    Raises:
        ConfigError: pyarrow is needed and not installed.
    """
    for number in range(start[0], len(parts)):
        first = start[1] if number == start[0] else 0
        found = _inside(parts[number], first, leave_out)
        for index, (name, sample) in enumerate(found, start=first):
            yield Item((number, index), name, sample)


def sampled_items(
    parts: Sequence[Origin], most: int, total: int, *, leave_out: Path | None = None
) -> Iterator[Item]:
    """About `most` of `total` images, spread over folders, and over the beginnings of files; all if
    there are no more.
    """
    if total <= most:
        yield from items(parts, leave_out=leave_out)
        return
    files = range(0, len(parts), max(1, len(parts) // _SAMPLED_FILES))
    each = -(-most // len(files))
    for number in files:
        origin = parts[number]
        step = max(1, total // len(parts) // each) if origin.folder else 1
        found = islice(_inside(origin, 0, leave_out, step), each)
        for index, (name, sample) in enumerate(found):
            yield Item((number, index), name, sample)


def count_items(parts: Iterable[Origin], *, leave_out: Path | None = None) -> int:
    """The number of images, by names, headers and stats: reads no image. Of shards in a store that
    have no stats, one is fetched, and the others are taken for alike.

    Of these and of damaged files it may differ from the number of `items`.
    """
    total = 0
    unknown: list[RemoteFile] = []
    parts = list(parts)
    in_store = any(isinstance(origin.path, RemoteFile) for origin in parts)
    counts = asked_of_each(partial(_count, leave_out=leave_out), parts, in_store=in_store)
    for origin, count in zip(parts, counts, strict=True):
        if count is not None:
            total += count
        elif isinstance(origin.path, RemoteFile):
            unknown.append(origin.path)
    return total + (_count_by_size(unknown) if unknown else 0)


def fingerprint(parts: Iterable[Origin], *, leave_out: Path | None = None) -> str:
    """A text that changes with the files that datasets consist of: names, sizes and times, those of
    captions in a folder too.
    """

    def states() -> Iterator[str]:
        for origin in parts:
            if origin.folder:
                yield metadata_state(origin.folder, leave_out)
                for path, _ in walk(origin.folder, leave_out=leave_out):
                    yield f"{os.path.relpath(path, origin.folder)}\0{folder_state(path)}"
            else:
                yield f"{anywhere(address_of(origin.path))}\0{state_of(origin.path)}"

    return set_hash(states())


def folder_state(path: str) -> str:
    """A text that changes when an image of a folder or its caption file does."""
    image = Path(path)
    return f"{_state_if_there(image)} {_state_if_there(caption_file(image))}"


def metadata_state(folder: Path, leave_out: Path | None) -> str:
    """A text that changes when the captions in a folder's `metadata.jsonl` or `.csv` may."""
    other = leave_out and os.path.realpath(leave_out)
    files = (path for path in metadata_files(folder) if os.path.realpath(path.parent) != other)
    return " ".join(f"{os.path.relpath(path, folder)} {_state_if_there(path)}" for path in files)


def _state_if_there(path: Path) -> str:
    try:
        return state_of(path)
    except DatasetError:
        return "-"


def _count(origin: Origin, leave_out: Path | None) -> int | None:
    """None for a shard that would have to be fetched."""
    if origin.folder:
        return sum(1 for _ in walk(origin.folder, leave_out=leave_out))
    try:
        if origin.format == "parquet":
            return int(footer(origin.path)[0].num_rows)
        count = _count_of_stats(origin.path)
        if count is not None or isinstance(origin.path, RemoteFile):
            return count
        return _count_keys(origin.path)
    except (DatasetError, OSError):
        return 1


def _count_by_size(files: Sequence[RemoteFile]) -> int:
    first = files[0]
    try:
        samples = _count_keys(first)
    except (DatasetError, OSError):
        samples = 1
    return max(len(files), round(samples * sum(file.size for file in files) / max(1, first.size)))


def _count_of_stats(file: SetFile) -> int | None:
    with suppress(DatasetError, OSError):
        count = (stats_of(file) or {}).get("successes")
        return count if isinstance(count, int) else None
    return None


def _count_keys(file: SetFile) -> int:
    with on_disk(file) as path:
        keys = {
            extension_and_key(member.name)[1]
            for member in read_members(path)
            if not isinstance(member, Gap) and not member.is_folder
        }
    return len(keys - {None})


def _inside(
    origin: Origin, first: int, leave_out: Path | None, step: int = 1
) -> Iterator[tuple[str, Sample | Unusable]]:
    if origin.folder:
        return _of_folder(origin.folder, first, leave_out, step)
    return _of_file(origin.path, first)


def _of_file(file: SetFile, first: int) -> Iterator[tuple[str, Sample | Unusable]]:
    for sample in islice(lenient_samples(file), first, None):
        inside = sample.name if isinstance(sample, Unusable) else sample.file_name
        yield f"{file.name}/{inside}", sample


def _of_folder(
    folder: Path, first: int, leave_out: Path | None, step: int
) -> Iterator[tuple[str, Sample | Unusable]]:
    """The images, then what of `metadata.jsonl` or `metadata.csv` cannot be read."""
    damage: list[DatasetError] = []
    entries = read_metadata(folder, damage.append)
    found: Iterator[tuple[str | int, str | None]] = chain(
        walk(folder, leave_out=leave_out), enumerate(map(str, damage), start=1)
    )
    for path, problem in islice(found, first, None, step):
        if isinstance(path, int):
            name, message = f"damaged-{path}", f"{problem}; mend it there"
            yield name, Unusable(name, message, "damaged", is_damage=True)
            continue
        name = PurePath(os.path.relpath(path, folder)).as_posix()
        if problem is not None:
            yield name, Unusable(printable(name), printable(problem), "unreadable")
            continue
        try:
            yield name, _with_texts(name, image_bytes(path), Path(path), entries.get(name, {}))
        except ImageError as error:
            yield name, Unusable(printable(name), printable(str(error)), error.reason)
        except DatasetError as error:
            yield name, Unusable(printable(name), str(error), "bad-caption")


def _with_texts(name: str, image: bytes, path: Path, entry: dict[str, Any]) -> Sample:
    meta = dict(entry)
    in_metadata = pop_caption(meta)
    sidecar = caption_file(path)
    try:
        # Opening a pipe would wait for a writer.
        text = parse_text(sidecar.read_bytes(), printable(sidecar)) if sidecar.is_file() else ""
    except OSError as error:
        raise DatasetError(f"{printable(sidecar)} cannot be read ({error.strerror})") from error
    lines = lines_with_text(text)
    # A caption file goes before metadata; only what counts has to be text.
    caption, problem = lines[0] if lines else None, None
    if not lines:
        caption, problem = old_caption(in_metadata, printable(f"{name} in {METADATA}"))
    if len(lines) > 1:
        meta["texts"] = lines
    extension = PurePath(name).suffix
    return writable(Sample(name.removesuffix(extension), image, extension, caption, meta, problem))
