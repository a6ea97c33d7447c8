"""YAML of unknown origin: what is meant, or one sentence that names the line."""

import time
from pathlib import Path

import pytest

from vlv.errors import ConfigError
from vlv.yaml_files import MAX_YAML_BYTES, parse_yaml, read_yaml


def _growing(step: str) -> str:
    """Nine lists, each of ten of the one before."""
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    for number in range(1, 10):
        parts = ", ".join([f"*a{number - 1}"] * 10)
        lines.append(step.format(number=number, parts=parts))
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "the key a comes twice, in lines 1 and 3"),
        ("a: {'b': 1, b: 2}", "the key b comes twice"),
        ("a:\n\tb: 1\n", "line 2 has a tab where YAML wants spaces"),
        ("a: 1\nb: [1\nc: 2", "line 3"),
        ("a: b: c", "line 1: mapping values are not allowed here"),
        ("a: 1\n---\nb: 2", "another document"),
        ("a: *nobody", "line 1: found undefined alias"),
        ("a: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("a: 2024-13-45", "a value that YAML does not know"),
        ("a: " + "1" * 5000, "a value that YAML does not know"),
        ("a: !!bool maybe", "a value that YAML does not know"),
        ("a: \x00", "'\\x00', which YAML does not allow"),
        ("? [a]\n: b", "unhashable key"),
        ("a: &a [*a]", "repeats itself without end"),
        ("[" * 100_000, "more than 64 levels"),
        ("[" * 100 + "]" * 100, "more than 64 levels"),
        (_growing("a{number}: &a{number} [{parts}]"), "more than 50000 values"),
        (_growing("a{number}: &a{number} {{<<: [{parts}]}}"), "more than 50000 values"),
        ("a: 1\n" * MAX_YAML_BYTES, "more than 256 kB"),
    ],
)
def test_what_is_wrong_is_one_quick_sentence(text: str, message: str) -> None:
    start = time.process_time()
    with pytest.raises(ConfigError) as refused:
        parse_yaml(text, "config x.yaml", ConfigError)
    assert time.process_time() - start < 5
    reported = str(refused.value)
    assert reported.startswith("config x.yaml ") and message in reported and "\n" not in reported


def test_a_merged_key_may_be_set_anew() -> None:
    merged = parse_yaml("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}", "here", ConfigError)
    assert merged["b"] == {"x": 3, "y": 2}


def test_words_that_look_like_numbers_stay_words() -> None:
    read = parse_yaml("[1e3x, e3, 2e, '1e3', v1e3]", "here", ConfigError)
    assert read == ["1e3x", "e3", "2e", "1e3", "v1e3"]


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe")
    for name, message in (
        ("pipe", "is not a file"),
        ("none", "cannot be read"),
        (".", "not a file"),
    ):
        with pytest.raises(ConfigError, match=message):
            read_yaml(tmp_path / name, f"config {name}", ConfigError)
