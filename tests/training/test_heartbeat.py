"""A process that hangs is named by the others, which end."""

import re
import signal
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from tests.training import ranks as running
from tests.training.conftest import Workshop
from tests.training.ranks import children_of, start_ranks, torchrun
from tests.training.test_preemption import wait_for_step

from vlv.training.checkpoint import list_checkpoints
from vlv.training.heartbeat import Beat, Heartbeat, Observations
from vlv.training.processes import Processes

PATIENCE = 2.0


class Clockwork:
    """Three processes as rank 1 sees them, a second a round."""

    def __init__(self) -> None:
        self.now = 0.0
        self.beats = [Beat(rank, "host", 100 + rank, busy=False) for rank in range(3)]
        self.seen = Observations(1, self.beats, self.now)

    def round(self, *changes: dict[str, object], answered: bool = True) -> list[int]:
        """Change the beats of the ranks; the ranks that are to blame."""
        self.now += 1
        pairs = zip(self.beats, changes, strict=True)
        self.beats = [replace(beat, **change) for beat, change in pairs]  # type: ignore[arg-type]
        if answered:
            self.seen.see(self.beats, self.now)
        return [beat.rank for beat in self.seen.hung(4, self.now)]


def test_a_process_without_a_sign_of_life_is_to_blame() -> None:
    clock = Clockwork()
    rounds = [clock.round({"tick": n}, {"tick": n}, {}) for n in range(1, 7)]
    # Those that live wait for it, and make no progress either.
    assert rounds == [[], [], [], [], [2], [2]]


def test_of_processes_that_live_the_one_furthest_behind_is_to_blame() -> None:
    clock = Clockwork()
    assert clock.round(*({"tick": 1, "progress": p} for p in (8, 7, 8))) == []
    rounds = [clock.round(*[{"tick": n}] * 3) for n in range(2, 7)]
    assert rounds == [[], [], [], [], [1]]


def test_work_that_may_take_any_time_is_no_hang() -> None:
    clock = Clockwork()
    for n in range(1, 20):
        assert clock.round({"tick": n, "busy": True}, {"tick": n}, {"tick": n}) == []
    for n in range(20, 23):
        assert clock.round({"tick": n, "busy": False}, {"tick": n}, {"tick": n}) == []


def test_a_store_that_does_not_answer_is_the_first_process_s() -> None:
    clock = Clockwork()
    rounds = [clock.round({}, {}, {}, answered=False) for _ in range(5)]
    assert rounds == [[], [], [], [], [0]]


def test_a_process_that_was_quiet_when_the_store_stopped_is_not_to_blame() -> None:
    clock = Clockwork()
    assert clock.round({"tick": 1}, {"tick": 1, "progress": 1}, {}) == []
    rounds = [clock.round({}, {}, {}, answered=False) for _ in range(5)]
    assert rounds == [[], [], [], [], [0]]


def test_a_process_that_is_done_is_not_missed() -> None:
    clock = Clockwork()
    clock.round({"tick": 1}, {"tick": 1}, {"done": True})
    for n in range(2, 12):
        assert clock.round({"tick": n, "progress": n}, {"tick": n}, {}) == []


def test_a_process_that_stood_still_itself_blames_nobody() -> None:
    clock = Clockwork()
    clock.now += 100
    assert clock.round({}, {}, {}, answered=False) == []


def test_a_run_of_one_process_has_no_thread() -> None:
    import threading

    before = set(threading.enumerate())  # of which those of other tests may end meanwhile
    heartbeat = Heartbeat(Processes(), PATIENCE, "")
    assert set(threading.enumerate()) <= before
    heartbeat.stop()


def endless(workshop: Workshop, folder: Path) -> Path:
    return workshop.config(
        "language-model",
        output_dir=str(folder),
        max_train_steps=100_000,
        checkpointing_steps=5,
        logging_steps=1,
        hang_seconds=PATIENCE,
    )


def test_a_stopped_process_is_named_and_the_other_ends(workshop: Workshop, tmp_path: Path) -> None:
    ranks = start_ranks("language-model", endless(workshop, tmp_path), 2)
    wait_for_step(tmp_path, 6, ranks)
    ranks[1].send_signal(signal.SIGSTOP)
    try:
        # Without heartbeats it would wait for half an hour.
        _, errors = ranks[0].communicate(timeout=120)
        assert ranks[0].returncode == 1, errors
        named = rf"no sign of progress for 2 s from rank 1 \(host \S+, pid {ranks[1].pid}; last: "
        assert re.search(named + r"[^)]+\); rank 0 ends: the last check", errors), errors
    finally:
        ranks[1].kill()
        ranks[1].communicate()


def computes(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE  # torchrun has not noticed its end yet
    except psutil.NoSuchProcess:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1, 2])
def test_torchrun_ends_when_a_rank_is_stopped(
    workshop: Workshop, tmp_path: Path, victim: int
) -> None:
    """The first process keeps the store of the heartbeats."""
    process = torchrun(3, "train", "language-model", "--config", str(endless(workshop, tmp_path)))
    wait_for_step(tmp_path, 6, [process])
    ranks = children_of(process)
    assert len(ranks) == 3
    ranks[victim].send_signal(signal.SIGSTOP)
    stopped = time.monotonic()
    while any(computes(rank) for rank in ranks if rank is not ranks[victim]):
        assert time.monotonic() - stopped < 120  # without heartbeats: half an hour
        time.sleep(0.05)
    print(f"the others ended {time.monotonic() - stopped:.1f} s after the signal")
    # torchrun gives the one that is stopped half a minute.
    _, errors = process.communicate(timeout=180)
    assert process.returncode == 1
    for rank in {0, 1, 2} - {victim}:
        assert re.search(
            rf"from rank {victim} \(host \S+, pid {ranks[victim].pid}; .*rank {rank} ends", errors
        ), errors
    assert not any(rank.is_running() for rank in ranks)


def test_a_checkpoint_may_take_longer_than_a_hang(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last one, for which the processes wait without a step in between."""
    monkeypatch.setenv(running.SLOW_DISK, str(PATIENCE))
    config = workshop.config(
        "language-model", output_dir=str(tmp_path), max_train_steps=2, hang_seconds=PATIENCE
    )
    code, errors = running.run("language-model", [config] * 2)
    assert code == 0, errors
    assert [one.name for one in list_checkpoints(tmp_path)] == ["checkpoint-2"]
