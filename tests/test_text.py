"""Text, JSON and names of unknown origin."""

import json
import os
from pathlib import Path

import pytest

from vlv.errors import DatasetError
from vlv.text import (
    MAX_OWN_JSON_BYTES,
    begun_with,
    counted,
    decode_text,
    parse_json,
    printable,
    read_json,
    read_object,
    well_formed,
)

NAÏVE = "a naïve café’s “sign”"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252"])
def test_encodings_of_windows_are_read(encoding: str) -> None:
    assert decode_text(f"{NAÏVE}\r\nsecond\r".encode(encoding)) == f"{NAÏVE}\nsecond\n"


@pytest.mark.parametrize(
    ("word", "caption", "expected"),
    [
        ("sks", "Sks, a cube.", "Sks, a cube."),
        ("art", "Artificial light falls in.", "art, Artificial light falls in."),
        ("[x]", "[x] a cube", "[x] a cube"),
        ("two\nlines", "A cube.", "two lines, A cube."),
        (" ", "A cube.", "A cube."),
    ],
)
def test_a_trigger_is_a_whole_word_on_one_line(word: str, caption: str, expected: str) -> None:
    assert begun_with(word, caption) == expected


@pytest.mark.parametrize(
    "data",
    ["红色的球在桌子上".encode("gbk"), "красный шар на столе".encode("cp1251"), b"\xff\xfea"],
)
def test_other_encodings_are_refused_and_not_guessed(data: bytes) -> None:
    with pytest.raises(ValueError, match="text"):
        decode_text(data)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 100_000, "levels"),
        ("[" * 70 + "]" * 70, "levels"),
        ('{"a":' * 65 + "1" + "}" * 65, "levels"),
        ("9" * 5_000, "5000 digits"),
        ("[1, 2", "not JSON"),
        (" " * 64_000_001, "64 MB"),
    ],
)
def test_hostile_json_is_one_sentence(text: str, reason: str) -> None:
    with pytest.raises(DatasetError, match=f"^it .*{reason}"):
        parse_json(text, "it", DatasetError)


def test_large_files_of_a_user_are_read(tmp_path: Path) -> None:
    (tmp_path / "large.json").write_text(json.dumps({"a": "x" * 64_000_001}))
    with pytest.raises(DatasetError, match="64 MB"):
        read_object(tmp_path / "large.json", DatasetError)
    assert len(read_object(tmp_path / "large.json", DatasetError, MAX_OWN_JSON_BYTES)["a"]) > 6e7


def test_ordinary_json_is_what_it_says() -> None:
    value = {"a": [1, -(2**63), 1.5, None, True, {"b": "ü"}], "deep": 3}
    assert parse_json(json.dumps(value), "it", DatasetError) == value
    assert parse_json(json.dumps(value).encode("utf-16"), "it", DatasetError) == value
    assert parse_json("[" * 64 + "]" * 64, "it", DatasetError) is not None


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DatasetError, match="not a file"):
        read_json(tmp_path / "pipe", DatasetError)


def test_names_are_one_line_whatever_they_hold() -> None:
    assert printable("größe 球.png") == "größe 球.png"
    assert printable("a\nb\x1b[31m\u202e.png") == r"a\nb\x1b[31m\u202e.png"
    assert printable(os.fsdecode(b"caf\xe9.png")) == r"caf\xe9.png"
    assert well_formed("a\ud83d b") == "a\ufffd b"


@pytest.mark.parametrize(
    ("number", "noun", "expected"),
    [(1, "batch", "1 batch"), (1200, "image", "1,200 images"), (2, "batch", "2 batches")],
)
def test_numbers_have_their_plural(number: int, noun: str, expected: str) -> None:
    assert counted(number, noun) == expected
