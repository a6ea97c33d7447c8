"""What commands say of a model while they open it."""

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from vlv.inference.batching import BatchSize
    from vlv.inference.presets import Preset
    from vlv.models.vlv import VLVModel


def smallest(size: "BatchSize") -> int:
    """How many images at once have to fit into the memory: "auto" goes down to one."""
    return 1 if size == "auto" else size


def tell_differences(preset: "Preset", model: "VLVModel") -> None:
    """Name on standard error what a preset cannot ask of a model that was trained otherwise."""
    for difference in preset.differences(model):
        typer.echo(
            f"vlv: note: this model was trained with {difference}, which the preset leaves as it "
            "is",
            err=True,
        )
