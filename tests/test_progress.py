"""Long work says how far it is: a line a minute where no terminal shows a bar."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from vlv import progress
from vlv.data.image_sets import open_image_set
from vlv.data.sets import write_set
from vlv.data.world_sets import world_samples
from vlv.progress import ProgressBar
from vlv.training.batched_lines import write_lines


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No minute between two lines."""
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)


@dataclass
class Line:
    """A line of a file."""

    number: int


def bar(said: list[str], **options: Any) -> ProgressBar:
    return ProgressBar(unit="image", description="writing", say=said.append, **options)


@pytest.mark.usefixtures("at_once")
def test_a_line_has_what_is_done_the_whole_and_a_rate() -> None:
    said: list[str] = []
    assert list(bar(said, items=["a", "b"])) == ["a", "b"]
    with bar(said, total=5000, initial=1000) as moved:
        moved.update(200)
    with bar(said) as without_an_end:
        without_an_end.update()
    heads = ["1 of 2 images", "2 of 2 images", "1,200 of 5,000 images", "1 image"]
    for line, head in zip(said, heads, strict=True):
        assert line.startswith(f"writing: {head}, ")
        assert line.endswith((" a second", " a minute"))


def test_there_is_a_minute_between_two_lines() -> None:
    said: list[str] = []
    for _ in bar(said, items=range(1000)):
        pass
    assert said == []


@pytest.mark.usefixtures("at_once")
def test_training_says_that_it_makes_an_index(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_set(world_samples(5), tmp_path / "set", format="webdataset", shard_size=2)
    caplog.set_level(logging.INFO, "vlv")
    open_image_set(tmp_path / "set", index_folder=tmp_path / "indexes")
    begun, *lines = caplog.messages
    assert begun == f"indexing 3 shards, once, into {tmp_path / 'indexes'}"
    assert lines[-1].startswith("index: 3 of 3 shards, ")
    caplog.clear()
    open_image_set(tmp_path / "set", index_folder=tmp_path / "indexes")
    assert not caplog.messages


@pytest.mark.usefixtures("at_once")
def test_files_of_lines_say_how_far_they_are(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "vlv")
    write_lines(tmp_path / "lines.jsonl", range(5), lambda part: map(Line, part), 4)
    assert [message.partition(", ")[0] for message in caplog.messages] == [
        "lines: 4 of 5 pictures",
        "lines: 5 of 5 pictures",
    ]


@pytest.mark.usefixtures("at_once")
def test_every_step_of_curation_says_how_far_it_is(tmp_path: Path, vlv: Callable[..., Any]) -> None:
    write_set(world_samples(5), tmp_path / "set", format="webdataset", shard_size=2)
    ran = vlv("data", "curate", tmp_path / "set", tmp_path / "out", "--workers", 1, "--keep-plain")
    assert ran.code == 0, ran.err
    heads = [line.partition(", ")[0] for line in ran.err.splitlines()]
    shards = [f"{number} of 3 shards" for number in (1, 2, 3)]
    assert heads == [
        *(f"vlv: images: {done}" for done in shards),
        "vlv: looking for duplicates among the images of 3 shards",
        "vlv: compared: 1 of 1 block",
        *(f"vlv: dropped: {done}" for done in shards),
        *(f"vlv: writing: {done}" for done in shards),
    ]
