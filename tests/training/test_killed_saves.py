"""A kill inside of a save, whatever is on the disk by then: the checkpoint before is whole, and the
run goes on from it.
"""

from pathlib import Path
from typing import Any

import pytest
from tests.training import ranks
from tests.training.conftest import Workshop
from tests.training.test_sharding import check_same

from vlv.training.checkpoint import list_checkpoints, read_checkpoint

# What a process syncs: a file for weights, moments and average; then the first one alone the state,
# the manifest, their folder and, when it has its name, the folder of the run.
FILES, OF_THE_FIRST = 3, 4
NAMED = FILES + OF_THE_FIRST
SETTINGS: dict[str, Any] = {"use_ema": True, "checkpointing_steps": 1, "logging_steps": 1}
SETTINGS |= {"sharding": "fsdp", "validation_steps": 1000, "checkpoints_total_limit": 2}


def run_killed_in_saves(
    workshop: Workshop, folder: Path, kills: list[tuple[int, int]], processes: int
) -> None:
    """Each process group writes a whole checkpoint and is killed in the next: a rank, before its
    sync of a number.
    """
    steps = 2 * len(kills) + 2
    config = workshop.config(
        "language-model",
        output_dir=str(folder),
        train_batch_size=4 // processes,
        max_train_steps=steps,
        **SETTINGS,
    )
    saved = 0
    for rank, number in kills:
        of_a_save = FILES if rank else NAMED
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(ranks.KILLED_AT, f"{rank} {of_a_save + number}")
            code, errors = ranks.run("language-model", [config] * processes)
        assert code == 9, errors
        saved += 2 if number == NAMED else 1
        newest = list_checkpoints(folder)[-1]
        assert newest.name == f"checkpoint-{saved}"
        assert (folder / f".unfinished-{saved + 1}").is_dir() == (number != NAMED)
        read_checkpoint(newest)
    code, errors = ranks.run("language-model", [config] * processes)
    assert code == 0, errors
    assert [one.name for one in list_checkpoints(folder)] == [
        f"checkpoint-{step}" for step in (steps - 1, steps)
    ]
    assert not list(folder.glob(".unfinished-*"))


def check_killed_equals_whole(
    workshop: Workshop, folder: Path, kills: list[tuple[int, int]], processes: int
) -> None:
    run_killed_in_saves(workshop, folder / "killed", kills, processes)
    steps = 2 * len(kills) + 2
    config = workshop.config(
        "language-model",
        output_dir=str(folder / "whole"),
        train_batch_size=4 // processes,
        max_train_steps=steps,
        **SETTINGS,
    )
    code, errors = ranks.run("language-model", [config] * processes)
    assert code == 0, errors
    check_same(folder / "whole", folder / "killed", 0.0)


def test_kills_inside_of_a_save_change_nothing(workshop: Workshop, tmp_path: Path) -> None:
    """After the first file, before the manifest, and before older checkpoints are removed."""
    check_killed_equals_whole(workshop, tmp_path, [(0, 2), (0, FILES + 2), (0, NAMED)], 1)


@pytest.mark.slow
def test_kills_of_either_process_at_every_moment_of_a_save_change_nothing(
    workshop: Workshop, tmp_path: Path
) -> None:
    kills = [(0, number) for number in range(1, NAMED + 1)]
    kills += [(1, number) for number in range(1, FILES + 1)]
    check_killed_equals_whole(workshop, tmp_path, kills, 2)
