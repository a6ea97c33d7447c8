"""Files that hold the captions of many images, which others may write at the same time: other
programs, and other runs of this one.

So a file is read again whenever it has changed, and the captions of this run are merged into it:
entries and fields that others wrote stay.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import TypeVar

from vlv.data.samples import lines_with_text
from vlv.errors import ConfigError
from vlv.files import atomic_file, sync
from vlv.inference.written import (
    ChangedMeanwhileError,
    FileState,
    Replace,
    Written,
    state_of,
)

# Seconds that another program gets to finish a file that it is writing.
PATIENCE = 1.0

_T = TypeVar("_T")


class CaptionList(ABC):
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

    def check_place(self) -> None:
        """Create the folder of the file. Raises ConfigError where nothing can be written there."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            TemporaryFile(dir=self._folder).close()
        except OSError as error:
            raise ConfigError(
                f"{self.path} cannot be written ({error.strerror}); name another file with --output"
            ) from error

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
        return self._replace is Replace.NONE or not self._is_ours(name, text)

    def _is_ours(self, name: str, text: str) -> bool:
        """Whether this program wrote the captions of an image that are in the file."""
        return self._written.is_ours(self._key(name), text)

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


def until_unchanged(attempt: Callable[[], _T]) -> _T:
    """Read, merge and write; again each time that somebody has written the file in between."""
    while True:
        with suppress(ChangedMeanwhileError):
            return attempt()


def joined(*values: object) -> str:
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
