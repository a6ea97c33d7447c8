"""What the loop needs to know of an objective. Knows no loop, no config and no sample source."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from vlv.training.samples.source import Batch


class Objective(nn.Module, ABC):
    """A loss on boxes; its trainable parameters are those that require grad.

    `forward(batch)` returns the loss (a scalar) and metrics to log. All its randomness is in the
    batch.
    """

    @abstractmethod
    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and metrics of a batch; NaN is a metric that the batch says nothing of."""

    @abstractmethod
    def validate(self) -> dict[str, float]:
        """Metrics on held-out samples; called without gradients, under EMA weights if kept."""

    @property
    def best_by(self) -> Collection[str]:
        """Metrics of `validate` whose least value is the best: what `keep_best` may name."""
        return ()

    def picture(self) -> Image.Image | None:
        """A picture of what the model does now, for the sample folder."""
        return None

    def finish(self) -> None:
        """Called once after the last step, under the final weights, before `export`; without
        gradients, as `export` is.
        """

    @abstractmethod
    def export(self, folder: Path) -> None:
        """Write what was trained into `folder`, in the layout of a VLV checkpoint."""

    def train(self, mode: bool = True) -> "Objective":
        """Train mode for what is trained; whatever holds no trainable parameter stays in eval
        mode.
        """
        super().train(mode)
        _keep_frozen_in_eval(self)
        return self

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """Parameters by the names that `trainable` and `learning_rates` use; empty where a stage
        has no such names.
        """
        return {}

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return next(self.parameters()).device

    def trainable(self) -> dict[str, nn.Parameter]:
        """Trainable parameters by name."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}


def _keep_frozen_in_eval(module: nn.Module) -> bool:
    """Put everything that holds parameters, none of them trainable, in eval mode; whether anything
    in `module` trains.
    """
    trains = any(p.requires_grad for p in module.parameters(recurse=False))
    for child in module.children():
        trains |= _keep_frozen_in_eval(child)
    if not trains and next(module.parameters(), None) is not None:
        module.eval()
    return trains


def picture_rows(rows: Sequence[Sequence[NDArray[np.uint8]]]) -> Image.Image:
    """Rows of equally large pictures as one image, without margins."""
    return Image.fromarray(np.concatenate([np.concatenate(list(row), axis=1) for row in rows]))
