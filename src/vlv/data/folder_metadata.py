"""`metadata.jsonl` and `metadata.csv` of Hugging Face's ImageFolder.

`metadata.csv`, with the same columns, is read where there is no `metadata.jsonl`. All readers take
captions of metadata by `pop_caption`.
"""

import csv
import io
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from vlv.data.images import EXTENSIONS
from vlv.data.samples import lines_with_text, one_of_several, parse_object, parse_text
from vlv.errors import DatasetError
from vlv.text import printable

METADATA = "metadata.jsonl"
# Where an entry of it has captions: the first that is not empty counts.
CAPTION_FIELDS = ("text", "caption", "texts")
_CSV = "metadata.csv"
# A backslash, or a component of a path that is empty, `.` or `..`.
_NOT_NORMAL = re.compile(r"\\|(^|/)\.{0,2}(/|$)")


def metadata_files(folder: Path) -> list[Path]:
    """The files of Hugging Face's ImageFolder: that of a folder, then those of its subfolders, as
    `train` and `test`.
    """
    below: list[str] = []
    with suppress(OSError), os.scandir(folder) as entries:
        below = sorted(one.path for one in entries if one.is_dir() and one.name[0] != ".")
    places = (folder, *map(Path, below))
    return [path for path in map(metadata_in, places) if path is not None]


def metadata_in(folder: Path) -> Path | None:
    """The metadata file that is read in a folder, without its subfolders."""
    paths = (folder / METADATA, folder / _CSV)
    return next((path for path in paths if path.is_file()), None)


def _refuse(error: DatasetError) -> None:
    raise error


OnDamage = Callable[[DatasetError], None]
"""What becomes of a line, or of a whole file, that cannot be read: it is refused, or left out."""


def read_metadata(folder: Path, on_damage: OnDamage = _refuse) -> dict[str, dict[str, Any]]:
    """The entries of `metadata.jsonl` or `metadata.csv`: file_name -> the other fields."""
    found: dict[str, dict[str, Any]] = {}
    for path in metadata_files(folder):
        found = _located(folder, path, _lines_of(path, on_damage)) | found
    return found


def hidden_by_metadata(folder: Path) -> Path | None:
    """The `metadata.csv` that is read in a folder, and would not be beside a `metadata.jsonl`."""
    path = metadata_in(folder)
    if path is None or path.name != _CSV:
        return None
    lines = _lines_of(path, on_damage=lambda error: None)
    return path if next(lines, None) is not None else None


def metadata_below(folder: Path) -> Iterator[tuple[Path, dict[str, dict[str, Any]]]]:
    """The metadata files in a folder's subfolders that name images there, with their entries, as
    `read_metadata` has them: an entry of the folder's own file would go before. What cannot be read
    is left out.
    """
    for path in metadata_files(folder):
        if path.parent != folder:
            entries = _located(folder, path, _lines_of(path, on_damage=lambda error: None))
            if entries:
                yield path, entries


def _lines_of(path: Path, on_damage: OnDamage) -> Iterator[tuple[str, dict[str, Any]]]:
    read = _csv_lines if path.name == _CSV else metadata_lines
    try:
        yield from read(path.read_bytes(), printable(path), path.parent, on_damage)
    except DatasetError as error:
        on_damage(error)
    except OSError as error:
        on_damage(DatasetError(f"{printable(path)} cannot be read ({error.strerror})"))


def _located(
    folder: Path, path: Path, lines: Iterable[tuple[str, dict[str, Any]]]
) -> dict[str, dict[str, Any]]:
    """The entries of a metadata file by the names of their images in `folder`. One of a subfolder
    counts for images that are there: lists of captions may lie there that name others.
    """
    within = "" if path.parent == folder else f"{path.parent.name}/"
    return {
        within + name: {field: value for field, value in record.items() if field != "file_name"}
        for name, record in lines
        if not within or _is_image_in(path.parent, name)
    }


def _is_image_in(folder: Path, name: str) -> bool:
    hidden = any(part.startswith(".") for part in PurePosixPath(name).parts)
    return not hidden and name.lower().endswith(EXTENSIONS) and (folder / name).is_file()


def _csv_lines(
    data: bytes, where: str, folder: Path, on_damage: OnDamage
) -> Iterator[tuple[str, dict[str, Any]]]:
    """As `metadata_lines`, of a `metadata.csv`; nothing where no column is `file_name`."""
    rows = csv.DictReader(io.StringIO(parse_text(data, where), newline=""))
    try:
        if "file_name" not in (rows.fieldnames or ()):
            return
    except csv.Error as error:
        raise DatasetError(f"{where} is not CSV ({error})") from error
    for row in _csv_rows(rows, where, on_damage):
        record = {name: value for name, value in row.items() if name and value}
        if "file_name" in record:
            yield one_spelling(record["file_name"], folder), record
        else:
            on_damage(DatasetError(f"line {rows.line_num} of {where} has no file_name"))


def _csv_rows(
    rows: "csv.DictReader[str]", where: str, on_damage: OnDamage
) -> Iterator[dict[str, Any]]:
    while True:
        try:
            yield next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            on_damage(DatasetError(f"line {rows.line_num} of {where} is not CSV ({error})"))


def pop_caption(entry: dict[str, Any]) -> object:
    """The caption in an entry, which is taken out of it; None if there is none.

    A list of texts is several captions, as in a cell of a table: all of them become `texts` of the
    entry. A value that is no text is returned too, for `parse_caption` to refuse; in `texts`, which
    others use for other things, it is no caption and stays.
    """
    for field in CAPTION_FIELDS:
        caption, several = one_of_several(entry.get(field))
        if caption is None or (isinstance(caption, str) and not lines_with_text(caption)):
            entry.pop(field, None)
        elif field != "texts" or isinstance(caption, str):
            del entry[field]
            entry |= several
            return caption
    return None


def metadata_lines(
    data: bytes, where: str, folder: Path, on_damage: OnDamage = _refuse
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, record) of each line in a `metadata.jsonl` of `folder`, the name as `image_names`
    spells it.

    Raises:
        DatasetError: a line is damaged, and `on_damage` refuses it; the message names it and begins
            with `where`.
    """
    # `splitlines` would also split at characters that JSON allows in a text.
    for number, line in enumerate(parse_text(data, where).split("\n"), start=1):
        if line.strip():
            try:
                found = metadata_line(line, f"line {number} of {where}", folder)
            except DatasetError as error:
                on_damage(error)
            else:
                yield found


def metadata_line(line: str, where: str, folder: Path) -> tuple[str, dict[str, Any]]:
    """`metadata_lines` of one line. Raises DatasetError."""
    record = parse_object(line, where)
    name = record.get("file_name")
    if not isinstance(name, str):
        raise DatasetError(f"{where} has no file_name")
    return one_spelling(name, folder), record


def one_spelling(name: str, folder: Path) -> str:
    """A `file_name` of `metadata.jsonl` as `image_names` spells it: `a.png` for `./a.png`,
    `sub/../a.png` and an absolute path, with `/` for the backslashes of Windows.
    """
    if not _NOT_NORMAL.search(name):
        return name
    if "\\" in name and not os.path.lexists(folder / name):  # else it is an ordinary character
        name = name.replace("\\", "/")
    return PurePath(os.path.relpath(folder / name, folder)).as_posix()
