"""The bill of a run of stage 1 or 2 before it is run: operations, memory, disk, and on a GPU of the
table, or at a measured pace, time and money.

What is assumed rather than counted or measured is listed in `Bill.assumed`.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from vlv.training.cost.disk import Disk, count_disk
from vlv.training.cost.gpus import GPU
from vlv.training.cost.work import CAPTION_TOKENS, Work, count_work
from vlv.training.memory import GIB, Memory, objective_memory
from vlv.training.meta_steps import encoder_objective, meta_boxes
from vlv.training.stages.encoding import EncoderStageConfig
from vlv.training.stages.stage2 import Stage2Config

# The share of a GPU's peak that training is assumed to reach.
UTILISATION = 0.4
# Bytes a second at which checkpoints are assumed to be written, synced and hashed.
WRITING = 1e9


@dataclass(frozen=True)
class Times:
    """Seconds of a run, while all its GPUs are paid for."""

    training: float
    validation: float
    saving: float

    @property
    def total(self) -> float:
        """From the first step to the exported model."""
        return self.training + self.validation + self.saving


@dataclass(frozen=True)
class Durations:
    """Seconds of a step, of the first validation of a run, of one later, of the last one, which
    draws no picture, of a checkpoint and of the export.
    """

    step: float
    first_validation: float
    validation: float
    last_validation: float
    saving: float
    export: float

    def run(self, work: Work) -> Times:
        """A whole run at this pace."""
        return Times(
            work.config.max_train_steps * self.step,
            self.first_validation + (work.validations - 1) * self.validation + self.last_validation,
            work.checkpoints * self.saving + self.export,
        )


@dataclass(frozen=True)
class Pace:
    """What was measured on this machine: `steps` steps after a warm-up, by the clock, and in CPU
    time of all threads of the process.
    """

    steps: int
    device: str
    clock: Durations
    cpu: Durations


@dataclass(frozen=True)
class Bill:
    """What a run will take. `gpu` and `price` (USD for an hour of one GPU) may be unknown."""

    stage: str
    work: Work
    memory: Memory
    disk: Disk
    gpu: GPU | None = None
    price: float | None = None
    mfu: float = UTILISATION
    pace: Pace | None = None
    assumed: list[str] = field(default_factory=list)

    @property
    def precision(self) -> Literal["bf16", "no"]:
        """In which a GPU computes."""
        return "no" if self.work.config.mixed_precision == "no" else "bf16"

    @property
    def times(self) -> Times | None:
        """None where nothing says how fast the run is."""
        work = self.work
        if self.pace is not None:
            return self.pace.clock.run(work)
        if self.gpu is None:
            return None
        rate = self.gpu.peak(self.precision) * self.mfu
        return Times(
            work.training_flops / rate / work.processes,
            work.validation_flops / rate,
            self.disk.written / WRITING,
        )

    @property
    def gpu_hours(self) -> float | None:
        """Of all GPUs together."""
        return None if self.times is None else self.times.total / 3600 * self.work.processes

    @property
    def usd(self) -> float | None:
        """At the price that was given."""
        if self.price is None or self.gpu_hours is None:
            return None
        return self.price * self.gpu_hours

    @property
    def misfit(self) -> str | None:
        """Why the run does not fit the GPU, in words; None where it does, or no GPU is named."""
        if self.gpu is None or self.memory.total <= self.gpu.memory * GIB:
            return None
        needed = -(-self.memory.total // GIB)
        return f"does not fit: needs {needed} GiB of {self.gpu.memory:g}"


def make_bill(
    stage: str,
    config: EncoderStageConfig,
    *,
    gpu: GPU | None = None,
    processes: int = 1,
    price: float | None = None,
    mfu: float | None = None,
    caption_tokens: int | None = None,
    encoder_image_size: int | None = None,
) -> Bill:
    """Count the bill of a config on the meta device.

    mfu: the share of peak, None for the assumed one. caption_tokens: of a caption on disk, None for
    the paper's mean. encoder_image_size: side of the encoder's pictures in pixels, None for the
    model's.

    Raises:
        CheckpointError, ConfigError: as `meta_boxes`.
    """
    found = meta_boxes(config, encoder_image_size)
    objective = encoder_objective(config, found.boxes)
    disk = count_disk(config, objective)
    memory = objective_memory(config, objective, processes)
    # Counting used up the boxes.
    work = count_work(config, meta_boxes(config, encoder_image_size), processes, caption_tokens)
    assumed = [*found.assumed]
    if isinstance(config, Stage2Config) and caption_tokens is None and "set" in _fields(config):
        assumed.append(
            f"captions of {work.caption_tokens} tokens, the paper's mean of {CAPTION_TOKENS} cut "
            "to max_tokens (--caption-tokens)"
        )
    return Bill(
        stage,
        work,
        memory,
        disk,
        gpu,
        price,
        UTILISATION if mfu is None else mfu,
        assumed=assumed,
    )


def _fields(config: EncoderStageConfig) -> dict[str, Any]:
    return config.data.model_dump()
