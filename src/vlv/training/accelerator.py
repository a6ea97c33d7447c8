"""accelerate, as the training loop wants it."""

import atexit
import os
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    GradientAccumulationPlugin,
    parse_flag_from_env,
)

from vlv.errors import ConfigError
from vlv.models.precision import checked_device, mixed_precision
from vlv.training.config import TrainingConfig

# What `accelerate launch` tells its processes to use, by the variable that it sets.
_OTHER_WAYS = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_FSDP": "accelerate's FSDP",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "accelerate's parallelism config",
}
_KNOWN = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)


def make_accelerator(config: TrainingConfig) -> Accelerator:
    """Devices, processes, precision and trackers of a run.

    Raises:
        ConfigError: the launcher asks for another way to share work than `sharding` gives.
    """
    accelerator = Accelerator(
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
    if accelerator.distributed_type not in _KNOWN:
        raise ConfigError(_refusal(accelerator.distributed_type.value))
    return accelerator


def prepare(
    accelerator: Accelerator,
    objective: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    sharded: bool,
) -> tuple[torch.nn.Module, Any]:
    """The objective and the optimizer as a step calls them; what is sharded exchanges gradients
    itself.
    """
    if sharded:
        # Named after its commonest use; it adds precision, and no exchange of gradients.
        model = accelerator.prepare_model(objective, device_placement=False, evaluation_mode=True)
        return model, accelerator.prepare_optimizer(optimizer)
    model, prepared = accelerator.prepare(objective, optimizer)
    return model, prepared


def forget_accelerator() -> None:
    """Its state is a whole process's; another run may follow in it with other settings.

    The process group stays for that run: torchrun's store lives as long as the processes do, and
    another group of the same name would find the addresses of this one in it.
    """
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def leave_processes_at_exit(*, complete: bool) -> None:
    """Let this process wait for the others when it ends, if its runs are `complete`; where one
    failed, they may never come.
    """
    atexit.unregister(_leave_processes)
    if complete:
        atexit.register(_leave_processes)


def _leave_processes() -> None:
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def use_device(name: str | None) -> None:
    """Make this the device where accelerate will compute; None is the best one.

    Raises:
        ConfigError: it cannot be used here.
    """
    if name is None:
        return
    device = checked_device(name)
    if device.type == "cpu":
        os.environ["ACCELERATE_USE_CPU"] = "true"
    elif device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)


def computing_device() -> torch.device:
    """Where accelerate will compute; the call creates the process group.

    Raises:
        ConfigError: as `make_accelerator`.
    """
    for variable, way in _OTHER_WAYS.items():
        if parse_flag_from_env(variable):
            raise ConfigError(_refusal(way))
    if not torch.accelerator.is_available():
        # Otherwise accelerate takes each of several processes for the only one.
        os.environ["ACCELERATE_USE_CPU"] = "true"
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU")).device


def _refusal(way: str) -> str:
    return (
        f"the launcher asks for {way}, which training does not use: start with torchrun, or with "
        "accelerate launch without it, and set sharding: fsdp or hybrid to share weights"
    )
