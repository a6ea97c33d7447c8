"""How long the steps of a run take on this machine, measured by running some of them."""

import tempfile
from dataclasses import fields
from pathlib import Path

from vlv.errors import ConfigError
from vlv.models.precision import device_name
from vlv.training.accelerator import computing_device, forget_accelerator
from vlv.training.cost.bill import Durations, Pace
from vlv.training.cost.gpus import GPU, gpu_of_driver
from vlv.training.loop import train
from vlv.training.provenance import read_record
from vlv.training.registry import build_stage
from vlv.training.throughput import WARM_UP


def measure_pace(stage: str, path: Path, overrides: list[str], steps: int) -> Pace:
    """Run so many steps of a config after a warm-up, in one process, with one validation, one
    checkpoint and an export, in a temporary folder that is removed.

    Raises:
        VLVError: as training does.
    """
    with tempfile.TemporaryDirectory(prefix="vlv-cost-") as folder:
        changes = [
            f"output_dir={folder}/run",
            f"max_train_steps={WARM_UP + steps}",
            # Twice: the first validation of a process prepares more than the others.
            f"validation_steps={WARM_UP + steps - 1}",
            f"checkpointing_steps={WARM_UP + steps}",
            *("report_to=none", "patience=null", "max_hours=null", "max_cost_usd=null"),
        ]
        record = read_record(train(build_stage(stage, path, [*overrides, *changes])))
    phases = record["phases"]
    return Pace(
        steps=phases["step"]["count"],
        device=record["device"]["name"],
        clock=_durations(phases, "seconds"),
        cpu=_durations(phases, "cpu_seconds"),
    )


def _durations(phases: dict[str, dict[str, float]], clock: str) -> Durations:
    names = (field.name for field in fields(Durations))
    return Durations(**{name: phases[name][clock] / phases[name]["count"] for name in names})


def check_device(gpu: GPU) -> None:
    """Raises ConfigError where this machine computes on something else than `gpu`."""
    device = computing_device()
    name = device_name(device)
    # The run that is measured makes its own.
    forget_accelerator()
    if device.type == "cpu" or gpu_of_driver(name) != gpu:
        raise ConfigError(
            f"--measure runs on this machine, which computes on {name} and not on {gpu.name}; "
            "leave out --gpu for the time on this machine, or --measure for an assumed share of "
            "the GPU's peak"
        )
