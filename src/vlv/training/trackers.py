"""Where metrics are logged besides the metrics log: one run there for one run here, however often
it is interrupted.

TensorBoard adds files to the run's folder; Weights & Biases needs the id under which a run began.
"""

import uuid
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from accelerate import Accelerator

from vlv.errors import ConfigError
from vlv.files import atomic_file
from vlv.training.config import TrainingConfig
from vlv.training.run_folder import writing

_ID_FILE = "wandb_run_id"


def check_tracker(config: TrainingConfig) -> None:
    """Raises ConfigError where the package of a tracker is missing."""
    if config.report_to == "wandb" and find_spec("wandb") is None:
        raise ConfigError(
            "report_to: wandb needs a package that is not installed: pip install wandb, or set "
            "report_to: tensorboard"
        )


def start_tracker(accelerator: Accelerator, config: TrainingConfig, name: str, step: int) -> None:
    """Begin to log to the tracker that `report_to` names, or go on if `step` is not the first.

    It is given the whole config: Weights & Biases as the config of the run, TensorBoard as a text,
    since its hyperparameters would be a run of their own at every start.
    """
    if config.report_to == "none" or not accelerator.is_main_process:
        return
    values = config.model_dump(mode="json")
    if config.report_to == "wandb":
        settings = {
            "id": _run_id(config.output_dir, new=step == 0),
            "resume": "allow",
            "dir": str(config.output_dir),
        }
        accelerator.init_trackers(name, config=values, init_kwargs={"wandb": settings})
    else:
        accelerator.init_trackers(name)
        text = yaml.safe_dump(values, sort_keys=False)
        writer: Any = accelerator.get_tracker("tensorboard", unwrap=True)
        writer.add_text("config", f"```yaml\n{text}```", step)


def _run_id(output_dir: Path, new: bool) -> str:
    path = output_dir / _ID_FILE
    if new or not path.is_file():
        with writing(path), atomic_file(path) as unfinished:
            unfinished.write_text(uuid.uuid4().hex[:16] + "\n", encoding="utf-8")
    return path.read_text(encoding="utf-8").strip()


def finish_trackers(accelerator: Accelerator) -> None:
    """Let the trackers of a finished run write what they still hold."""
    for tracker in accelerator.trackers:
        tracker.finish()
