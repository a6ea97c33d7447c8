"""Checkpoints of a run in progress: written atomically while it goes on, checked when read.

A checkpoint is a folder `checkpoint-{step}` of safetensors and JSON. It is written under another
name, synced, listed with hashes in `manifest.json`, then renamed; older ones are removed only
after that. A cut at any moment leaves the last complete checkpoint in place.

Several processes write one checkpoint together: each its own parts of the tensors, or its share of
those that all of them have. Their number may be another when it is read.
"""

import json
import os
import shutil
import warnings
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save

from vlv.errors import TrainingError, VLVError
from vlv.files import second_name, sha256_of, sync
from vlv.text import read_object
from vlv.training.checkpoint_files import (
    SUFFIX,
    SafetensorsReader,
    SafetensorsWriter,
    require_shared,
)
from vlv.training.old_names import current_parameters
from vlv.training.processes import Processes
from vlv.training.run_folder import reason_of, writing

# DCP says at each checkpoint of one process that it is of one process.
warnings.filterwarnings("ignore", "torch.distributed is disabled")

_MANIFEST = "manifest.json"
_STATE = "state.json"

Tensors = dict[str, dict[str, Tensor]]
"""By group (trainable, optimizer, ema) and name."""


class CheckpointWriter:
    """Writes the checkpoints of a run, one at a time, while the run goes on."""

    def __init__(self, output_dir: Path, processes: Processes, keep: int | None = None) -> None:
        """keep: how many there may be when another is complete; None keeps all."""
        self._output_dir = output_dir
        self._processes = processes
        self._keep = keep
        self._step = 0
        self._written: Future[Any] | None = None

    def start(
        self, step: int, tensors: Tensors, state: dict[str, Any], beside: Path | None = None
    ) -> None:
        """Copy `tensors` into the CPU's memory and begin to write them and `state`, when the
        checkpoint before is complete. All processes have to call.

        beside: a file as it is now, of which the checkpoint gets a second name, outside of its
            manifest: the checkpoint is good without it. The first process names it.

        Raises:
            TrainingError: the checkpoint before could not be written (see `wait`).
        """
        self.wait()
        self._step = step
        unfinished = self._unfinished
        if self._processes.first:
            self._set_aside(beside)
        writer = SafetensorsWriter(
            unfinished,
            self._processes.rank,
            self._processes.count,
            lambda digests: self._finish(step, unfinished, digests, state),
        )
        written = async_save(
            dict(tensors),
            storage_writer=writer,
            process_group=self._processes.writers,
            no_dist=not self._processes.together,
        )
        assert isinstance(written, Future)  # with a stager of one's own it would be another thing
        self._written = written

    def wait(self) -> None:
        """Wait until the checkpoint that was begun last is complete.

        Raises:
            TrainingError: the disk is full, or refuses it; nothing of it is left, and older
                checkpoints are as they were.
        """
        written, self._written = self._written, None
        if written is None:
            return
        try:
            folder = self._output_dir / f"checkpoint-{self._step}"
            with writing(folder), _checkpoint_failures(folder):
                written.result()
        except TrainingError:
            if self._processes.first:
                for left in (self._unfinished, self._beside):
                    shutil.rmtree(left, ignore_errors=True)
            raise

    @property
    def _unfinished(self) -> Path:
        return self._output_dir / f".unfinished-{self._step}"

    @property
    def _beside(self) -> Path:
        return self._output_dir / f".unfinished-{self._step}-beside"

    def _set_aside(self, beside: Path | None) -> None:
        """Give a file its second name now: the run may replace it while the checkpoint is
        written.
        """
        shutil.rmtree(self._beside, ignore_errors=True)
        if beside is not None:
            with writing(self._output_dir / f"checkpoint-{self._step}" / beside.name):
                self._beside.mkdir()
                second_name(beside, self._beside / beside.name)
                sync(self._beside / beside.name)

    def _finish(
        self, step: int, unfinished: Path, digests: dict[str, str], state: dict[str, Any]
    ) -> None:
        """Make files that all processes have written a checkpoint."""
        for name in digests:
            require_shared(unfinished / name)
        (unfinished / _STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")
        manifest = {**digests, _STATE: sha256_of(unfinished / _STATE)}
        text = json.dumps(dict(sorted(manifest.items())), indent=1)
        (unfinished / _MANIFEST).write_text(text, encoding="utf-8")
        for path in self._beside.glob("*"):
            os.rename(path, unfinished / path.name)
        shutil.rmtree(self._beside, ignore_errors=True)
        for path in (unfinished / _STATE, unfinished / _MANIFEST, unfinished):
            sync(path)
        final = self._output_dir / f"checkpoint-{step}"
        # One of this step can exist only if an earlier run of the same step wrote it.
        old = _put_aside(final) if final.exists() else None
        os.rename(unfinished, final)
        sync(self._output_dir)
        if old is not None:
            shutil.rmtree(old)
        if self._keep is not None:
            prune_checkpoints(self._output_dir, self._keep, step)


@contextmanager
def _checkpoint_failures(folder: Path) -> Iterator[None]:
    """Inside, DCP writes or reads `folder`. Raises the first process's failure, where that is one
    of the disk or says by itself what is wrong.
    """
    try:
        yield
    except CheckpointException as error:
        cause = next(iter(error.failures.values()))[0]
        if isinstance(cause, OSError | SafetensorError | VLVError):
            raise cause from None
        raise TrainingError(
            f"{folder} failed in another way than disks do: {type(cause).__name__}: {cause}"
        ) from error


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Inside, a checkpoint is read. Raises TrainingError where the disk does not give it."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise TrainingError(
            f"{folder} cannot be read ({reason_of(error)}); repair the disk, or remove it to "
            "resume from an earlier checkpoint"
        ) from error


class CheckpointReader:
    """A complete checkpoint, of which each process reads what it needs. All processes have to make
    one of the same folder, and share the work of checking it.

    Raises:
        TrainingError: on all processes, where a file is missing or is not what the manifest says.
    """

    def __init__(self, folder: Path, processes: Processes) -> None:
        self.folder = folder
        self._processes = processes
        manifest = processes.on_all(self._manifest)
        processes.on_all(lambda: self._check(manifest))
        files = [folder / name for name in sorted(manifest) if name.endswith(SUFFIX)]
        self._reader = SafetensorsReader(files, current_parameters)
        self.state = _read(folder / _STATE)

    def _manifest(self) -> dict[str, Any]:
        mine = _read(self.folder / _MANIFEST) if self.folder.is_dir() else None
        if mine is None:
            raise TrainingError(f"there is no checkpoint {self.folder}")
        if _STATE not in mine:
            raise TrainingError(
                f"{self.folder} is not a complete checkpoint: its manifest has no {_STATE}"
            )
        return mine

    def _check(self, manifest: dict[str, Any]) -> None:
        for number, (name, digest) in enumerate(sorted(manifest.items())):
            path = self.folder / name
            if Path(name).name != name:
                raise TrainingError(
                    f"{self.folder / _MANIFEST} names {name!r}, which is not beside it"
                )
            mine = number % self._processes.count == self._processes.rank
            if not path.is_file() or (mine and sha256_of(path) != digest):
                raise TrainingError(
                    f"{path} is missing or damaged; remove {self.folder} to resume from an "
                    "earlier checkpoint"
                )

    @property
    def shapes(self) -> dict[str, dict[str, tuple[torch.Size, torch.dtype]]]:
        """Shapes and types of the tensors in the checkpoint, by group and name."""
        found: dict[str, dict[str, tuple[torch.Size, torch.dtype]]] = {}
        for joined, tensor in self._reader.tensors.items():
            group, _, name = joined.partition(".")
            found.setdefault(group, {})[name] = (tensor.size, tensor.properties.dtype)
        return found

    def read(self, targets: Tensors) -> None:
        """Copy the checkpoint's tensors over `targets`, which are some of them or parts of them.
        All processes have to call.
        """
        with reading(self.folder), _checkpoint_failures(self.folder):
            load(
                dict(targets),
                storage_reader=self._reader,
                process_group=self._processes.group,
                no_dist=not self._processes.together,
            )


def read_checkpoint(folder: Path) -> tuple[Tensors, dict[str, Any]]:
    """The whole tensors and the state of a checkpoint, read by one process.

    Raises:
        TrainingError: as `CheckpointReader`.
    """
    reader = CheckpointReader(folder, Processes(alone=True))
    tensors = {
        group: {name: torch.empty(shape, dtype=dtype) for name, (shape, dtype) in named.items()}
        for group, named in reader.shapes.items()
    }
    reader.read(tensors)
    return tensors, reader.state


def _read(path: Path) -> dict[str, Any]:
    """A JSON object of a checkpoint."""
    try:
        return read_object(path, TrainingError)
    except TrainingError as error:
        raise TrainingError(f"{path.parent} is not a complete checkpoint: {error}") from error


def list_checkpoints(output_dir: Path) -> list[Path]:
    """Complete checkpoints, by step."""
    found = [p for p in output_dir.glob("checkpoint-*") if (p / _MANIFEST).is_file()]
    # Copies that people keep beside them have other names.
    return sorted((p for p in found if p.name.removeprefix("checkpoint-").isdecimal()), key=_step)


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("checkpoint-"))


def prune_checkpoints(output_dir: Path, keep: int, newest: int) -> None:
    """Remove all but the last `keep` checkpoints up to step `newest`, which was just written, and
    what cut-off writes left behind.

    Later steps are of a run that was given up for one that started over or from an earlier step.
    """
    found = list_checkpoints(output_dir)
    mine = [folder for folder in found if _step(folder) <= newest]
    for folder in [*mine[:-keep], *found[len(mine) :]]:
        _remove(folder)
    for folder in output_dir.glob(".unfinished-*"):
        shutil.rmtree(folder)


def _remove(folder: Path) -> None:
    """Remove a checkpoint."""
    shutil.rmtree(_put_aside(folder))


def _put_aside(folder: Path) -> Path:
    """Rename a checkpoint that is to be removed. Where that is cut off, what is left is found by
    the name that cut-off writes have.
    """
    left = folder.with_name(f".unfinished-{folder.name}")
    shutil.rmtree(left, ignore_errors=True)
    os.rename(folder, left)
    return left


def resolve_checkpoint(output_dir: Path, wish: str | None) -> Path | None:
    """The checkpoint that `resume_from_checkpoint` means: the name of one in `output_dir`, a path,
    "latest", or none.
    """
    if wish is None:
        return None
    if wish == "latest":
        found = list_checkpoints(output_dir)
        return found[-1] if found else None
    # First that of the run: the current folder may be another run's, with checkpoints of its own.
    folder = next((one for one in (output_dir / wish, Path(wish)) if one.is_dir()), None)
    if folder is None:
        raise TrainingError(f"resume_from_checkpoint: there is no checkpoint {wish}")
    return folder
