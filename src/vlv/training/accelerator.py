"""accelerate, as the training loop wants it."""

import os

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import (
    DistributedDataParallelKwargs,
    GradientAccumulationPlugin,
    parse_flag_from_env,
)

from vlv.errors import ConfigError
from vlv.models.precision import mixed_precision
from vlv.training.config import TrainingConfig


def make_accelerator(config: TrainingConfig) -> Accelerator:
    """Devices, processes, precision and trackers of a run."""
    return Accelerator(
        mixed_precision=mixed_precision(config.mixed_precision, computing_device()),
        # The optimizer steps when this loop says so, not when a data loader runs out.
        gradient_accumulation_plugin=GradientAccumulationPlugin(
            num_steps=config.gradient_accumulation_steps, sync_with_dataloader=False
        ),
        kwargs_handlers=[
            DistributedDataParallelKwargs(
                # Florence-2 has parameters that queries never reach (its token embeddings).
                find_unused_parameters=True,
                # Gradients are not kept twice, once more for the exchange.
                gradient_as_bucket_view=True,
            )
        ],
        log_with=None if config.report_to == "none" else config.report_to,
        project_dir=str(config.output_dir),
    )


def forget_accelerator() -> None:
    """Its state is a whole process's; another run may follow in it with other settings."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def use_device(name: str | None) -> None:
    """Make this the device where accelerate will compute; None is the best one.

    Raises:
        ConfigError: it cannot be used here.
    """
    if name is None:
        return
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(
            f"the device {name!r} cannot be used here; `vlv doctor` lists those that can"
        ) from error
    if device.type == "cpu":
        os.environ["ACCELERATE_USE_CPU"] = "true"
    elif device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)


def computing_device() -> torch.device:
    """Where accelerate will compute; the call creates the process group."""
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU")).device
