"""`metadata.jsonl` of Hugging Face ImageFolder, a line of JSON for each image."""

import errno
import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from vlv.data.folder_metadata import (
    METADATA,
    hidden_by_metadata,
    metadata_below,
    metadata_line,
    pop_caption,
)
from vlv.errors import ConfigError, DatasetError
from vlv.inference.caption_lists.common import PATIENCE, CaptionList, joined, until_unchanged
from vlv.inference.written import (
    ChangedMeanwhileError,
    FileState,
    Replace,
    Written,
    as_state,
    one_at_a_time,
    state_of,
)
from vlv.text import decode_text

# The state of a file that others have changed in a way that is not known yet.
_UNKNOWN: FileState = (-1, -1, -1)


class MetadataFile(CaptionList):
    """`metadata.jsonl` of Hugging Face ImageFolder: lines of `{"file_name": ..., "text": ...}`.

    File names are relative to the file's folder. Lines are appended one by one, so that a run that
    is cut off keeps them. The last line of an image counts, and `close` drops earlier lines. Other
    fields, lines of other images, and lines that cannot be read stay. If an image has several
    captions, `texts` holds all of them and `text` the first. Captions in the metadata of subfolders
    count too, since a line here would go before them.

    Raises:
        ConfigError: a `metadata.csv` is there, which nobody reads beside a new `metadata.jsonl`.
    """

    def __init__(self, path: Path, replace: Replace = Replace.NONE) -> None:
        super().__init__(path, replace)
        self._below: dict[str, str] = {}
        self._written_below: dict[str, Written] = {}
        if path.name == METADATA:
            _check_beside(path, replace)
            for _, entries in metadata_below(self._folder):
                self._below |= {name: captions_of_line(one) for name, one in entries.items()}
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
            if not until_unchanged(lambda: self._add(name, [caption, *others])):
                return False
        self._put[name] = [caption, *others]
        return True

    def close(self) -> list[Path]:
        """Keep one line for each image, and make sure that the captions of this run are there."""
        if state_of(self.path) == self._state and self._tidy and not self._repeated:
            return []
        with one_at_a_time(self.path):
            return until_unchanged(self._merge)

    @property
    def unread(self) -> int:
        """The number of lines that cannot be read; they stay as they are."""
        return len(self._unread)

    def _name(self, image: Path) -> str:
        return Path(os.path.relpath(image, self._folder)).as_posix()

    def _text(self, name: str) -> str:
        return captions_of_line(self._records.get(name, {})) or self._below.get(name, "")

    def _is_ours(self, name: str, text: str) -> bool:
        if captions_of_line(self._records.get(name, {})):
            return super()._is_ours(name, text)
        place, _, below = name.partition("/")  # of the file that has them, in a subfolder
        written = self._written_below.setdefault(place, Written(self._folder / place))
        return written.is_ours(f"{METADATA}/{below}", text)

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
            if self._text(name) == joined(*_fields(texts)):
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
        self._written.note([(self._key(name), joined(text, several))])
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
        while self._torn and time.time() - self.path.stat().st_mtime < PATIENCE:
            time.sleep(PATIENCE / 20)
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


def captions_of_line(record: Mapping[str, Any]) -> str:
    """The captions in a record of metadata.jsonl, one per line; empty if there are none, or where
    `vlv.data.folder_metadata` reads something that is no text.
    """
    if not isinstance(pop_caption(dict(record)), str):
        return ""
    # This program writes the first two, and its notes of captions are of both.
    return joined(record.get("text"), record.get("texts")) or joined(record.get("caption"))


def _check_beside(path: Path, replace: Replace) -> None:
    other = hidden_by_metadata(path.parent) if replace is Replace.NONE else None
    if other is not None:
        raise ConfigError(
            f"{other} would not be read beside a {METADATA}, nor the captions in it; name another "
            f"file with --output, or --overwrite writes {path} all the same"
        )


def _fields(texts: list[str]) -> tuple[str, list[str] | None]:
    """The fields `text` and, if there are several captions, `texts` of metadata.jsonl."""
    return texts[0], texts if len(texts) > 1 else None
