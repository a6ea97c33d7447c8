"""Checkpoints of a run in progress: written atomically, checked when read.

A checkpoint is a folder `checkpoint-{step}` of safetensors and JSON. It is written under another
name, synced, listed with hashes in `manifest.json`, then renamed; older ones are removed only
after that. A cut at any moment leaves the last complete checkpoint in place.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from vlv.errors import TrainingError
from vlv.files import sync
from vlv.text import read_object
from vlv.training.config import TrainingConfig, differing_fields
from vlv.training.run_folder import writing

_MANIFEST = "manifest.json"


def write_checkpoint(
    output_dir: Path, step: int, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any]
) -> Path:
    """Write `{name}.safetensors` for each entry of `tensors`, and `state.json`.

    Raises:
        TrainingError: the disk is full, or refuses it; nothing of it is left, and older
            checkpoints are as they were.
    """
    final = output_dir / f"checkpoint-{step}"
    unfinished = output_dir / f".unfinished-{step}"
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        with writing(final):
            unfinished.mkdir(parents=True)
            _fill(unfinished, tensors, state)
            # One of this step can exist only if an earlier run of the same step wrote it.
            shutil.rmtree(final, ignore_errors=True)
            os.rename(unfinished, final)
            sync(output_dir)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return final


def _fill(unfinished: Path, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
    """Everything of a checkpoint, on the disk."""
    for name, group in tensors.items():
        save_file(
            {k: v.detach().contiguous().cpu() for k, v in group.items()},
            unfinished / f"{name}.safetensors",
        )
    (unfinished / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")
    manifest = {path.name: _sha256(path) for path in sorted(unfinished.iterdir())}
    (unfinished / _MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    for path in [*unfinished.iterdir(), unfinished]:
        sync(path)


def read_checkpoint(folder: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """The tensors and state of a checkpoint.

    Raises:
        TrainingError: a file is missing or is not what the manifest says.
    """
    manifest = _read(folder / _MANIFEST)
    if "state.json" not in manifest:
        raise TrainingError(
            f"{folder} is not a complete checkpoint: its manifest has no state.json"
        )
    for name, digest in manifest.items():
        if Path(name).name != name:
            raise TrainingError(f"{folder / _MANIFEST} names {name!r}, which is not beside it")
        if not (folder / name).is_file() or _sha256(folder / name) != digest:
            raise TrainingError(
                f"{folder / name} is missing or damaged; remove {folder} to resume from an "
                "earlier checkpoint"
            )
    weights = sorted(name for name in manifest if name.endswith(".safetensors"))
    tensors = {Path(name).stem: load_file(folder / name) for name in weights}
    return tensors, _read(folder / "state.json")


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
        shutil.rmtree(folder)
    for folder in output_dir.glob(".unfinished-*"):
        shutil.rmtree(folder)


def resolve_checkpoint(output_dir: Path, wish: str | None) -> Path | None:
    """The checkpoint that `resume_from_checkpoint` means: a path, "latest", or none."""
    if wish is None:
        return None
    if wish == "latest":
        found = list_checkpoints(output_dir)
        return found[-1] if found else None
    folder = Path(wish) if Path(wish).exists() else output_dir / wish
    if not folder.is_dir():
        raise TrainingError(f"resume_from_checkpoint: there is no checkpoint {wish}")
    return folder


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: list[str]) -> dict[str, Tensor]:
    """The optimizer's state as `{parameter}.{field}`; `names` are in the optimizer's order."""
    state = optimizer.state_dict()["state"]
    return {
        f"{names[index]}.{field}": torch.as_tensor(value).clone()
        for index, fields in state.items()
        for field, value in fields.items()
    }


def load_optimizer_tensors(
    optimizer: torch.optim.Optimizer, names: list[str], tensors: dict[str, Tensor]
) -> None:
    """The inverse of `optimizer_tensors`."""
    index = {name: number for number, name in enumerate(names)}
    state: dict[int, dict[str, Tensor]] = {}
    for joined, value in tensors.items():
        name, _, field = joined.rpartition(".")
        if name not in index:
            raise TrainingError(f"the checkpoint's optimizer knows {name}, which is not trained")
        state.setdefault(index[name], {})[field] = value
    whole = optimizer.state_dict()
    whole["state"] = state
    optimizer.load_state_dict(whole)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_same_run(
    folder: Path,
    state: dict[str, Any],
    config: TrainingConfig,
    samples_per_step: int,
    data_fingerprint: str | None,
) -> None:
    """Raise TrainingError if going on from a checkpoint would be another run than began it."""
    if state["samples_per_step"] != samples_per_step:
        raise TrainingError(
            f"{folder} was made with {state['samples_per_step']} samples a step, this run has "
            f"{samples_per_step}: make train_batch_size * gradient_accumulation_steps "
            "* processes the same, or set resume_from_checkpoint=null"
        )
    differing = differing_fields(state["config"], config)
    if differing:
        raise TrainingError(
            f"{folder} was made with other values of {', '.join(differing)}; give the old "
            "values, another output_dir, or resume_from_checkpoint=null"
        )
    if state.get("data_fingerprint") != data_fingerprint:
        raise TrainingError(
            f"{folder} was made with other images than data names now: some were added, "
            "removed or changed, or others are held out; give the old ones, another "
            "output_dir, or resume_from_checkpoint=null"
        )


def copy_exactly(targets: Any, sources: dict[str, Tensor], folder: Path) -> None:
    """Copy tensors by name; every name and shape must fit on both sides."""
    wrong = sorted(targets.keys() ^ sources.keys()) or [
        name for name in targets if targets[name].shape != sources[name].shape
    ]
    if wrong:
        raise TrainingError(f"{folder} does not fit this model: see {', '.join(wrong[:5])}")
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(sources[name])
