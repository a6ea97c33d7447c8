"""What made a model's weights, as the model itself tells it. Knows runs' records, no run."""

from pathlib import Path
from typing import Any

import vlv
from vlv.models.components import read_settings
from vlv.models.hub import MANIFEST_FILE
from vlv.models.manifest import Manifest, write_manifest

# What a model keeps of a run's record.
_TOLD = (
    *("config", "steps", "samples_seen", "seconds", "processes", "threads", "torch"),
    "validation",
)


def provenance(runs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What made the weights: per stage its data, steps, seed, time and figures."""
    return {
        "code_version": vlv.__version__,
        "licence": "Apache-2.0, all parts trained from fresh weights in the embedded world",
        "stages": {stage: _told(run) for stage, run in runs.items()},
    }


def sign(folder: Path, run: dict[str, Any]) -> None:
    """Write the record of the run that made a model folder into its vlv.json, if it is one."""
    path = folder / MANIFEST_FILE
    if path.is_file():
        manifest = read_settings(Manifest, path)
        manifest.provenance.update(provenance({run["stage"]: run}))
        write_manifest(manifest, folder)


def _told(run: dict[str, Any]) -> dict[str, Any]:
    """What of a run's record concerns others: not where on some machine its files lay."""
    told = {key: run[key] for key in _TOLD}
    if told["config"].get("model") is not None:
        told["config"] = {**told["config"], "model": Path(told["config"]["model"]).name}
    return told
