"""Short training runs that ablations compare. Each run is done once.

The name of a run is made from its stage, its config, its sizes, and the content of what it starts
from. So tables share the runs that they both need, an interrupted run is resumed, and a finished
one is not repeated.
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
from vlv.files import write_text
from vlv.training.provenance import read_record

# Where the next stage finds what it needs in the folder of a finished run.
_EXPORTS = {"language-model": "language_model", "preference-data": "preferences.jsonl"}
# What is no stage of training has a command of its own, and no tracker.
_COMMANDS = {"preference-data": ("data", "preferences")}
_NAMELESS = (("data_order", 1), ("phi_start", "random"))


@dataclass(frozen=True)
class ModelComponents:
    """A model folder, and the components of it that a run starts from. Other files in the folder
    do not change the name of the run.
    """

    folder: Path
    components: tuple[str, ...]


@dataclass(frozen=True)
class Run:
    """One run of a stage.

    config: the stage's own fields. sizes: the model config's content, for a stage that builds a
    network. inputs: fields that name folders: another run, or components of a model.
    """

    stage: str
    config: Mapping[str, Any]
    sizes: Mapping[str, Any] | None = None
    inputs: Mapping[str, "Run | ModelComponents"] = field(default_factory=dict)

    @cached_property
    def name(self) -> str:
        """The stage and a hash of everything that defines the run."""
        identity = {
            "config": _named(self.config),
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
        """How many runs must be done before this one, one after another."""
        before = [value.depth + 1 for value in self.inputs.values() if isinstance(value, Run)]
        return max(before, default=0)

    def output(self, folder: Path) -> Path:
        """The export of the run, where runs are in `folder`."""
        return folder / self.name / "final"

    def is_done(self, folder: Path) -> bool:
        """Whether the export is complete."""
        return (self.output(folder) / "run.json").is_file()

    def record(self, folder: Path) -> dict[str, Any]:
        """The record of the finished run."""
        return read_record(self.output(folder))

    def write_config(self, folder: Path, world: Path, num_threads: int) -> Path:
        """Write the config of the run, beside its output. `world` keeps the scenes' pictures."""
        fields = {
            **self.config,
            **{key: str(self._input(value, folder)) for key, value in self.inputs.items()},
            "output_dir": str(folder / self.name),
            "num_threads": num_threads,
        }
        if self.stage not in _COMMANDS:
            fields["report_to"] = "none"
        fields["data"] = {"folder": str(world), **fields.get("data", {})}
        if self.sizes is not None:
            fields["model"] = f"{self.name}-model.yaml"
            _write_yaml(folder / fields["model"], dict(self.sizes))
        path = folder / f"{self.name}.yaml"
        _write_yaml(path, fields)
        return path

    def _input(self, value: "Run | ModelComponents", folder: Path) -> Path:
        if not isinstance(value, Run):
            return value.folder
        return value.output(folder) / _EXPORTS.get(value.stage, "")


def _named(config: Any) -> Any:
    """What of a config the name of its run depends on: there was no other data order and no other
    start when the committed runs got their names.
    """
    if not isinstance(config, Mapping):
        return config
    return {key: _named(value) for key, value in config.items() if (key, value) not in _NAMELESS}


def finish(
    runs: Iterable[Run],
    folder: Path,
    world: Path,
    *,
    workers: int = 2,
    num_threads: int = 1,
    progress: Progress = silent,
) -> None:
    """Do the unfinished ones of `runs` and of what they start from, `workers` at a time.

    Each run is a separate process, so that many small runs use all cores.

    Raises:
        TrainingError: runs failed. Runs that do not depend on them were done.
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
    """The runs, and all runs that they start from, each once."""
    found: dict[str, Run] = {}
    for run in runs:
        inputs = [value for value in run.inputs.values() if isinstance(value, Run)]
        found |= {one.name: one for one in [*_with_inputs(inputs), run]}
    return list(found.values())


def _can_start(run: Run, folder: Path) -> bool:
    return all(value.is_done(folder) for value in run.inputs.values() if isinstance(value, Run))


def _train(run: Run, folder: Path, world: Path, num_threads: int) -> Path | None:
    """Train to the end. Returns the log of a run that failed."""
    config = run.write_config(folder, world, num_threads)
    log = folder / f"{run.name}.log"
    name = _COMMANDS.get(run.stage, ("train", run.stage))
    command = [sys.executable, "-m", "vlv.cli", *name, "--config", str(config)]
    threads = {"OMP_NUM_THREADS": str(num_threads), "MKL_NUM_THREADS": str(num_threads)}
    with log.open("a", encoding="utf-8") as file:
        ended = subprocess.run(
            command, stdout=file, stderr=file, env={**os.environ, **threads}, check=False
        )
    return None if ended.returncode == 0 and run.is_done(folder) else log


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it wrote nothing")


def _write_yaml(path: Path, data: dict[str, Any]) -> None:
    write_text(path, yaml.safe_dump(data, sort_keys=False))
