"""kohya's JSON: one object with an entry for each image."""

import json
import os
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from vlv.data.captioned import image_of_key
from vlv.errors import DatasetError
from vlv.files import write_text
from vlv.inference.caption_lists.common import PATIENCE, CaptionList, joined, until_unchanged
from vlv.inference.written import Replace, one_at_a_time, state_of
from vlv.text import MAX_OWN_JSON_BYTES, read_json

# Seconds after which a file that is written as a whole is written again; a long file later, so that
# a twentieth of the time is spent on it.
_WRITE_EVERY = 5.0
_SHARE = 1 / 20


class CaptionsJson(CaptionList):
    """kohya's JSON: `{"<absolute path of the image>": {"caption": ...}}`, as sd-scripts read it.

    Other images in an existing file stay, and other fields of an image. So does a key that stands
    for an image in another way, as sd-scripts' stems do: it means what `vlv.data.captioned` reads,
    so that images with one stem share no entry. The whole file is written every few seconds and by
    `close`. Several captions of an image are the lines of its `caption`: sd-scripts use the first,
    or with `enable_wildcard` draw one.
    """

    def __init__(self, path: Path, replace: Replace = Replace.NONE) -> None:
        super().__init__(path, replace)
        self._entries: dict[str, Any] = {}
        # Place that a key means -> such keys of the file; name of an image -> the key of its entry.
        self._places: dict[str, list[str]] = {}
        self._keys: dict[str, str] = {}
        self._refresh()
        self._next = time.monotonic() + _WRITE_EVERY
        self._changed = False
        self._kept: list[Path] = []

    def put(self, image: Path, caption: str, *others: str) -> bool:
        """Take the image's captions; written after some seconds, or by `close`."""
        name = self._name(image)
        if self._stays(name):
            return False
        self._put[name] = [caption, *others]
        self._changed = True
        if time.monotonic() > self._next:
            self._next = time.monotonic() + _WRITE_EVERY
            # Another program may be writing the file, or the disk is full: the next attempt, or
            # `close`, writes it.
            with suppress(DatasetError, OSError):
                self._write()
        return True

    def close(self) -> list[Path]:
        """Write the file if anything is left to write.

        Raises:
            DatasetError: the file cannot be read or written any more; the captions are then in a
                file beside it, or in the folder for temporary files.
        """
        until = time.monotonic() + PATIENCE
        while self._changed or (self._put and state_of(self.path) != self._state):
            try:
                self._write()
            except (DatasetError, OSError) as error:
                if time.monotonic() < until:
                    time.sleep(PATIENCE / 20)
                    continue
                reason = str(error)
                if isinstance(error, OSError):
                    reason = f"{self.path} cannot be written ({error.strerror})"
                raise DatasetError(f"{reason}; {self._rescued()}") from error
        kept, self._kept = self._kept, []
        return kept

    def _name(self, image: Path) -> str:
        return str(image.absolute())

    def _text(self, name: str) -> str:
        return self._text_of(self._entry_key(name))

    def _key(self, name: str) -> str:
        return super()._key(self._entry_key(name))

    def _entry_key(self, name: str) -> str:
        """The key of an image's entry in the file; of a new one the image's name."""
        if name not in self._keys:
            found = self._keys_in_file(name)
            captioned = (key for key in found if self._text_of(key))
            self._keys[name] = next(captioned, found[0] if found else name)
        return self._keys[name]

    def _keys_in_file(self, name: str) -> list[str]:
        place = os.path.normpath(name)
        stem, _ = os.path.splitext(place)
        exact = sorted(self._places.get(place, ()), key=lambda key: key != name)
        bare = self._places.get(stem, ())
        files = ((key, image_of_key(self._folder, key)) for key in bare)
        return exact + [key for key, file in files if file and os.path.normpath(file) == place]

    def _text_of(self, key: str) -> str:
        entry = self._entries.get(key)
        return joined(entry.get("caption") if isinstance(entry, dict) else entry)

    def _write(self) -> None:
        """Merge the captions of this run into the current file."""
        start = time.monotonic()
        self._folder.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(self.path):
            until_unchanged(self._merge)
        self._changed = False
        end = time.monotonic()
        self._next = end + max(_WRITE_EVERY, (end - start) / _SHARE)

    def _merge(self) -> None:
        self._refresh()
        new = {name: "\n".join(texts) for name, texts in self._put.items()}
        new = {name: text for name, text in new.items() if self._text(name) != joined(text)}
        for name in [name for name in new if self._stays(name)]:
            self._kept.append(Path(name))
            del new[name], self._put[name]
        if new:
            self._written.note((self._key(name), text) for name, text in new.items())
            keys = {self._entry_key(name): text for name, text in new.items()}
            entries = {**self._entries, **{key: self._entry(key, keys[key]) for key in keys}}
            with self._replaced() as unfinished:
                text = json.dumps(entries, indent=2) + "\n"
                unfinished.write_text(text, encoding="utf-8")
            self._entries = entries

    def _entry(self, key: str, text: str) -> dict[str, Any]:
        before = self._entries.get(key)
        return {**(before if isinstance(before, dict) else {}), "caption": text}

    def _refresh(self) -> None:
        """Read the file again if it has changed."""
        state = state_of(self.path)
        if state == self._state:
            return
        found = read_json(self.path, DatasetError, MAX_OWN_JSON_BYTES) if state else {}
        if not isinstance(found, dict) or (
            found and not any(isinstance(one, dict) for one in found.values())
        ):
            raise DatasetError(
                f"{self.path} holds no captions in kohya's layout; name another file with --output"
            )
        self._entries, self._state = found, state
        self._places, self._keys = defaultdict(list), {}
        for key in found:
            self._places[os.path.normpath(os.path.join(self._folder, key))].append(key)

    def _rescued(self) -> str:
        """Write the captions of this run to a separate file. Returns words that name it."""
        name = f"{self.path.stem}.new{self.path.suffix}"
        entries = {name: {"caption": "\n".join(texts)} for name, texts in self._put.items()}
        for folder in (self._folder, Path(gettempdir())):
            with suppress(OSError):
                write_text(folder / name, json.dumps(entries, indent=2) + "\n")
                return f"the captions of this run are in {folder / name}"
        return "the captions of this run are lost"
