"""The ledger of answers: those of older versions stay valid."""

import sqlite3
from pathlib import Path

import pytest

from vlv.data.teacher.request import Request
from vlv.endpoints.endpoint import Answer
from vlv.endpoints.ledger import FOLDER, Ledger, Spent

URL = "http://localhost/v1"


def test_an_older_ledger_gets_the_seconds_of_new_answers(tmp_path: Path) -> None:
    request = Request("tutor")
    with Ledger(tmp_path, request, URL) as ledger:
        ledger.write("one", 1, Answer("a cat", "stop", 900, 40), None, "a cat")
    database = sqlite3.connect(tmp_path / FOLDER / "ledger.sqlite")
    database.execute("ALTER TABLE answers DROP COLUMN seconds")
    database.commit()
    database.close()
    with Ledger(tmp_path, request, URL) as ledger:
        assert ledger.spent() == Spent(1, 900, 40, 0.0)
        ledger.write("two", 1, Answer("a dog", "stop", 900, 50, 1.5), None, "a dog")
        assert ledger.spent("two") == Spent(1, 900, 50, 1.5)
        assert ledger.spent() == Spent(2, 1800, 90, 1.5)


def test_an_answer_that_cannot_be_written_costs_no_other(tmp_path: Path) -> None:
    with Ledger(tmp_path, Request("tutor"), URL) as ledger:
        with pytest.raises(UnicodeEncodeError):
            ledger.write("one", 1, Answer("\ud83d", "stop", 900, 40), None, "")
        ledger.write("two", 1, Answer("a dog", "stop", 900, 50), None, "a dog")
        assert (ledger.attempts("one"), ledger.attempts("two")) == (0, 1)
