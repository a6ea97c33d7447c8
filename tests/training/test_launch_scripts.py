"""The scripts in configs/launch: two machines, both of them this one."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from subprocess import DEVNULL, PIPE

import pytest
from tests.launcher import programs
from tests.shared import free_port, until
from tests.training.conftest import Workshop
from tests.training.ranks import DEADLINE, start_ranks
from tests.training.test_preemption import WHOLE_RUN, assert_same_end

from vlv.training.checkpoint import list_checkpoints

SCRIPTS = Path(__file__).parents[2] / "configs" / "launch"
# Slurm is not here. This starts the tasks of a job as srun does, with what it tells them, and
# passes signals on to them.
SRUN = """#!{python} -IS
import os, signal, subprocess, sys
def task(rank):
    given = dict(SLURM_PROCID=str(rank), SLURM_LOCALID="0", SLURM_NTASKS="2", SLURM_NNODES="2")
    return subprocess.Popen(sys.argv[2:], env={{**os.environ, **given}})
tasks = [task(rank) for rank in range(2)]
signal.signal(signal.SIGUSR1, lambda *_: [one.send_signal(signal.SIGUSR1) for one in tasks])
sys.exit(max(one.wait() for one in tasks))
"""
SCONTROL = """#!/bin/sh
case "$1" in
    show) echo 127.0.0.1; echo other ;;
    requeue) echo "$2" >> "$REQUEUED" ;;
esac
"""


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("*.sh")), ids=lambda path: path.name)
def test_scripts_are_bash(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    assert os.access(script, os.X_OK)


def wait_for_checkpoint(folder: Path, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + DEADLINE
    while not list_checkpoints(folder):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("status", "times", "restarts"), [(143, 1, ""), (138, 1, "0"), (1, 0, "1"), (0, 0, "12")]
)
def test_slurm_script_queues_a_job_again_that_the_signal_ended(
    tmp_path: Path, status: int, times: int, restarts: str
) -> None:
    """143 is a run with a checkpoint, 138 one that was opening its model or writing the result. A
    job that was queued again does not begin again where its command says.
    """
    folder, requeued = programs(tmp_path / "programs"), tmp_path / "requeued"
    requeued.touch()
    waits = f'echo "$@" > {tmp_path}/words; touch {tmp_path}/began; while :; do sleep 0.1; done'
    srun = f"#!/bin/sh\ntrap 'exit {status}' USR1\n{waits}\n"
    for name, text in (("srun", srun), ("scontrol", SCONTROL)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    process = subprocess.Popen(
        [str(SCRIPTS / "slurm.sh"), "stage1", "resume_from_checkpoint=null"],
        env={
            **os.environ,
            "PATH": f"{folder}:{os.environ['PATH']}",
            "REQUEUED": str(requeued),
            "SLURM_JOB_ID": "7",
            "SLURM_JOB_NODELIST": "nodes[1-2]",
            **({"SLURM_RESTART_COUNT": restarts} if restarts else {}),
        },
    )
    until(lambda: (tmp_path / "began").exists() or process.poll() is not None, DEADLINE)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(timeout=DEADLINE) == status
    assert requeued.read_text().count("7") == times
    resumes = [word for word in (tmp_path / "words").read_text().split() if "resume" in word]
    latest = ["resume_from_checkpoint=latest"] * (restarts not in ("", "0"))
    assert resumes == ["resume_from_checkpoint=null", *latest]


@pytest.mark.slow
def test_slurm_script_stops_with_a_checkpoint_and_is_queued_again(
    workshop: Workshop, tmp_path: Path
) -> None:
    run, requeued = tmp_path / "run", tmp_path / "requeued"
    fields = {**WHOLE_RUN, "checkpointing_steps": 2, "hang_seconds": 20}

    def start(steps: int) -> "subprocess.Popen[str]":
        config = workshop.config(
            "text-to-image", output_dir=str(run), **{**fields, "max_train_steps": steps}
        )
        given = {"SLURM_JOB_ID": str(free_port()), "SLURM_JOB_NODELIST": "nodes[1-2]"}
        return subprocess.Popen(
            [str(SCRIPTS / "slurm.sh"), "text-to-image", "--config", str(config)],
            env={
                **os.environ,
                **given,
                "PATH": f"{folder}:{os.environ['PATH']}",
                "ACCELERATE_USE_CPU": "true",
                "REQUEUED": str(requeued),
            },
            stdout=DEVNULL,
            stderr=PIPE,
            text=True,
        )

    folder = programs(tmp_path / "programs")
    for name, text in (("srun", SRUN.format(python=sys.executable)), ("scontrol", SCONTROL)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    process = start(1000)
    wait_for_checkpoint(run, process)
    process.send_signal(signal.SIGUSR1)
    _, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == 143, errors
    assert "SIGUSR1: checkpoint of step" in errors
    assert requeued.read_text().count("\n") == 1
    stopped = int(list_checkpoints(run)[-1].name.rpartition("-")[2])
    process = start(stopped + 2)
    _, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, errors
    assert requeued.read_text().count("\n") == 1
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, stopped + 3))


@pytest.mark.slow
def test_torchrun_script_on_two_machines_stops_goes_on_and_ends_as_one(
    workshop: Workshop, tmp_path: Path
) -> None:
    # The learning rate is that of any number of steps.
    fields = {**WHOLE_RUN, "lr_scheduler": "constant_with_warmup", "checkpointing_steps": 4}
    folder = programs(tmp_path / "programs")

    def start(steps: int) -> "list[subprocess.Popen[str]]":
        config = workshop.config(
            "text-to-image",
            output_dir=str(tmp_path / "run"),
            **{**fields, "max_train_steps": steps},
        )
        own = {"NODES": "2", "GPUS": "1", "HOST": f"127.0.0.1:{free_port()}", "RUN_ID": "test"}
        own |= {"PATH": f"{folder}:{os.environ['PATH']}"}
        return [
            subprocess.Popen(
                [str(SCRIPTS / "torchrun.sh"), "text-to-image", "--config", str(config)],
                env={**os.environ, **own, "ACCELERATE_USE_CPU": "true"},
                stdout=DEVNULL,
                stderr=PIPE,
                text=True,
            )
            for _ in range(2)
        ]

    machines = start(10_000)
    wait_for_checkpoint(tmp_path / "run", machines[0])
    machines[1].send_signal(signal.SIGUSR1)
    for machine in machines:
        _, errors = machine.communicate(timeout=DEADLINE)
        assert machine.returncode != 0
        assert "SIGUSR1: checkpoint of step" in errors
    steps = int(list_checkpoints(tmp_path / "run")[-1].name.rpartition("-")[2]) + 2
    for machine in start(steps):
        _, errors = machine.communicate(timeout=DEADLINE)
        assert machine.returncode == 0, errors
    whole = {**fields, "output_dir": str(tmp_path / "whole"), "max_train_steps": steps}
    for rank in start_ranks("text-to-image", workshop.config("text-to-image", **whole), 2):
        _, errors = rank.communicate(timeout=DEADLINE)
        assert rank.returncode == 0, errors
    assert_same_end(tmp_path / "run", tmp_path / "whole")
