"""`gradient_checkpointing: auto`: activations are computed again only where memory asks for it.

Decided before a run, or its bill, by counting what a step needs without it (`vlv.training.memory`).
"""

import logging
import os
from typing import TypeVar

from vlv.checkpoints.memory import free_memory
from vlv.training.accelerator import computing_device
from vlv.training.config import TrainingConfig
from vlv.training.memory import GIB, objective_memory
from vlv.training.meta_steps import encoder_objective, meta_boxes
from vlv.training.processes import Processes
from vlv.training.stages.encoding import EncoderStageConfig

logger = logging.getLogger(__name__)

# The share of memory that a step may need by count: activations are an estimate, and the count
# knows neither the allocator's gaps nor what CUDA takes itself.
_SHARE = 0.9

StageConfig = TypeVar("StageConfig", bound=EncoderStageConfig)


def settled_here(config: TrainingConfig) -> TrainingConfig:
    """The config with `auto` decided for the device of this process, and the decision logged. Of
    several processes the one with the least free memory decides; all have to call.
    """
    if not isinstance(config, EncoderStageConfig) or config.gradient_checkpointing != "auto":
        return config
    device = computing_device()
    processes = Processes()
    room = -processes.largest(-free_memory(device))
    spread = processes.count
    if config.sharding == "hybrid":
        spread = int(os.environ.get("LOCAL_WORLD_SIZE", spread))
    made, reason = settled(config, room, spread)
    logger.info("%s on %s", reason, device)
    return made


def settled(
    config: StageConfig, room: int, processes: int = 1, encoder_image_size: int | None = None
) -> tuple[StageConfig, str]:
    """The config with `auto` decided for devices of `room` bytes, and why; an empty reason where
    there is nothing to decide.

    processes, encoder_image_size: as for `vlv.training.cost.bill.make_bill`.
    """
    if config.gradient_checkpointing != "auto":
        return config, ""
    kept = config.model_copy(update={"gradient_checkpointing": False})
    boxes = meta_boxes(kept, encoder_image_size).boxes
    need = objective_memory(kept, encoder_objective(kept, boxes), processes).total
    again = need > _SHARE * room
    reason = (
        f"gradient_checkpointing (auto) is {'on' if again else 'off'}: without it a step needs "
        f"{need / GIB:.1f} GiB of {room / GIB:.1f}"
    )
    return config.model_copy(update={"gradient_checkpointing": again}), reason
