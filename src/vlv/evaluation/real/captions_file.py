"""A captions file: one line of JSON for each image of a set, with `file_name` and `text`.

`vlv caption --output-format jsonl` and `metadata.jsonl` have these fields. `vlv eval captions` adds
`captioner`, `seconds`, `prompt_tokens`, `completion_tokens` and `usd`, where they are known. Lines
are only ever appended, so that a process that is killed loses no line that is complete. Knows no
image and no model.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import filelock

from vlv.errors import ConfigError, DatasetError
from vlv.files import sync
from vlv.inference.written import one_at_a_time
from vlv.text import parse_json, printable, read_start

# Beside the name and the text.
_FIELDS = ("captioner", "seconds", "prompt_tokens", "completion_tokens", "usd")
_MAX_BYTES = 4_000_000_000
_FORM = 'each line is {"file_name": "...", "text": "..."}'
# The shard or table of an image in a set of them, which is the first part of its name.
_SHARD = re.compile(r"[^/]+\.(tar|parquet)/", re.IGNORECASE)


@dataclass(frozen=True)
class CaptionLine:
    """The caption of one image. None where a figure is not known.

    seconds: of the computation or the request; images of one batch share its time evenly. usd: of
    every answer that was paid for this image.
    """

    file_name: str
    text: str
    captioner: str | None = None
    seconds: float | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    usd: float | None = None

    def record(self) -> dict[str, Any]:
        """The known fields, as JSON values."""
        return {name: value for name, value in asdict(self).items() if value is not None}


class AppendedLines:
    """A file of JSON lines with a `file_name` each, to which lines are added.

    key: the field that tells records apart. Opened by `appended_lines`. A last line that is cut off
    is removed first.
    """

    def __init__(self, path: Path, key: str = "file_name") -> None:
        self.path = path
        self._key = key
        path.parent.mkdir(parents=True, exist_ok=True)
        records = (record for _, record in image_lines(path, _FORM)) if _drop_torn_end(path) else ()
        self.records = {str(record.get(key)): record for record in records}
        """key -> the record that the file holds."""

    def add(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Append lines; they are on the disk when this returns.

        Raises:
            OSError: the disk is full, or the file cannot be written.
        """
        if not records:
            return
        lines = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in records)
        with open(self.path, "ab") as file:
            file.write(lines.encode("utf-8", "surrogateescape"))
            file.flush()
            os.fsync(file.fileno())
        self.records |= {str(one[self._key]): dict(one) for one in records}


@contextmanager
def appended_lines(path: Path, key: str = "file_name") -> Iterator[AppendedLines]:
    """The file for one process at a time.

    Raises:
        ConfigError: the path is a folder.
        DatasetError: another process writes the file, or it holds something else.
    """
    if path.is_dir():
        raise ConfigError(f"{printable(path)} is a folder; name a file for the lines")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with one_at_a_time(path, timeout=0):
            yield AppendedLines(path, key)
    except filelock.Timeout as error:
        raise DatasetError(
            f"another process writes {printable(path)}; let it end, or name another file"
        ) from error


def read_captions(path: Path) -> dict[str, CaptionLine]:
    """file_name -> caption, of a captions file or a `metadata.jsonl`.

    Raises:
        DatasetError: there is no such file, a line has no file name or no text, or an image has
            two captions.
    """
    found: dict[str, CaptionLine] = {}
    for where, record in image_lines(path, _FORM):
        name, text = record["file_name"], record.get("text")
        if not isinstance(text, str):
            raise DatasetError(f"{printable(path)} holds no text for {printable(name)}; {_FORM}")
        if name in found and found[name].text != text.strip():
            raise DatasetError(
                f"{where} is a second caption of {printable(name)}; keep one caption of each image"
            )
        known: dict[str, Any] = {field: record.get(field) for field in _FIELDS}
        found[name] = CaptionLine(name, text.strip(), **known)
    if not found:
        raise DatasetError(f"{printable(path)} holds no caption")
    return found


def captions_for(captions: Mapping[str, CaptionLine], names: Sequence[str]) -> list[str | None]:
    """The text for each image name of a set; None where there is none.

    Images of shards have the shard's name before their own in a captions file, and not in the set.
    A name that several shards hold is ambiguous, so such an image has no caption.
    """
    bare: dict[str, list[str]] = {}
    for name, line in captions.items():
        bare.setdefault(without_shard(name), []).append(line.text)
    once = {name: texts[0] for name, texts in bare.items() if len(texts) == 1}
    return [captions[name].text if name in captions else once.get(name) for name in names]


def without_shard(name: str) -> str:
    """The name of an image in its shard or table."""
    return _SHARD.sub("", name, count=1)


def named_file(text: str) -> tuple[str, Path]:
    """The name and the file of `NAME=FILE`; without a name, that of the file without extension.

    Raises:
        ConfigError: there is no file in it.
    """
    name, sign, file = text.partition("=")
    if not sign:
        name, file = Path(text).stem, text
    if not name or not file:
        raise ConfigError(f"--captions {printable(text)} is not NAME=FILE")
    return name, Path(file)


def named_files(words: Iterable[str], option: str = "--captions") -> dict[str, Path]:
    """Captions files by captioner, of the words that an option was given.

    Raises:
        ConfigError: two captioners have one name, or a word holds no file.
    """
    found: dict[str, Path] = {}
    for name, file in map(named_file, words):
        if name in found:
            raise ConfigError(
                f"two captioners are called {printable(name)}; name them, as in {option} NAME=FILE"
            )
        found[name] = file
    return found


def _drop_torn_end(path: Path) -> bool:
    """Cut off what follows the last line break; whether anything is left."""
    if not path.exists():
        return False
    data = read_start(path, _MAX_BYTES, printable(path), DatasetError)
    end = data.rfind(b"\n") + 1
    if end < len(data):
        # A file of another program without a last line break is complete all the same.
        try:
            json.loads(data[end:])
        except ValueError:
            os.truncate(path, end)
        else:
            with open(path, "ab") as file:
                file.write(b"\n")
            end = len(data)
        sync(path)
    return end > 0


def image_lines(path: Path, form: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Lines of JSON that name an image each: where a line stands, and its record.

    Raises:
        DatasetError: a line is no JSON, or names no image; `form` says what it must be.
    """
    data = read_start(path, _MAX_BYTES, printable(path), DatasetError)
    for number, line in enumerate(data.decode("utf-8", "surrogateescape").split("\n"), start=1):
        if not line.strip():
            continue
        where = f"line {number} of {printable(path)}"
        record = parse_json(line.lstrip("\ufeff"), where, DatasetError)
        if not isinstance(record, dict) or not isinstance(record.get("file_name"), str):
            raise DatasetError(f"{where} has no file_name; {form}")
        yield where, record
