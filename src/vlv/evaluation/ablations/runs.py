"""Short training runs that ablations compare: each done once, whoever asks for it.

A run is named by what it is: stage, config, sizes, and what it starts from, by content. So two
tables that need the same run share it, a cut-off run goes on, and one that is done is not done
again.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from vlv.errors import TrainingError
from vlv.evaluation.results import Progress, folder_hash, silent
from vlv.files import atomic_file
from vlv.training.provenance import read_record

# Where the next stage finds what it needs in the folder of a finished run.
_EXPORTS = {"language-model": "language_model"}


@dataclass(frozen=True)
class Parts:
    """A model folder that is there, and those of its components that a run starts from: what else
    lies in it does not make another run.
    """

    folder: Path
    components: tuple[str, ...]


@dataclass(frozen=True)
class Run:
    """One run of a stage.

    config: the stage's own fields. sizes: the model config's content, for a stage that builds a
    network. inputs: fields that name folders: another run, or parts that are there.
    """

    stage: str
    config: Mapping[str, Any]
    sizes: Mapping[str, Any] | None = None
    inputs: Mapping[str, "Run | Parts"] = field(default_factory=dict)

    @cached_property
    def name(self) -> str:
        """Stage and a hash of everything that makes the run what it is."""
        identity = {
            "config": self.config,
            "sizes": self.sizes,
            "inputs": {
                key: value.name
                if isinstance(value, Run)
                else folder_hash(value.folder, value.components)
                for key, value in self.inputs.items()
            },
        }
        text = json.dumps(identity, sort_keys=True)
        return f"{self.stage}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"

    @property
    def depth(self) -> int:
        """How many runs must be done before this one, one after the other."""
        before = [value.depth + 1 for value in self.inputs.values() if isinstance(value, Run)]
        return max(before, default=0)

    def output(self, folder: Path) -> Path:
        """What the run exports when its output lies in `folder`."""
        return folder / self.name / "final"

    def is_done(self, folder: Path) -> bool:
        """Whether the export is complete."""
        return (self.output(folder) / "run.json").is_file()

    def record(self, folder: Path) -> dict[str, Any]:
        """What the finished run says of itself."""
        return read_record(self.output(folder))

    def write_config(self, folder: Path, world: Path, num_threads: int) -> Path:
        """The YAML file of the run, beside its output; `world` keeps the scenes' pictures."""
        told = {
            **self.config,
            **{key: str(self._input(value, folder)) for key, value in self.inputs.items()},
            "output_dir": str(folder / self.name),
            "num_threads": num_threads,
            "report_to": "none",
        }
        told["data"] = {"folder": str(world), **told.get("data", {})}
        if self.sizes is not None:
            told["model"] = f"{self.name}-model.yaml"
            _write_yaml(folder / told["model"], dict(self.sizes))
        path = folder / f"{self.name}.yaml"
        _write_yaml(path, told)
        return path

    def _input(self, value: "Run | Parts", folder: Path) -> Path:
        if not isinstance(value, Run):
            return value.folder
        return value.output(folder) / _EXPORTS.get(value.stage, "")


def finish(
    runs: Iterable[Run],
    folder: Path,
    world: Path,
    *,
    workers: int = 2,
    num_threads: int = 1,
    progress: Progress = silent,
) -> None:
    """Do what is not done of `runs` and of what they start from, `workers` at a time.

    Each run is a process of its own, so that many small ones use all cores.

    Raises:
        TrainingError: runs failed; those that do not need them were done all the same.
    """
    missing = [run for run in _with_inputs(runs) if not run.is_done(folder)]
    if not missing:
        return
    folder.mkdir(parents=True, exist_ok=True)
    failed: dict[str, Path] = {}
    with ThreadPoolExecutor(workers) as pool:
        for depth in sorted({run.depth for run in missing}):
            wave = [run for run in missing if run.depth == depth and _can_start(run, folder)]
            made = pool.map(lambda run: (run, _train(run, folder, world, num_threads)), wave)
            for run, log in progress(
                made, total=len(wave), unit="run", description=f"training, wave {depth + 1}"
            ):
                if log is not None:
                    failed[run.name] = log
    if failed:
        logs = "; ".join(f"{name}: {_last_line(log)} ({log})" for name, log in failed.items())
        raise TrainingError(f"{len(failed)} of {len(missing)} runs failed: {logs}")


def _with_inputs(runs: Iterable[Run]) -> list[Run]:
    """The runs and everything that they start from, each once."""
    found: dict[str, Run] = {}
    for run in runs:
        inputs = [value for value in run.inputs.values() if isinstance(value, Run)]
        found |= {one.name: one for one in [*_with_inputs(inputs), run]}
    return list(found.values())


def _can_start(run: Run, folder: Path) -> bool:
    return all(value.is_done(folder) for value in run.inputs.values() if isinstance(value, Run))


def _train(run: Run, folder: Path, world: Path, num_threads: int) -> Path | None:
    """Run to the end; the log of a run that failed."""
    config = run.write_config(folder, world, num_threads)
    log = folder / f"{run.name}.log"
    command = [sys.executable, "-m", "vlv.cli", "train", run.stage, "--config", str(config)]
    threads = {"OMP_NUM_THREADS": str(num_threads), "MKL_NUM_THREADS": str(num_threads)}
    with log.open("a", encoding="utf-8") as file:
        ended = subprocess.run(
            command, stdout=file, stderr=file, env={**os.environ, **threads}, check=False
        )
    return None if ended.returncode == 0 and run.is_done(folder) else log


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


def _write_yaml(path: Path, data: dict[str, Any]) -> None:
    with atomic_file(path) as unfinished:
        unfinished.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
