"""Captions on disk as trainers of image generators read them. Knows text and file names only.

What is there is not written again: a caller asks `has` first, so that a rerun does what is left.
"""

import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from vlv.data.images import EXTENSIONS
from vlv.errors import ConfigError, DatasetError
from vlv.files import atomic_file

METADATA = "metadata.jsonl"
# Seconds after which a file that is written as a whole is written again.
_WRITE_EVERY = 5.0


class CaptionStore(Protocol):
    """A place for captions."""

    def has(self, image: Path) -> bool:
        """Whether the image has a caption here."""

    def put(self, image: Path, caption: str, *others: str) -> None:
        """Write the image's caption, and others of the same image; they are on the disk then."""

    def close(self) -> None:
        """Nothing more will be put."""


class Sidecars:
    """`<stem>.txt` beside each image: UTF-8, a non-empty line for each caption, the best first.

    Trainers that read one caption take the first line; sd-scripts with `enable_wildcard` takes any.
    """

    def __init__(self, extension: str = ".txt") -> None:
        if len(extension) < 2 or not extension.startswith(".") or "/" in extension:
            raise ConfigError(
                f"a caption extension begins with a dot, such as .txt, not {extension!r}"
            )
        if extension.lower() in EXTENSIONS:
            raise ConfigError(
                f"captions cannot be written to {extension} files, which are images; "
                "use .txt or .caption"
            )
        self.extension = extension

    def path(self, image: Path) -> Path:
        """Where the image's caption lies."""
        return image.with_suffix(self.extension)

    def has(self, image: Path) -> bool:
        """Whether the file holds a text; trainers refuse empty ones."""
        return holds_text(self.path(image))

    def put(self, image: Path, caption: str, *others: str) -> None:
        """Write the file, which is complete or absent."""
        with atomic_file(self.path(image)) as unfinished:
            lines = "".join(f"{text}\n" for text in (caption, *others))
            unfinished.write_text(lines, encoding="utf-8", newline="\n")

    def close(self) -> None:
        """Every file is closed already."""


def holds_text(path: Path) -> bool:
    """Whether a file is there and holds more than blanks."""
    try:
        with open(path, "rb") as file:
            return any(part.strip() for part in iter(lambda: file.read(2**16), b""))
    except OSError:  # there is none, or its name is too long
        return False


class MetadataFile:
    """`metadata.jsonl` of Hugging Face ImageFolder: `{"file_name": ..., "text": ...}` a line.

    File names are relative to the file's folder. Lines are appended one by one, so that a run
    that is cut off keeps them; an image's last line counts, and `close` drops those before it.
    Other fields and other images' lines stay. Several captions of an image are its `texts`, and
    `text` is the first of them.

    Raises:
        ConfigError: `path` is a folder.
        DatasetError: the file is there and holds something else.
    """

    def __init__(self, path: Path) -> None:
        if path.is_dir():
            raise ConfigError(f"{path} is a folder; name the file for the captions in it")
        self.path = path
        self._folder = path.absolute().parent
        self._records, tidy = _read(path)
        self._repeated = not tidy
        if not tidy:
            self._rewrite()

    def has(self, image: Path) -> bool:
        """Whether the image has a line with a text."""
        return bool(self._records.get(self._name(image), {}).get("text"))

    def put(self, image: Path, caption: str, *others: str) -> None:
        """Append the image's line, or on an OSError nothing."""
        name = self._name(image)
        record = {**self._records.get(name, {}), "file_name": name, "text": caption}
        record.pop("texts", None)  # of an earlier run, for another caption
        if others:
            record["texts"] = [caption, *others]
        self._folder.mkdir(parents=True, exist_ok=True)
        size = self.path.stat().st_size if self.path.exists() else 0
        try:
            with open(self.path, "a", encoding="utf-8", newline="\n") as file:
                file.write(json.dumps(record) + "\n")
        except OSError:
            # The disk is full: half a line here would spoil the next one.
            if self.path.exists():
                os.truncate(self.path, size)
            raise
        self._repeated |= name in self._records
        self._records[name] = record

    def close(self) -> None:
        """Leave one line for each image."""
        if self._repeated:
            self._rewrite()

    def _name(self, image: Path) -> str:
        return Path(os.path.relpath(image, self._folder)).as_posix()

    def _rewrite(self) -> None:
        with atomic_file(self.path) as unfinished:
            lines = [json.dumps(record) + "\n" for record in self._records.values()]
            unfinished.write_text("".join(lines), encoding="utf-8", newline="\n")
        self._repeated = False


class CaptionsJson:
    """kohya's JSON: `{"<absolute path of the image>": {"caption": ...}}`, as sd-scripts read it.

    An existing file is added to: other images, and other fields of an image, stay. The file is
    written anew every few seconds and by `close`, complete each time. Several captions of an image
    are the lines of its `caption`: sd-scripts take the first, or with `enable_wildcard` any.

    Raises:
        ConfigError: `path` is a folder.
        DatasetError: the file is there and holds something else.
    """

    def __init__(self, path: Path) -> None:
        if path.is_dir():
            raise ConfigError(f"{path} is a folder; name the file for the captions in it")
        self.path = path
        self._entries = _entries(path)
        self._written = time.monotonic()
        self._changed = False

    def has(self, image: Path) -> bool:
        """Whether the image has a caption."""
        return bool(self._entries.get(str(image.absolute()), {}).get("caption"))

    def put(self, image: Path, caption: str, *others: str) -> None:
        """Note the image's captions; on the disk after `_WRITE_EVERY` seconds, or `close`."""
        entry = self._entries.setdefault(str(image.absolute()), {})
        entry["caption"] = "\n".join((caption, *others))
        self._changed = True
        if time.monotonic() - self._written > _WRITE_EVERY:
            self.close()

    def close(self) -> None:
        """Write the file, if anything changed."""
        if self._changed:
            self.path.absolute().parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(self.path) as unfinished:
                unfinished.write_text(json.dumps(self._entries, indent=2) + "\n", encoding="utf-8")
            self._changed = False
            self._written = time.monotonic()


def _entries(path: Path) -> dict[str, dict[str, Any]]:
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} cannot be read as JSON ({error})") from error
    if not isinstance(found, dict) or not all(isinstance(one, dict) for one in found.values()):
        raise DatasetError(
            f"{path} holds no captions in kohya's layout; name another file with --output"
        )
    return found


def metadata_path(inputs: Iterable[Path]) -> Path:
    """`metadata.jsonl` in the one folder that the inputs are or lie in.

    Raises:
        ConfigError: they are in several folders, or there are none.
    """
    folders = {path if os.path.isdir(path) else path.parent for path in inputs}
    if len(folders) != 1:
        raise ConfigError(
            f"the images are in {len(folders)} folders; say which file to write with --output"
        )
    return folders.pop() / METADATA


def _read(path: Path) -> tuple[dict[str, dict[str, Any]], bool]:
    """The last record of each file name, and whether the file can be appended to as it is."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}, True
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} cannot be read as lines of JSON ({error})") from error
    lines = text.split("\n")  # `splitlines` would also split at signs that JSON allows in a text
    tidy = not text or text.endswith("\n")
    records: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        record = _record(line)
        if record is not None:
            tidy &= record["file_name"] not in records
            records[record["file_name"]] = record
        elif number < len(lines):
            raise DatasetError(
                f"line {number} of {path} is no JSON with a file_name; mend it, or name "
                "another file with --output"
            )
        # Else a last line without its end: a run was cut off while it wrote this one.
    return records, tidy


def _record(line: str) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except json.JSONDecodeError:
        return None
    if not isinstance(record, dict) or not isinstance(record.get("file_name"), str):
        return None
    return record
