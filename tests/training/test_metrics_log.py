"""The metrics log: a run goes on over what a crash left in it."""

import json
import logging
from pathlib import Path

import pytest
from tests.training.conftest import Workshop

from vlv.training.run_folder import append_metrics, drop_metrics_after, sum_of_metrics


def steps(folder: Path) -> list[int]:
    return [json.loads(x)["step"] for x in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    "damage",
    [
        b'{"step": 2, "lo',
        b"\0" * 300,
        b'{"loss": 3}',
        b"[2]",
        b'{"step": "2"}',
        b"\xff\xfe\xff",
        b"[" * 9000,
    ],
)
@pytest.mark.parametrize("end", [b"", b"\n"])
def test_lines_that_cannot_be_read_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: bytes, end: bytes
) -> None:
    append_metrics(tmp_path, {"step": 1, "loss": 0.5})
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(damage + end)
    if end:
        append_metrics(tmp_path, {"step": 2, "loss": 0.25})
        append_metrics(tmp_path, {"step": 3, "loss": 0.125})
    with caplog.at_level(logging.WARNING):
        drop_metrics_after(tmp_path, 2)
    assert steps(tmp_path) == ([1, 2] if end else [1])
    assert "1 lines of" in caplog.text


@pytest.mark.parametrize("damage", [b'{"step": 2, "sec', b"\0" * 300, b"[2]"])
def test_a_sum_is_of_the_lines_that_can_be_read(tmp_path: Path, damage: bytes) -> None:
    append_metrics(tmp_path, {"step": 1, "seconds": 0.5})
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(damage + b"\n")
    append_metrics(tmp_path, {"step": 3, "seconds": 0.25})
    append_metrics(tmp_path, {"step": 4, "loss": 1.0})
    assert sum_of_metrics(tmp_path, "seconds") == 0.75


def test_a_run_goes_on_over_a_torn_log(workshop: Workshop, tmp_path: Path) -> None:
    changes = {"output_dir": str(tmp_path / "lm"), "logging_steps": 1}
    workshop.run("language-model", **changes, max_train_steps=1)
    with (tmp_path / "lm" / "metrics.jsonl").open("ab") as file:
        file.write(b"\0" * 4096)
    workshop.run("language-model", **changes, max_train_steps=2)
    assert sorted(set(steps(tmp_path / "lm"))) == [1, 2]
