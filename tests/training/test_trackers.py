"""One run at a tracker for one run here, however often it is interrupted."""

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
from accelerate import tracking
from accelerate.utils import LoggerType
from tests.training.conftest import Workshop

from vlv.errors import ConfigError
from vlv.training import trackers


class Recorder(tracking.GeneralTracker):
    """A tracker of accelerate's kind that keeps what it is given."""

    name = "wandb"
    requires_logging_directory = False
    started: ClassVar[list[dict[str, Any]]] = []

    def __init__(self, run_name: str, **settings: Any) -> None:
        super().__init__()
        self.steps: list[int | None] = []
        self.config: dict[str, Any] = {}
        self.started.append(
            {"name": run_name, "steps": self.steps, "config": self.config, **settings}
        )

    @property
    def tracker(self) -> "Recorder":
        return self

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.config.update(json.loads(json.dumps(values)))

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        self.steps.append(step)


def test_a_resumed_run_keeps_its_id_and_gives_its_config(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "wandb", Recorder)
    monkeypatch.setattr(tracking, "_available_trackers", [LoggerType.WANDB])
    monkeypatch.setattr(trackers, "find_spec", lambda name: name == "wandb" or None)

    def run(steps: int, **changes: Any) -> None:
        workshop.run(
            "language-model",
            output_dir=str(tmp_path),
            max_train_steps=steps,
            lr_scheduler="constant",
            logging_steps=1,
            report_to="wandb",
            **changes,
        )

    run(1)
    run(3)
    run(1, resume_from_checkpoint=None)
    first, second, third = Recorder.started
    assert first["name"] == "language-model"
    assert first["id"] == second["id"] != third["id"]
    assert {one["resume"] for one in Recorder.started} == {"allow"}
    assert first["config"]["max_train_steps"] == 1 and second["config"]["max_train_steps"] == 3
    assert first["config"]["lr_scheduler"] == "constant" and first["config"]["data"]
    assert (sorted(set(first["steps"])), sorted(set(second["steps"]))) == ([1], [2, 3])


def test_a_tracker_that_is_not_installed_is_named(workshop: Workshop, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="pip install wandb"):
        workshop.run("language-model", output_dir=str(tmp_path), report_to="wandb")
    assert not (tmp_path / "final").exists()
