"""What a job has done, in a database in its target, so that it goes on after any kill.

Everything up to a finished shard is committed with it. What a killed process had begun is done
again, with the same names: a name belongs to the place of its image in the source.
"""

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Self

from vlv.data.items import Place
from vlv.data.lenient import Unusable
from vlv.errors import ConfigError, DatasetError
from vlv.text import printable

FOLDER = ".vlv-data"
_FILE = "job.sqlite"
_TABLES = """
CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT);
CREATE TABLE IF NOT EXISTS shards (
    part TEXT, number INTEGER, images INTEGER, origin INTEGER, item INTEGER,
    PRIMARY KEY (part, number)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS keys (
    part TEXT, key TEXT, origin INTEGER, item INTEGER, old TEXT,
    PRIMARY KEY (part, key)) WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS places ON keys (origin, item);
CREATE TABLE IF NOT EXISTS refused (
    origin INTEGER, item INTEGER, name TEXT, reason TEXT, message TEXT,
    PRIMARY KEY (origin, item)) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class PartState:
    """The finished shards of a part, and the place in the source after them."""

    shards: int = 0
    images: int = 0
    next: Place = (0, 0)


class Record:
    """The record of the job in a target; use it in a `with`. For one process at a time."""

    def __init__(self, target: Path, settings: dict[str, Any]) -> None:
        """Raises ConfigError if the target holds another job, or other files."""
        folder = target / FOLDER
        if target.exists() and not target.is_dir():
            raise ConfigError(f"{printable(target)} is no folder; name a new one")
        if target.is_dir() and not folder.is_dir() and any(target.iterdir()):
            raise ConfigError(f"{printable(target)} holds other files already; name a new folder")
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / _FILE
        self._last: dict[tuple[str, str], int] = {}
        """(part, key that was taken) -> the number that the last image got for it."""
        try:
            self._db = sqlite3.connect(self._path, isolation_level=None, timeout=0)
            # Nobody else may write the same shards.
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.executescript(_TABLES)
            self._db.execute("BEGIN IMMEDIATE")
            self._check_settings(target, settings)
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise ConfigError(
                    f"another process writes into {printable(target)}; wait until it ends"
                ) from error
            raise self._unusable(error) from error
        except sqlite3.DatabaseError as error:
            raise self._unusable(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Raises DatasetError in place of an error of the database, such as a full disk."""
        self._db.close()
        if isinstance(error, sqlite3.DatabaseError):
            raise self._unusable(error) from error

    def _unusable(self, error: Exception) -> DatasetError:
        return DatasetError(
            f"{printable(self._path)} cannot be written or is damaged ({error}); free some space, "
            "or name another folder for the results"
        )

    def _check_settings(self, target: Path, settings: dict[str, Any]) -> None:
        known = self._about("settings")
        if known is None:
            self._set("settings", settings)
            self.commit()
        elif known != settings:
            names = [name for name in settings if known.get(name) != settings[name]]
            changed = ", ".join(name for name in names if name != "sources hash")
            why = f"was begun with another {changed}" if changed else "holds results of SRC before"
            hint = "give the same settings" if changed else "SRC has changed since"
            raise ConfigError(f"{printable(target)} {why}; {hint}, or name a new folder")

    def _about(self, name: str) -> Any:
        row = self._db.execute("SELECT value FROM about WHERE name = ?", (name,)).fetchone()
        return None if row is None else json.loads(row[0])

    def _set(self, name: str, value: Any) -> None:
        self._db.execute("INSERT OR REPLACE INTO about VALUES (?, ?)", (name, json.dumps(value)))

    def commit(self) -> None:
        """Bring everything until now to the disk."""
        self._db.execute("COMMIT")
        self._db.execute("BEGIN IMMEDIATE")

    @property
    def finished(self) -> bool:
        """Whether the job is done."""
        return bool(self._about("finished"))

    def finish(self) -> None:
        """Mark the job as done."""
        self._set("finished", True)
        self.commit()

    def state(self, part: str) -> PartState:
        """What is finished of a part."""
        number, images = self._db.execute(
            "SELECT count(*), sum(images) FROM shards WHERE part = ?", (part,)
        ).fetchone()
        if not number:
            return PartState()
        origin, item = self._db.execute(
            "SELECT origin, item FROM shards WHERE part = ? AND number = ?", (part, number - 1)
        ).fetchone()
        return PartState(number, images, (origin, item))

    def add_shard(self, part: str, images: int, end: Place) -> None:
        """Record a shard whose files are on the disk, up to the place `end`."""
        number = self.state(part).shards
        self._db.execute("INSERT INTO shards VALUES (?, ?, ?, ?, ?)", (part, number, images, *end))
        self.commit()

    def key(self, part: str, place: Place, old: str, wanted: str) -> str:
        """The key of the image at a place: `wanted`, or another where it is taken. `old` is that in
        the source.
        """
        known = self._db.execute(
            "SELECT key FROM keys WHERE origin = ? AND item = ?", place
        ).fetchone()
        if known is not None:
            return str(known[0])
        # From the last one on: a table may give all of its images one name.
        for number in count(self._last.get((part, wanted), 1)):
            key = wanted if number == 1 else f"{wanted}-{number}"
            row = (part, key, *place, old)
            if self._db.execute("INSERT OR IGNORE INTO keys VALUES (?, ?, ?, ?, ?)", row).rowcount:
                if number > 1:
                    self._last[part, wanted] = number
                return key
        raise AssertionError("there is always another name")

    def renamed(self, most: int) -> tuple[int, list[tuple[str, str]]]:
        """How many images have another key than in their source, and (old, new) of the first."""
        where = "FROM keys WHERE key != old"
        (number,) = self._db.execute(f"SELECT count(*) {where}").fetchone()
        first = self._db.execute(f"SELECT old, key {where} ORDER BY origin, item LIMIT ?", (most,))
        return number, [(old, new) for old, new in first]

    def refuse(self, place: Place, refused: Unusable) -> bool:
        """Record an image that is left out; returns whether this is new."""
        added = self._db.execute(
            "INSERT OR IGNORE INTO refused VALUES (?, ?, ?, ?, ?)",
            (*place, printable(refused.name), refused.reason, printable(refused.message)),
        )
        return added.rowcount > 0

    def refused(self) -> Iterator[Unusable]:
        """The images that were left out, in order."""
        for name, reason, message in self._db.execute(
            "SELECT name, reason, message FROM refused ORDER BY origin, item"
        ):
            yield Unusable(name, message, reason)

    def reasons(self) -> Counter[str]:
        """How many were left out for each reason."""
        return Counter(dict(self._db.execute("SELECT reason, count(*) FROM refused GROUP BY 1")))
