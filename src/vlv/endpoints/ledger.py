"""The ledger of paid answers: every one is on disk before the next step.

It is a database in a folder of results. A process that is killed loses at most the answers that
were on their way. What is asked about is known by a hash: an image by that of its file, so that
renamed, moved and repeated images are not paid for again; a judge's question by that of all it
holds. Tables and columns have the names of the first use, captions of images.
"""

import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from vlv.endpoints.address import shown_address
from vlv.endpoints.endpoint import Answer
from vlv.errors import ConfigError, DatasetError
from vlv.text import printable

FOLDER = ".vlv-teacher"
_FILE = "ledger.sqlite"
_TABLES = """
CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT);
CREATE TABLE IF NOT EXISTS answers (
    image TEXT, attempt INTEGER, time REAL, text TEXT, finish TEXT,
    prompt_tokens INTEGER, completion_tokens INTEGER, problem TEXT, seconds REAL,
    PRIMARY KEY (image, attempt)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS captions (
    image TEXT PRIMARY KEY, caption TEXT, time REAL, attempts INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS refused (
    image TEXT PRIMARY KEY, reason TEXT, message TEXT) WITHOUT ROWID;
"""


class Asked(Protocol):
    """What all answers of a ledger were asked for."""

    @property
    def fingerprint(self) -> str:
        """The same for requests whose answers may stand in one ledger."""

    @property
    def about(self) -> dict[str, str]:
        """What the fingerprint consists of: name -> value, for messages."""


@dataclass(frozen=True)
class KeptCaption:
    """A caption and where it comes from."""

    caption: str
    time: float
    attempts: int


@dataclass(frozen=True)
class Spent:
    """What the answers in the ledger took."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0

    def __add__(self, answer: Answer) -> "Spent":
        return Spent(
            self.requests + 1,
            self.prompt_tokens + answer.prompt_tokens,
            self.completion_tokens + answer.completion_tokens,
            self.seconds + answer.seconds,
        )


class Ledger:
    """The ledger in a folder; use it in a `with`. For one process at a time (`DatasetError`)."""

    def __init__(self, folder: Path, request: Asked, base_url: str) -> None:
        (folder / FOLDER).mkdir(parents=True, exist_ok=True)
        self._path = folder / FOLDER / _FILE
        try:
            self._db = sqlite3.connect(self._path, isolation_level=None, timeout=0)
            # Nobody else may write: two runs would pay twice.
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.executescript(_TABLES)
            self._add_seconds()
            self._db.execute("BEGIN IMMEDIATE")
            self._check_request(request, base_url)
            self._db.execute("COMMIT")
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise DatasetError(
                    f"another process writes answers into {printable(folder)}; let it end, or "
                    "name another folder"
                ) from error
            raise self._refused(error) from error
        except sqlite3.DatabaseError as error:
            raise self._refused(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Raises DatasetError in place of an error of the database, such as a full disk."""
        self._db.close()
        if isinstance(error, sqlite3.DatabaseError):
            raise self._refused(error) from error

    def _refused(self, error: Exception) -> DatasetError:
        return DatasetError(
            f"{printable(self._path)} cannot be written or is damaged ({error}); free some space, "
            "put back a copy of it, or name another folder for the results"
        )

    def _add_seconds(self) -> None:
        """The column that older ledgers lack."""
        columns = [row[1] for row in self._db.execute("PRAGMA table_info(answers)")]
        if "seconds" not in columns:
            self._db.execute("ALTER TABLE answers ADD COLUMN seconds REAL")

    def _check_request(self, request: Asked, base_url: str) -> None:
        about = {"fingerprint": request.fingerprint, **request.about}
        known = dict(self._db.execute("SELECT name, value FROM about"))
        if known and known["fingerprint"] != about["fingerprint"] and self._holds_anything():
            changed = [name for name in about if known.get(name, "null") != about[name]]
            changed.remove("fingerprint")
            self._db.execute("ROLLBACK")
            raise ConfigError(
                f"the answers in {self._path.parent.parent} were asked for with another "
                f"{' and another '.join(changed)}; name a new folder for these"
            )
        rows = [*about.items(), ("base_url", shown_address(base_url))]
        self._db.execute("DELETE FROM about")
        self._db.executemany("INSERT INTO about VALUES (?, ?)", rows)

    def _holds_anything(self) -> bool:
        return any(
            self._db.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone()
            for table in ("answers", "captions", "refused")
        )

    def spent(self, image: str | None = None) -> Spent:
        """All of the answers, or those of one image."""
        where, values = ("", []) if image is None else (" WHERE image = ?", [image])
        (row,) = self._db.execute(
            "SELECT COUNT(*), TOTAL(prompt_tokens), TOTAL(completion_tokens), TOTAL(seconds) "
            f"FROM answers{where}",
            values,
        )
        requests, prompt_tokens, completion_tokens = map(int, row[:3])
        return Spent(requests, prompt_tokens, completion_tokens, float(row[3]))

    def caption(self, image: str) -> KeptCaption | None:
        """What was read from the answer about an image, by its hash."""
        query = "SELECT caption, time, attempts FROM captions WHERE image = ?"
        row = self._db.execute(query, [image]).fetchone()
        return None if row is None else KeptCaption(*row)

    def refusal(self, image: str) -> tuple[str, str] | None:
        """Reason and message of an image that is given up."""
        query = "SELECT reason, message FROM refused WHERE image = ?"
        found: tuple[str, str] | None = self._db.execute(query, [image]).fetchone()
        return found

    def attempts(self, image: str) -> int:
        """How many answers were paid for an image."""
        query = "SELECT COALESCE(MAX(attempt), 0) FROM answers WHERE image = ?"
        (number,) = self._db.execute(query, [image]).fetchone()
        return int(number)

    def write(
        self, image: str, attempt: int, answer: Answer, problem: str | None, caption: str
    ) -> None:
        """Write an answer, and with no problem its caption, to the disk."""
        now = time.time()
        try:
            with self._db:  # rolls back what fails
                self._db.execute("BEGIN")
                self._db.execute(
                    "INSERT INTO answers (image, attempt, time, text, finish, prompt_tokens, "
                    "completion_tokens, seconds, problem) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    [
                        *(image, attempt, now, answer.text, answer.finish, answer.prompt_tokens),
                        *(answer.completion_tokens, answer.seconds, problem),
                    ],
                )
                if problem is None:
                    self._db.execute(
                        "INSERT INTO captions VALUES (?, ?, ?, ?)", [image, caption, now, attempt]
                    )
        except sqlite3.DatabaseError as error:
            raise self._refused(error) from error

    def give_up(self, image: str, reason: str, message: str) -> None:
        """Ask no more for an image."""
        self._db.execute(
            "INSERT OR REPLACE INTO refused VALUES (?, ?, ?)", [image, reason, message]
        )

    def images(self) -> int:
        """How many different images have a caption or were given up."""
        (count,) = self._db.execute(
            "SELECT (SELECT count(*) FROM captions) + (SELECT count(*) FROM refused)"
        ).fetchone()
        return int(count)

    def forget_refusals(self) -> None:
        """Let images that were given up be asked for again."""
        self._db.execute("DELETE FROM refused")
        # Their answers stay on the bill, and count as no attempt any more.
        self._db.execute(
            "UPDATE answers SET image = image || '/' || time WHERE image NOT IN "
            "(SELECT image FROM captions) AND instr(image, '/') = 0"
        )

    def problems(self) -> dict[str, int]:
        """How often each problem with an answer occurred."""
        query = "SELECT problem, COUNT(*) FROM answers WHERE problem IS NOT NULL GROUP BY problem"
        return dict(self._db.execute(query))
