"""What the loop needs to know of a stage. Knows no loop and no model."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

from vlv.training.config import TrainingConfig
from vlv.training.samples.data_order import sample_index

Batch = dict[str, Any]


class Stage(nn.Module, ABC):
    """A loss over samples of a data set; its trainable parameters are those that require grad.

    `forward(batch)` returns the loss (a scalar) and figures to log. A stage draws all its
    randomness from the position of a sample (see order.py), never from a global generator.
    """

    name: str
    config: TrainingConfig
    counted: frozenset[str] = frozenset()
    """Figures of `forward` that are added up over the run; the others are averages."""
    before: dict[str, Any] | None = None
    """The record of the run of the same stage whose weights this one starts from."""

    @property
    @abstractmethod
    def size(self) -> int:
        """How many different samples there are."""

    @property
    def data_fingerprint(self) -> str | None:
        """Changes when the samples do, where the config alone does not say what they are."""
        return None

    @abstractmethod
    def item(self, position: int, index: int) -> Batch:
        """Sample `index` as seen at `position`; values are tensors that stack into a batch."""

    @abstractmethod
    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and figures of a batch."""

    @abstractmethod
    def validate(self) -> dict[str, float]:
        """Figures on held-out samples; called without gradients, under EMA weights if kept."""

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

    def train(self, mode: bool = True) -> "Stage":
        """Train mode for what is trained; whatever holds no trainable parameter stays as in use."""
        super().train(mode)
        _rest_frozen(self)
        return self

    @property
    def device(self) -> torch.device:
        """Where the stage's networks are."""
        return next(self.parameters()).device

    def trainable(self) -> dict[str, nn.Parameter]:
        """Trainable parameters by name."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}


def _rest_frozen(module: nn.Module) -> bool:
    """Put every part that holds parameters, none of them trainable, in eval mode; whether
    anything in `module` trains.
    """
    trains = any(p.requires_grad for p in module.parameters(recurse=False))
    for child in module.children():
        trains |= _rest_frozen(child)
    if not trains and next(module.parameters(), None) is not None:
        module.eval()
    return trains


class StageDataset(Dataset[Batch]):
    """A stage's samples by position."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def __getitem__(self, position: int) -> Batch:
        stage = self._stage
        return stage.item(position, sample_index(stage.config.seed, position, stage.size))


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with its tensors on `device`."""
    return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}
