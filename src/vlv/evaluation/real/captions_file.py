"""A captions file: one line of JSON for each image of a set, with `file_name` and `text`.

`vlv caption --output-format jsonl` and `metadata.jsonl` have these fields. `vlv eval captions` adds
`captioner`, `seconds`, `prompt_tokens`, `completion_tokens` and `usd`, where they are known, and
the hash of the image, so that a picture that was replaced under its name is noticed. Lines are
appended, so that a process that is killed loses no line that is complete; a line of a replaced
picture is removed when the file is closed. Knows no image and no model.
"""

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import filelock

from vlv.errors import ConfigError, DatasetError
from vlv.files import atomic_file, sync
from vlv.inference.written import one_at_a_time
from vlv.text import parse_json, printable, read_start

IMAGE_HASH = "image_sha256"
"""The field of a record that says of which image it is, by the hash of its file."""
# Beside the name and the text.
_FIELDS = ("captioner", "seconds", "prompt_tokens", "completion_tokens", "usd", IMAGE_HASH)
_MAX_BYTES = 4_000_000_000
_FORM = 'each line is {"file_name": "...", "text": "..."}'
# The shard or table of an image in a set of them, which is the first part of its name.
_SHARD = re.compile(r"[^/]+\.(tar|parquet)/", re.IGNORECASE)


@dataclass(frozen=True)
class CaptionLine:
    """The caption of one image. None where a figure is not known.

    seconds: of the computation or the request; images of one batch share its time evenly. usd: of
    every answer that was paid for this image. image_sha256: of the image's file.
    """

    file_name: str
    text: str
    captioner: str | None = None
    seconds: float | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    usd: float | None = None
    image_sha256: str | None = None

    def record(self) -> dict[str, Any]:
        """The known fields, as JSON values."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def is_of(self, image: str | None) -> bool:
        """Whether it may be the caption of the image with this hash; None is not known."""
        return None in (image, self.image_sha256) or image == self.image_sha256


class AppendedLines:
    """A file of JSON lines with a `file_name` each, to which lines are added.

    key: the field that tells records apart. Opened by `appended_lines`. A last line that is cut off
    is removed first.
    """

    def __init__(self, path: Path, key: str = "file_name") -> None:
        self.path = path
        self._key = key
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = image_lines(path, _FORM) if _drop_torn_end(path) else ()
        records = [record for _, record in lines]
        self.records = {str(record.get(key)): record for record in records}
        """key -> the record that the file holds."""
        self._outdated = len(records) > len(self.records)

    def known(self, key: str, image: str) -> Mapping[str, Any] | None:
        """The record of a key, for the image with this hash. One of another image is dropped; one
        without a hash, as earlier versions wrote them, counts for any.
        """
        record = self.records.get(key)
        if record is None or record.get(IMAGE_HASH, image) == image:
            return record
        del self.records[key]
        self._outdated = True
        return None

    def add(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Append lines; they are on the disk when this returns.

        Raises:
            OSError: the disk is full, or the file cannot be written.
        """
        if not records:
            return
        with open(self.path, "ab") as file:
            file.write(_as_lines(records))
            file.flush()
            os.fsync(file.fileno())
        added = {str(one[self._key]): dict(one) for one in records}
        self._outdated |= not added.keys().isdisjoint(self.records)
        self.records |= added

    def remove_outdated(self) -> None:
        """Write the file anew where it holds lines that others took the place of, or that were
        dropped.
        """
        if self._outdated:
            with atomic_file(self.path) as unfinished:
                unfinished.write_bytes(_as_lines(self.records.values()))
            self._outdated = False


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
            lines = AppendedLines(path, key)
            try:
                yield lines
            finally:
                lines.remove_outdated()
    except filelock.Timeout as error:
        raise DatasetError(
            f"another process writes {printable(path)}; let it end, or name another file"
        ) from error


def read_captions(path: Path) -> dict[str, CaptionLine]:
    """file_name -> caption, of a captions file or a `metadata.jsonl`. Of two lines of a name with
    different pictures, which a killed process may leave, the later one counts.

    Raises:
        DatasetError: there is no such file, a line has no file name or no text, or an image has
            two captions.
    """
    found: dict[str, CaptionLine] = {}
    for where, record in image_lines(path, _FORM):
        name, text = record["file_name"], record.get("text")
        if not isinstance(text, str):
            raise DatasetError(f"{printable(path)} holds no text for {printable(name)}; {_FORM}")
        known: dict[str, Any] = {field: record.get(field) for field in _FIELDS}
        line = CaptionLine(name, text.strip(), **known)
        before = found.get(name, line)
        if before.text != line.text and before.image_sha256 == line.image_sha256:
            raise DatasetError(
                f"{where} is a second caption of {printable(name)}; keep one caption of each image"
            )
        found[name] = line
    if not found:
        raise DatasetError(f"{printable(path)} holds no caption")
    return found


def captions_for(
    captions: Mapping[str, CaptionLine],
    images: Iterable[tuple[str, str | None]],
    bare_name: Callable[[str], str] | None = None,
) -> list[str | None]:
    """The text for each image of a set; None where there is none, or of another picture of its name
    only.

    Images of shards have the shard's name before their own in a captions file, and not in the set.
    A name that several shards hold is ambiguous, so such an image has no caption.

    images: names and hashes; None is not compared. bare_name: of an image in the file, as the set
    has it; None is `without_shard`.
    """
    bare: dict[str, list[CaptionLine]] = {}
    for name, line in captions.items():
        bare.setdefault((bare_name or without_shard)(name), []).append(line)
    once = {name: lines[0] for name, lines in bare.items() if len(lines) == 1}
    found = [(captions.get(name) or once.get(name), image) for name, image in images]
    return [line.text if line and line.is_of(image) else None for line, image in found]


def without_caption(image: str, captioners: Iterable[str]) -> str:
    """Why an image has no caption in `captions_for`, as a sentence."""
    return (
        f"{image}: there is no caption by {', '.join(captioners)}; one of an earlier picture of "
        "this name does not count"
    )


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


def _as_lines(records: Iterable[Mapping[str, Any]]) -> bytes:
    lines = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in records)
    return lines.encode("utf-8", "surrogateescape")


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
