"""What made a model's weights, as its folder records it. Knows runs' records, no run."""

import json
from pathlib import Path
from typing import Any

from vlv.checkpoints.components import read_settings
from vlv.checkpoints.manifest import write_manifest
from vlv.checkpoints.parts import MANIFEST_FILE
from vlv.errors import TrainingError
from vlv.files import write_text
from vlv.models.config import Manifest
from vlv.text import read_object
from vlv.training.run_folder import writing
from vlv.version import __version__

# The file that marks the folder of a run's export as complete.
RECORD = "run.json"
START_HASH = "start_sha256"
"""Of the record of a file of preferences: the `captioner_hash` of the model that made it."""
# What a model keeps of a run's record.
_RECORDED = (
    *("config", "steps", "samples_seen", "seconds", "processes", "threads", "device"),
    *("mixed_precision", "torch", "validation", "before"),
)


WORLD_LICENCE = "Apache-2.0, all parts trained from fresh weights in the embedded world"
# Of what else can be made of published parts and anyone's images, more cannot be said.
OTHER_LICENCE = "the licences of its parts apply, and the terms of the images it was trained on"


def read_record(final: Path) -> dict[str, Any]:
    """What a finished run says of itself, in the folder that it exported.

    Raises:
        TrainingError: it cannot be read, or does not say what a run says.
    """
    path = final / RECORD
    record = read_object(path, TrainingError)
    if not (isinstance(record.get("config"), dict) and isinstance(record.get("steps"), int)):
        raise TrainingError(
            f"{path} is not the record of a run; remove {final.parent} to run the stage again"
        )
    return record


def provenance(runs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What made the weights: per stage its data, steps, seed, time and metrics."""
    on_disk = any("set" in run["config"].get("data", {}) for run in runs.values())
    return {
        "code_version": __version__,
        "licence": OTHER_LICENCE if on_disk else WORLD_LICENCE,
        "stages": {stage: _recorded(run) for stage, run in runs.items()},
    }


def inherited(source: dict[str, Any]) -> dict[str, Any]:
    """What a model keeps of the provenance of the model that its run started from: the published
    parts or the images on disk behind it, and the stages since then.
    """
    if "parts" not in source and source.get("licence") != OTHER_LICENCE:
        return {}
    return {name: source[name] for name in ("parts", "stages") if name in source} | {
        "licence": OTHER_LICENCE
    }


def record_of(folder: Path, stage: str) -> dict[str, Any] | None:
    """The record of the run of a stage in the vlv.json of a model folder, if there is one."""
    path = folder / MANIFEST_FILE
    if not path.is_file():
        return None
    found: dict[str, Any] | None = (
        read_settings(Manifest, path).provenance.get("stages", {}).get(stage)
    )
    return found


def sign(folder: Path, run: dict[str, Any]) -> None:
    """Write the record of the run that made a model folder into its vlv.json, if it is one."""
    path = folder / MANIFEST_FILE
    if path.is_file():
        manifest = read_settings(Manifest, path)
        before = manifest.provenance
        made = provenance({run["stage"]: run})
        made["stages"] = {**before.get("stages", {}), **made["stages"]}
        # What is not free to begin with does not become so.
        manifest.provenance.update({**made, "licence": before.get("licence", made["licence"])})
        write_manifest(manifest, folder)


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Write what a run records of itself into the model folder that it made, which is complete
    with it.
    """
    with writing(folder / RECORD):
        sign(folder, record)
        write_text(folder / RECORD, json.dumps(record, indent=1) + "\n")


def _recorded(run: dict[str, Any]) -> dict[str, Any]:
    """What of a run's record concerns others: not where on some machine its files lay."""
    kept = {key: run[key] for key in _RECORDED if key in run}
    if kept["config"].get("model") is not None:
        kept["config"] = {**kept["config"], "model": Path(kept["config"]["model"]).name}
    data = kept["config"].get("data", {})
    if "set" in data:
        kept["config"] = {**kept["config"], "data": {"set": Path(data["set"]).name}}
    return kept
