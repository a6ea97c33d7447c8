"""Files that hold the captions of many images: `metadata.jsonl`, and kohya's JSON.

Other programs, and other runs of this one, may write the same file at the same time. So the file is
read again whenever it has changed, and the captions of this run are merged into it: entries and
fields that others wrote stay.
"""

import errno
import json
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from vlv.data.folder import metadata_line
from vlv.data.samples import lines_with_text
from vlv.errors import ConfigError, DatasetError
from vlv.files import atomic_file, sync
from vlv.inference.written import (
    ChangedMeanwhileError,
    FileState,
    Replace,
    Written,
    as_state,
    one_at_a_time,
    state_of,
)
from vlv.text import decode_text, read_json

# Seconds after which a file that is written as a whole is written again.
_WRITE_EVERY = 5.0
# Seconds that another program gets to finish a file that it is writing.
_PATIENCE = 1.0
# The state of a file that others have changed in a way that is not known yet.
_UNKNOWN: FileState = (-1, -1, -1)

_T = TypeVar("_T")


class _CaptionList(ABC):
    """What both kinds of file share: which captions stay.

    Raises:
        ConfigError: `path` is a folder.
        DatasetError: the file exists and holds something else.
    """

    def __init__(self, path: Path, replace: Replace = Replace.NONE) -> None:
        if path.is_dir():
            raise ConfigError(f"{path} is a folder; name the file for the captions in it")
        self.path = path
        self._folder = path.absolute().parent
        self._replace = replace
        self._written = Written(self._folder)
        # Name -> the captions of this run.
        self._put: dict[str, list[str]] = {}
        # The state of the file when this run last read or wrote it.
        self._state: FileState | None = None

    def has(self, image: Path) -> bool:
        """Whether the image has a caption in the file."""
        return self._text(self._name(image)) != ""

    def keeps(self, image: Path) -> bool:
        """Whether the image has a caption in the file that must stay."""
        return self._stays(self._name(image))

    @abstractmethod
    def _name(self, image: Path) -> str:
        """The image's name in the file."""

    @abstractmethod
    def _text(self, name: str) -> str:
        """The captions of an image in the file, one per line."""

    def _stays(self, name: str) -> bool:
        text = self._text(name)
        if text == "" or self._replace is Replace.ALL:
            return False
        return self._replace is Replace.NONE or not self._written.is_ours(self._key(name), text)

    def _key(self, name: str) -> str:
        return f"{self.path.name}/{name}"

    @contextmanager
    def _replaced(self) -> Iterator[Path]:
        """`atomic_file` that replaces the file in the state in which it was read.

        Raises:
            ChangedMeanwhileError: the file has changed since, and stays.
        """
        with atomic_file(self.path) as unfinished:
            yield unfinished
            sync(unfinished)  # takes a while, so the file is looked at after it
            new = state_of(unfinished)
            if state_of(self.path) != self._state:
                raise ChangedMeanwhileError
        # The state of the file that was written, even if somebody has replaced it by now.
        self._state = new


class MetadataFile(_CaptionList):
    """`metadata.jsonl` of Hugging Face ImageFolder: lines of `{"file_name": ..., "text": ...}`.

    File names are relative to the file's folder. Lines are appended one by one, so that a run that
    is cut off keeps them. The last line of an image counts, and `close` drops earlier lines. Other
    fields, lines of other images, and lines that cannot be read stay. If an image has several
    captions, `texts` holds all of them and `text` the first.
    """

    def __init__(self, path: Path, replace: Replace = Replace.NONE) -> None:
        super().__init__(path, replace)
        self._records: dict[str, dict[str, Any]] = {}
        self._unread: list[str] = []
        # Whether lines can be appended to the file, and whether its last line is incomplete.
        self._tidy, self._torn = True, False
        self._repeated = False
        self._refresh()

    def put(self, image: Path, caption: str, *others: str) -> bool:
        """Append the image's line; after an OSError nothing is appended."""
        name = self._name(image)
        self._folder.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(self.path):
            if not _until_unchanged(lambda: self._add(name, [caption, *others])):
                return False
        self._put[name] = [caption, *others]
        return True

    def close(self) -> list[Path]:
        """Keep one line for each image, and make sure that the captions of this run are there."""
        if state_of(self.path) == self._state and self._tidy and not self._repeated:
            return []
        with one_at_a_time(self.path):
            return _until_unchanged(self._merge)

    @property
    def unread(self) -> int:
        """The number of lines that cannot be read; they stay as they are."""
        return len(self._unread)

    def _name(self, image: Path) -> str:
        return Path(os.path.relpath(image, self._folder)).as_posix()

    def _text(self, name: str) -> str:
        return captions_of_line(self._records.get(name, {}))

    def _add(self, name: str, texts: list[str]) -> bool:
        self._wait_for_writers(whole=name in self._records)
        if self._stays(name):
            return False
        self._append(name, texts)
        return True

    def _merge(self) -> list[Path]:
        """Merge the captions of this run into the current file. Returns the images whose captions
        in the file must stay.
        """
        kept = []
        self._wait_for_writers(whole=True)
        for name, texts in self._put.items():
            if self._text(name) == _joined(*_fields(texts)):
                continue
            if self._stays(name):
                kept.append(self._folder / name)
            else:
                self._append(name, texts)
        if self._repeated or not self._tidy:
            self._rewrite()
        return kept

    def _append(self, name: str, texts: list[str]) -> None:
        if not self._tidy:
            self._rewrite()
        before = {**self._records.get(name, {})}
        before.pop("texts", None)  # of an earlier run, for another caption
        text, several = _fields(texts)
        record = {**before, "file_name": name, "text": text}
        if several:
            record["texts"] = several
        self._written.note([(self._key(name), _joined(text, several))])
        line = (json.dumps(record) + "\n").encode("ascii")
        with open(self.path, "ab", buffering=0) as file:
            found = os.fstat(file.fileno())
            if found.st_size if self._state is None else as_state(found) != self._state:
                raise ChangedMeanwhileError
            try:
                if file.write(line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            except OSError:
                # The disk is full: half a line would spoil the next one.
                os.ftruncate(file.fileno(), found.st_size)
                raise
            after = os.fstat(file.fileno())
        self._repeated |= name in self._records
        self._records[name] = record
        grown = len(line) + (self._state[1] if self._state else 0)
        self._state = as_state(after) if after.st_size == grown else _UNKNOWN

    def _wait_for_writers(self, *, whole: bool) -> None:
        """`_refresh`, after waiting a while for another program to complete the last line."""
        self._refresh(whole=whole)
        while self._torn and time.time() - self.path.stat().st_mtime < _PATIENCE:
            time.sleep(_PATIENCE / 20)
            self._refresh(whole=True)

    def _refresh(self, *, whole: bool = False) -> None:
        """Read the file again if it has changed. Unless `whole`, only added lines are read if the
        rest seems unchanged.
        """
        state = state_of(self.path)
        if state == self._state:
            return
        if not whole and self._read_added(state):
            return
        self._records, self._unread = {}, []
        self._tidy, self._torn, self._repeated = True, False, False
        try:
            text = decode_text(data := self.path.read_bytes())
        except FileNotFoundError:
            self._state = None
            return
        except (OSError, ValueError) as error:
            raise DatasetError(
                f"{self.path} cannot be read as lines of JSON ({error}); mend it, or name another "
                "file with --output"
            ) from error
        self._take(text)
        if text.strip() and not self._records:
            raise DatasetError(
                f"line 1 of {self.path} is no JSON with a file_name, nor is another; mend it, or "
                "name another file with --output"
            )
        # Nothing can be appended to a file in another encoding.
        self._tidy &= data == text.encode("utf-8", "surrogatepass")
        self._state = state

    def _read_added(self, state: FileState | None) -> bool:
        """Read the lines that another run appended; False if more than that has changed."""
        before = self._state
        if not (before and state and self._tidy and before[0] == state[0] and before[1] < state[1]):
            return False
        with open(self.path, "rb") as file:
            file.seek(max(before[1] - 1, 0))
            data = file.read()
        lines = data[1:] if before[1] else data
        if (before[1] and data[:1] != b"\n") or not data.endswith(b"\n"):
            return False
        if not all(map(self._read, lines.decode("utf-8", "replace").split("\n")[:-1])):
            return False
        self._take(lines.decode("utf-8", "replace"))
        self._state = state
        return True

    def _take(self, text: str) -> None:
        """Add the lines of a text to the records."""
        # `splitlines` would also split at characters that JSON allows in a text.
        lines = text.split("\n")
        self._tidy &= not text or text.endswith("\n")
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            if read := self._read(line):
                name, record = read
                self._repeated |= name in self._records
                self._records[name] = record
            elif number < len(lines):
                self._unread.append(line)
            else:  # a run stopped in the middle of this line, or is writing it
                self._torn = True

    def _read(self, line: str) -> tuple[str, dict[str, Any]] | None:
        """The name and record of a line; None if it cannot be read."""
        with suppress(DatasetError):
            return metadata_line(line, "it", self._folder)
        return None

    def _rewrite(self) -> None:
        with self._replaced() as unfinished:
            lines = [json.dumps(record) for record in self._records.values()]
            text = "".join(line + "\n" for line in (*lines, *self._unread))
            unfinished.write_bytes(text.encode("utf-8", "surrogatepass"))
        self._tidy, self._torn, self._repeated = True, False, False


class CaptionsJson(_CaptionList):
    """kohya's JSON: `{"<absolute path of the image>": {"caption": ...}}`, as sd-scripts read it.

    Other images in an existing file stay, and other fields of an image. The whole file is written
    every few seconds and by `close`. Several captions of an image are the lines of its `caption`:
    sd-scripts use the first, or with `enable_wildcard` draw one.
    """

    def __init__(self, path: Path, replace: Replace = Replace.NONE) -> None:
        super().__init__(path, replace)
        self._entries: dict[str, Any] = {}
        self._refresh()
        self._flushed = time.monotonic()
        self._changed = False
        self._kept: list[Path] = []

    def put(self, image: Path, caption: str, *others: str) -> bool:
        """Take the image's captions; written after `_WRITE_EVERY` seconds, or by `close`."""
        name = self._name(image)
        if self._stays(name):
            return False
        self._put[name] = [caption, *others]
        self._changed = True
        if time.monotonic() - self._flushed > _WRITE_EVERY:
            self._flushed = time.monotonic()
            # Another program may be writing the file: the next attempt, or `close`, writes it.
            with suppress(DatasetError):
                self._write()
        return True

    def close(self) -> list[Path]:
        """Write the file if anything is left to write.

        Raises:
            DatasetError: the file cannot be read any more; the captions are then in a file beside
                it.
        """
        until = time.monotonic() + _PATIENCE
        while self._changed or (self._put and state_of(self.path) != self._state):
            try:
                self._write()
            except DatasetError as error:
                if time.monotonic() < until:
                    time.sleep(_PATIENCE / 20)
                    continue
                raise DatasetError(f"{error}; {self._rescued()}") from error
        kept, self._kept = self._kept, []
        return kept

    def _name(self, image: Path) -> str:
        return str(image.absolute())

    def _text(self, name: str) -> str:
        entry = self._entries.get(name)
        return _joined(entry.get("caption") if isinstance(entry, dict) else entry)

    def _write(self) -> None:
        """Merge the captions of this run into the current file."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(self.path):
            _until_unchanged(self._merge)
        self._changed = False
        self._flushed = time.monotonic()

    def _merge(self) -> None:
        self._refresh()
        new = {name: "\n".join(texts) for name, texts in self._put.items()}
        new = {name: text for name, text in new.items() if self._text(name) != _joined(text)}
        for name in [name for name in new if self._stays(name)]:
            self._kept.append(Path(name))
            del new[name], self._put[name]
        if new:
            self._written.note((self._key(name), text) for name, text in new.items())
            entries = {**self._entries, **{name: self._entry(name, new[name]) for name in new}}
            with self._replaced() as unfinished:
                text = json.dumps(entries, indent=2) + "\n"
                unfinished.write_text(text, encoding="utf-8")
            self._entries = entries

    def _entry(self, name: str, text: str) -> dict[str, Any]:
        before = self._entries.get(name)
        return {**(before if isinstance(before, dict) else {}), "caption": text}

    def _refresh(self) -> None:
        """Read the file again if it has changed."""
        state = state_of(self.path)
        if state == self._state:
            return
        found = read_json(self.path, DatasetError) if state else {}
        if not isinstance(found, dict) or (
            found and not any(isinstance(one, dict) for one in found.values())
        ):
            raise DatasetError(
                f"{self.path} holds no captions in kohya's layout; name another file with --output"
            )
        self._entries, self._state = found, state

    def _rescued(self) -> str:
        """Write the captions of this run to a separate file. Returns words that name it."""
        beside = self.path.with_name(f"{self.path.stem}.new{self.path.suffix}")
        entries = {name: {"caption": "\n".join(texts)} for name, texts in self._put.items()}
        with atomic_file(beside) as unfinished:
            unfinished.write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")
        return f"the captions of this run are in {beside}"


def captions_of_line(record: Mapping[str, Any]) -> str:
    """The captions in a record of metadata.jsonl, one per line; empty if there are none."""
    return _joined(record.get("text"), record.get("texts"))


def _until_unchanged(attempt: Callable[[], _T]) -> _T:
    """Read, merge and write; again each time that somebody has written the file in between."""
    while True:
        with suppress(ChangedMeanwhileError):
            return attempt()


def _fields(texts: list[str]) -> tuple[str, list[str] | None]:
    """The fields `text` and, if there are several captions, `texts` of metadata.jsonl."""
    return texts[0], texts if len(texts) > 1 else None


def _joined(*values: object) -> str:
    """The captions in fields of JSON, one per line: texts, and the texts in lists. Anything else,
    such as null or NaN, is no caption.
    """
    texts = [
        one
        for value in values
        for one in (value if isinstance(value, list) else [value])
        if isinstance(one, str)
    ]
    return "\n".join(line for text in texts for line in lines_with_text(text))
