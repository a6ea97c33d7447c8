"""Reads the samples of shards and tables one by one, so that a damaged one stops no other.

Captions and meta data are optional here. A sample says why its caption cannot be read, and whoever
keeps captions refuses it by `with_readable_caption`. A picture that cannot be read gives an
`Unusable` in its place. Training needs the captions: `vlv.data.sets.read_set` raises an error for
damaged ones instead.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from vlv.data.images import EXTENSIONS, MAX_FILE_BYTES, extension_of
from vlv.data.samples import Sample, one_of_several, parse_caption, parse_text
from vlv.data.shards import check_complete, extension_and_key, problem_of
from vlv.data.stored_pixels import cell_of, image_file
from vlv.data.tables import Columns, columns_of, import_pyarrow
from vlv.data.tars import Gap, Member, read_members
from vlv.errors import DatasetError
from vlv.text import parse_json, printable, well_formed

_ROWS = 64
# Limits of a name and of each component of it: file systems accept no more.
_MAX_NAME_BYTES, _MAX_PART_BYTES = 1000, 255
# Characters that a message shows of each end of a long name.
_SHOWN = 60


@dataclass(frozen=True)
class Unusable:
    """A sample without a picture: a printable name, a sentence, and a short reason to count by.

    is_damage: whether it stands for a part of a file that cannot be read, with all samples in it.
    """

    name: str
    message: str
    reason: str = "bad-sample"
    is_damage: bool = False


def with_readable_caption(sample: Sample | Unusable) -> Sample | Unusable:
    """The sample; one whose caption is there and cannot be read is refused."""
    if isinstance(sample, Unusable) or sample.caption_problem is None:
        return sample
    return Unusable(_shown(sample.file_name), sample.caption_problem, "bad-caption")


@dataclass
class _Found:
    """The members of a shard with one key."""

    members: dict[str, Member] = field(default_factory=dict)
    twice: list[str] = field(default_factory=list)


def shard_samples(path: Path, stats: dict[str, Any] | None = None) -> Iterator[Sample | Unusable]:
    """The samples of a shard, in the order of the first members of their keys.

    The members of a sample need not be next to each other: headers are read first, then images.
    stats: of a shard whose stats are not beside `path`.
    """
    found: dict[str, _Found] = {}
    gaps: list[Unusable] = []
    try:
        for member in read_members(path):
            if isinstance(member, Gap):
                gaps.append(_damaged(path, len(gaps), member))
            elif not member.is_folder:
                _add(found, member)
        with open(path, "rb") as file:
            for key, one in found.items():
                yield from _samples(path, key, one, file)
    except (DatasetError, OSError) as error:
        yield Unusable("damaged", str(error), is_damage=True)
        return
    yield from gaps
    if not gaps:
        try:
            check_complete(path, len(found), stats)
        except DatasetError as error:
            yield Unusable("damaged", str(error), is_damage=True)


def _damaged(path: Path, number: int, gap: Gap) -> Unusable:
    message = f"the shard {path} is damaged at byte {gap.offset}; samples there are lost"
    message += "; fetch or write it again"
    return Unusable(f"damaged-{number + 1}", message, is_damage=True)


def _add(found: dict[str, _Found], member: Member) -> None:
    extension, key = extension_and_key(member.name)
    if key is None:
        return  # hidden, as the ._ files of macOS are
    one = found.setdefault(key, _Found())
    if extension not in one.members:
        one.members[extension] = member
    elif extension in EXTENSIONS:
        one.twice.append(extension)


def _samples(path: Path, key: str, found: _Found, file: Any) -> Iterator[Sample | Unusable]:
    """The sample of a key, then a refusal of each other image among its members."""
    where = f"in the shard {path}"
    image = next((name for name in found.members if name in EXTENSIONS), None)
    if image is None:
        yield from _without_image(path, key, found)
    else:
        member = found.members[image]
        problem = problem_with_name(member.name) or problem_of(member)
        if problem:
            message = f"{_shown(member.name)} {where} {problem}; mend or remove it"
            yield Unusable(_shown(key), message)
        else:
            content = {
                name: _content(file, found.members[name])
                for name in (image, ".json", ".txt")
                if name in found.members and not problem_of(found.members[name])
            }
            yield _sample(key, image, content, where)
    for extension in found.twice:
        message = f"the shard {path} holds {_shown(key + extension)} twice; rename one of them"
        yield Unusable(_shown(key + extension), message)


def _without_image(path: Path, key: str, found: _Found) -> Iterator[Unusable]:
    dotted = [name for name in found.members if name.endswith(EXTENSIONS)]
    for extension in dotted:
        yield Unusable(
            _shown(key + extension),
            f"{_shown(key + extension)} in the shard {path} is no image by the rule of "
            f"webdataset, where a name ends at its first dot: its key is {_shown(key)} and its "
            f"extension {_shown(extension[1:])}; replace the other dots",
            "dotted-name",
        )
    if not dotted:
        problems = filter(None, map(problem_of, found.members.values()))
        problem = next(problems, f"has no image ({', '.join(EXTENSIONS)})")
        message = f"the sample {_shown(key)} in the shard {path} {problem}"
        yield Unusable(_shown(key), message)


def _content(file: Any, member: Member) -> bytes:
    file.seek(member.start)
    return bytes(file.read(member.size))


def _sample(key: str, image: str, content: dict[str, bytes], where: str) -> Sample:
    """The caption is that of the `.txt` member; without visible text there, that in `.json`."""
    meta: dict[str, Any] = {}
    name = _shown(key)
    caption, problem = None, None
    if ".json" in content:
        about = f"{name}.json {where}"
        try:
            found = parse_json(content[".json"], about, DatasetError)
        except DatasetError as error:  # a caption may be in it
            problem = str(error)
        else:
            meta = _writable(found) if isinstance(found, dict) else {}
            first, several = one_of_several(meta.get("caption"))
            caption, problem = old_caption(first, about)
            meta |= several
    if ".txt" in content:
        text, damage = old_caption(content[".txt"], f"{name}.txt {where}")
        if text or damage:
            caption, problem = text, damage
    return Sample(key, content[image], image, caption, meta, problem)


def table_samples(
    path: Path, groups: Iterable[int] | None = None, first: int = 0
) -> Iterator[tuple[int, Sample | Unusable]]:
    """The rows of a table with their numbers. In a damaged row group the rows after the damage are
    lost.

    Args:
        path: a parquet file.
        groups: the row groups to read; None is all.
        first: the number of the first row in them.
    """
    pa, pq = import_pyarrow()
    row = first
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            found = columns_of(path, names)
            columns = found.names
            columns += [
                field.name
                for field in file.schema_arrow
                if field.name not in columns and _is_meta(pa, field)
            ]
            for group in range(file.num_row_groups) if groups is None else groups:
                end = row + file.metadata.row_group(group).num_rows
                try:
                    batches = file.iter_batches(_ROWS, [group], columns, use_threads=False)
                    for batch, index in _rows(batches):
                        yield row, _of_row(pa, path, row, batch, index, found)
                        row += 1
                except (pa.ArrowException, OSError, ValueError) as error:
                    message = f"row group {group} of {path} is damaged ({error})"
                    for lost in range(row, end):
                        yield lost, Unusable(f"{path.stem}-{lost:06d}", message, is_damage=True)
                row = end
    except (pa.ArrowException, OSError, ValueError) as error:
        message = f"{path} is damaged, or is no parquet file ({error})"
        yield row, Unusable("damaged", message, is_damage=True)
    except DatasetError as error:
        yield row, Unusable("damaged", str(error), is_damage=True)


def _rows(batches: Iterable[Any]) -> Iterator[tuple[Any, int]]:
    return ((batch, index) for batch in batches for index in range(batch.num_rows))


def _is_meta(pa: Any, field: Any) -> bool:
    """Whether a column is kept as meta data: texts, numbers and flags. `meta` holds JSON text."""
    kinds = pa.types
    text = kinds.is_string(field.type) or kinds.is_large_string(field.type)
    if field.name == "meta" or text:
        return bool(text)
    number = kinds.is_integer(field.type) or kinds.is_floating(field.type)
    return bool(number or kinds.is_boolean(field.type))


def _of_row(
    pa: Any, path: Path, row: int, batch: Any, index: int, columns: Columns
) -> Sample | Unusable:
    def cell(name: str) -> Any:
        return _value(pa, batch.column(name)[index])

    names = batch.schema.names
    try:
        data, name, _ = cell_of(pa, batch.column(columns.image)[index])
    except ValueError as error:
        message = f"row {row} of {path} holds {error}; write the image as a file there"
        return Unusable(f"{path.stem}-{row:06d}", message)
    except pa.ArrowException:
        data = name = None
    text, problem = None, None
    if columns.caption:
        try:
            text = batch.column(columns.caption)[index].as_py()
        except (pa.ArrowException, ValueError, OverflowError) as error:
            problem = f"the caption in row {row} of {path} cannot be read ({error}); write it anew"
            if isinstance(error, UnicodeDecodeError):
                problem = f"row {row} of {path} holds text that is not UTF-8; write it as UTF-8"
    meta = cell("meta") if "meta" in names else None
    sample = sample_of_cells(path, row, data, name, text, meta)
    if isinstance(sample, Unusable):
        return sample
    if problem is not None:
        sample = replace(sample, caption_problem=problem)
    others = {name: cell(name) for name in names if name not in ("meta", *columns.names)}
    return replace(sample, meta={**_writable(others), **sample.meta})


def _value(pa: Any, scalar: Any) -> Any:
    """The Python value of a cell; None if it cannot be read, as for text that is not UTF-8."""
    try:
        return scalar.as_py()
    except (pa.ArrowException, ValueError, OverflowError):
        return None


def sample_of_cells(
    path: Path, row: int, image: Any, name: Any, caption: Any, meta: Any
) -> Sample | Unusable:
    """The sample of a row; a path that is not a valid file name is ignored."""
    number = f"{path.stem}-{row:06d}"
    if isinstance(image, str) or not isinstance(image, bytes | bytearray | memoryview):
        message = f"row {row} of {path} holds no image bytes; embed the images in the file"
        return Unusable(number, message)
    if len(image) > MAX_FILE_BYTES:
        message = f"the image in row {row} of {path} has {len(image)} bytes, more than it may have"
        return Unusable(number, message)
    file_name = PurePosixPath(name if isinstance(name, str) else "")
    if not file_name.name or problem_with_name(str(file_name)):
        file_name = PurePosixPath(number)
    first, texts = one_of_several(caption)
    text, problem = old_caption(first, f"row {row} of {path}")
    data = bytes(image)
    try:
        data, extension = image_file(data)
    except ValueError as error:
        message = f"row {row} of {path} holds {error}; write the image as a file there"
        return Unusable(number, message)
    about = {**(old_meta(meta) if isinstance(meta, str) else {}), **_writable(texts)}
    key = file_name.with_suffix("").as_posix()
    extension = extension or file_name.suffix or extension_of(data)
    return Sample(key, data, extension, text, about, problem)


def problem_with_name(name: str) -> str | None:
    """Why a name cannot be the name of a file inside a folder; None if it can."""
    path = PurePosixPath(name)
    try:
        parts = [part.encode() for part in path.parts]
    except UnicodeEncodeError:
        return "has a name that is not UTF-8"
    if "\0" in name:
        return "has a NUL in its name"
    if path.is_absolute() or ".." in path.parts or "\\" in name:
        return "has a path that leaves the shard"
    if any(len(part) > _MAX_PART_BYTES for part in parts) or len(name.encode()) > _MAX_NAME_BYTES:
        return "has a longer name than a file may have"
    return None


def _shown(name: str) -> str:
    """A name on one line, shortened if it is long."""
    line = printable(name)
    return line if len(line) <= 2 * _SHOWN else f"{line[:_SHOWN]}...{line[-_SHOWN:]}"


def old_meta(data: bytes | str) -> dict[str, Any]:
    """The content of a JSON object, without values that JSON or UTF-8 cannot write; empty for
    anything else.
    """
    try:
        value = parse_json(data, "meta data", DatasetError)
    except DatasetError:
        return {}
    return dict(_writable(value)) if isinstance(value, dict) else {}


def _writable(value: Any) -> Any:
    if isinstance(value, str):
        return well_formed(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {well_formed(name): _writable(inner) for name, inner in value.items()}
    return [_writable(inner) for inner in value] if isinstance(value, list) else value


def writable(sample: Sample) -> Sample:
    """The sample without what UTF-8 cannot write in its key and texts: a file may have any name."""
    caption = sample.caption if sample.caption is None else well_formed(sample.caption)
    key = well_formed(sample.key)
    return replace(sample, key=key, caption=caption, meta=_writable(sample.meta))


def old_caption(value: object, where: str) -> tuple[str | None, str | None]:
    """(An old caption, why it cannot be read). Both are None where there is none."""
    try:
        value = parse_text(value, where) if isinstance(value, bytes) else value
        text = parse_caption(value, where)
    except DatasetError as error:
        return None, str(error)
    return (well_formed(text).strip() or None if text else None), None
