"""The GPUs whose peak and memory are known (gpus.yaml). Knows no prices: they are arguments."""

from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from vlv.errors import ConfigError
from vlv.yaml_files import read_yaml

_TABLE = Path(__file__).with_name("gpus.yaml")


class GPU(BaseModel):
    """One GPU of the table: peaks in TFLOP/s of dense matrix products, memory in GiB, bandwidth in
    GB/s, and how the name begins that its driver reports.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    bf16: float = Field(gt=0)
    fp32: float = Field(gt=0)
    memory: float = Field(gt=0)
    bandwidth: float = Field(gt=0)
    reports: str

    def peak(self, precision: Literal["bf16", "no"]) -> float:
        """Peak FLOP/s in a run's `mixed_precision`; "no" is float32 outside of tensor cores."""
        return 1e12 * (self.bf16 if precision == "bf16" else self.fp32)


@cache
def gpus() -> dict[str, GPU]:
    """The table by the names that `--gpu` takes."""
    return TypeAdapter(dict[str, GPU]).validate_python(
        read_yaml(_TABLE, f"the table {_TABLE}", ConfigError)
    )


def gpu_named(name: str) -> GPU:
    """A GPU of the table.

    Raises:
        ConfigError: the table has none of this name.
    """
    found = gpus().get(name.lower())
    if found is None:
        raise ConfigError(f"no GPU {name!r} is known; known are {', '.join(gpus())}")
    return found


def gpu_of_driver(name: str) -> GPU | None:
    """The GPU that a driver reports by this name, if the table has it."""
    # "NVIDIA L40S" begins with "NVIDIA L4": the longest fits best.
    fits = [gpu for gpu in gpus().values() if name.startswith(gpu.reports)]
    return max(fits, key=lambda gpu: len(gpu.reports), default=None)
