"""A model folder from a checkpoint of a run that goes on, as if the run had ended there.

A checkpoint does not change, so no lock is needed; it may be removed meanwhile, because newer ones
are there.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlv.checkpoints.manifest import new_model_folder
from vlv.errors import TrainingError
from vlv.training.best_weights import BestFile, best_at
from vlv.training.checkpoint import list_checkpoints, read_checkpoint, resolve_checkpoint
from vlv.training.objectives.objective import Objective
from vlv.training.old_names import current_parameters
from vlv.training.provenance import write_record
from vlv.training.registry import saved_stage
from vlv.training.run_folder import read_metrics, writing
from vlv.training.starts import STARTS, hashes_of, require_same_starts
from vlv.training.state import require_fit

logger = logging.getLogger(__name__)

_VALIDATION = "validation/"
Tensors = dict[str, dict[str, Tensor]]


def export_run(run: Path, out: Path | None = None, step: int | None = None) -> Path:
    """Write the model of a run's newest checkpoint, or of that of `step`, to `out`; returns the
    folder, which is `export-{step}` of the run if none is given.

    The weights are the average, where the run keeps one, and the best ones until then, where it
    keeps those. Paths in the run's config are read as seen from the current folder.

    Raises:
        TrainingError: there is no such checkpoint, it is damaged, an earlier version made it, or a
            model that the run started from has changed.
        ConfigError: `out` holds something that is no model.
    """
    folder, tensors, state, best = _read(run, step)
    record = state.get("record")
    if record is None:
        raise TrainingError(
            f"{folder} was made by vlv {state.get('code_version', 'before 1')}, whose checkpoints "
            "do not say what they are of; resume the run, and export the next checkpoint"
        )
    stage = saved_stage(record["stage"], state["config"], folder)
    now = hashes_of(stage.starts)
    require_same_starts(folder, state.get(STARTS, {}), now, state["config"])
    keeps_best = stage.config.keep_best is not None
    if keeps_best and best is None:
        logger.warning(
            "%s keeps no best weights of step %d or before: the checkpoint's own are exported",
            *(run, state["step"]),
        )
    if best is None:
        _load(stage.objective, tensors.get("ema") or tensors.get("trainable", {}), folder)
    else:
        _load(stage.objective, best.tensors(), best.path)
    record = {
        **record,
        "validation": _validation(run, record["steps"] if best is None else best.step),
        **({"best_step": None if best is None else best.step} if keeps_best else {}),
    }
    out = out or run / f"export-{record['steps']}"
    stage.objective.eval()
    with torch.no_grad(), writing(out), new_model_folder(out) as unfinished:
        stage.objective.finish()
        stage.objective.export(unfinished)
        write_record(unfinished, record)
    return out


def _read(run: Path, step: int | None) -> tuple[Path, Tensors, dict[str, Any], BestFile | None]:
    """A checkpoint with its tensors, its state and the best weights until then."""
    if step is not None and not (run / f"checkpoint-{step}").is_dir():
        kept = ", ".join(one.name.removeprefix("checkpoint-") for one in list_checkpoints(run))
        raise TrainingError(
            f"{run} has no checkpoint of step {step}"
            + (f"; it has those of steps {kept}" if kept else "; name the output_dir of a run")
        )
    while True:
        folder = resolve_checkpoint(run, "latest" if step is None else f"checkpoint-{step}")
        if folder is None:
            raise TrainingError(f"{run} has no checkpoint yet; name the output_dir of a run")
        try:
            tensors, state = read_checkpoint(folder)
            best = best_at(folder, state)
            if not folder.is_dir():  # so its best weights are not to be found either
                raise FileNotFoundError(folder)
            return folder, tensors, state, best
        except (TrainingError, FileNotFoundError):
            # The run may have removed it, now that a newer one is there.
            if step is not None or resolve_checkpoint(run, "latest") == folder:
                raise


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def _load(objective: Objective, weights: dict[str, Tensor], folder: Path) -> None:
    weights = current_parameters(weights)
    targets = objective.trainable()
    require_fit(_shapes(targets), _shapes(weights), folder)
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(weights[name])


def _validation(run: Path, step: int) -> dict[str, float]:
    """What the run measured at a step; nothing where it did not validate then."""
    return {
        name.removeprefix(_VALIDATION): value
        for name, value in read_metrics(run, step).items()
        if name.startswith(_VALIDATION)
    }
