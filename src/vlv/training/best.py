"""The weights that did best on held-out samples, for runs that see few samples often."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from vlv.errors import TrainingError
from vlv.files import atomic_file
from vlv.training.writing import writing

_FILE = "best.safetensors"


class BestWeights:
    """Kept in a run's folder, with the step they are of; the least value of `figure` is the best.

    `step` is None as long as there are none. `overtaken` counts the offers since then that were no
    better.
    """

    def __init__(self, output_dir: Path, figure: str) -> None:
        self._path = output_dir / _FILE
        self._figure = figure
        self.step: int | None = None
        self._value = float("inf")
        self.overtaken = 0

    def resume(self, step: int, overtaken: int) -> None:
        """Take up what a run kept that goes on from `step`; what it kept later is forgotten.

        overtaken: as it was at that step. Raises TrainingError for a damaged file.
        """
        if not self._path.is_file():
            return
        try:
            with safe_open(self._path, "pt") as file:
                told = file.metadata() or {}
            kept, value = int(told["step"]), float(told["value"])
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise TrainingError(
                f"{self._path} is damaged ({error}); remove it to go on without the best weights "
                "until now"
            ) from error
        if kept <= step:
            self.step, self._value, self.overtaken = kept, value, overtaken

    def offer(self, figures: Mapping[str, float], step: int, weights: Mapping[str, Tensor]) -> None:
        """Keep `weights` if their figure is better than that of those kept.

        Raises:
            TrainingError: no such figure was measured.
        """
        if self._figure not in figures:
            raise TrainingError(
                f"keep_best names {self._figure!r}, and validation measures "
                f"{', '.join(sorted(figures))}"
            )
        value = figures[self._figure]
        if not value < self._value:
            self.overtaken += 1
            return
        kept = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
        with writing(self._path), atomic_file(self._path) as unfinished:
            save_file(kept, unfinished, {"step": str(step), "value": repr(value)})
        self.step, self._value, self.overtaken = step, value, 0

    @torch.no_grad()
    def load_into(self, weights: Mapping[str, Tensor]) -> None:
        """Copy what was kept over `weights`, which are those that were offered."""
        for name, kept in load_file(self._path).items():
            weights[name].copy_(kept)
