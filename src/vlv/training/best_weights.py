"""The best weights of a run: a file of the run, and a second name of it in each checkpoint.

The file is replaced as a whole when a validation is better than all before. A checkpoint keeps what
was the best until its step, so whoever goes on from it or exports it finds that, whatever the run
kept later. Checkpoints of earlier versions keep none: for them the file of their run counts, where
it is no newer than they are.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vlv.errors import TrainingError
from vlv.files import atomic_large_file, second_name, sync
from vlv.training.old_names import current_parameters
from vlv.training.run_folder import writing
from vlv.training.sharding import copy_whole, full
from vlv.unfinished import hidden_folder

logger = logging.getLogger(__name__)

BEST_FILE = "best.safetensors"
# In the state of a checkpoint: the step and the value of its best weights, or None.
_BEST = "best"


class BestFile:
    """Best weights on the disk. The file is opened once: step, value and tensors belong together,
    whatever replaces the file meanwhile.

    Raises:
        TrainingError: it is missing or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with _reading(path):
            self._file = safe_open(path, "pt")
            saved = self._file.metadata() or {}
            self.step, self.value = int(saved["step"]), float(saved["value"])

    def tensors(self) -> dict[str, Tensor]:
        """The weights, by the current names of their parameters."""
        file = self._file
        with _reading(self.path):
            return current_parameters({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise TrainingError(
            f"{path} is damaged ({error}); remove it to go on without the best weights until now"
        ) from error


def best_at(checkpoint: Path, numbers: Mapping[str, Any]) -> BestFile | None:
    """The best weights until a checkpoint with these `numbers`; None where there were none, or
    where they are gone.

    Raises:
        TrainingError: they are damaged.
    """
    if numbers["config"].get("keep_best") is None:
        return None
    kept = checkpoint / BEST_FILE
    if _BEST in numbers:
        return BestFile(kept) if numbers[_BEST] is not None and kept.is_file() else None
    for path in (kept, checkpoint.parent / BEST_FILE):
        if path.is_file():
            found = BestFile(path)
            if found.step <= numbers["step"]:
                return found
    return None


class BestWeights:
    """The weights with the least value of a metric of validation, and their step.

    `step` is None as long as there are none. `overtaken` counts the offers since then that were no
    better.
    """

    def __init__(self, output_dir: Path, metric: str) -> None:
        self._path = output_dir / BEST_FILE
        self._metric = metric
        self.step: int | None = None
        self._value = float("inf")
        self.overtaken = 0

    def numbers(self) -> dict[str, Any]:
        """What a checkpoint records of them."""
        kept = None if self.step is None else {"step": self.step, "value": self._value}
        return {_BEST: kept, "overtaken": self.overtaken}

    @property
    def file(self) -> Path | None:
        """What a checkpoint gives a second name; None as long as there is nothing to keep."""
        return None if self.step is None else self._path

    def take_over(
        self, checkpoint: Path, numbers: Mapping[str, Any]
    ) -> tuple[int | None, float, int]:
        """Make the best weights until a checkpoint those of the run that goes on from it, on the
        disk; one process does, and all `resume` with what it returns.

        Raises:
            TrainingError: they are damaged, or cannot be written.
        """
        overtaken = numbers.get("overtaken", 0)
        found = best_at(checkpoint, numbers)
        if found is None:
            if numbers.get(_BEST) is not None:
                logger.warning(
                    "%s is gone: the run goes on without the best weights until step %d",
                    *(checkpoint / BEST_FILE, numbers["step"]),
                )
            return None, float("inf"), overtaken
        with writing(self._path):
            _name_again(found.path, self._path)
        if _BEST not in numbers and checkpoint.parent == self._path.parent:
            # An earlier version wrote it: the file of the run will not always be what it needs.
            with writing(checkpoint / BEST_FILE):
                _name_again(found.path, checkpoint / BEST_FILE)
        return found.step, found.value, overtaken

    def resume(self, step: int | None, value: float, overtaken: int) -> None:
        """Go on from what was kept until a checkpoint."""
        self.step, self._value, self.overtaken = step, value, overtaken

    def forget(self) -> None:
        """Remove what an earlier run kept in this folder: another one begins."""
        self._path.unlink(missing_ok=True)

    def offer(
        self,
        metrics: Mapping[str, float],
        step: int,
        weights: Mapping[str, Tensor],
        *,
        writes: bool = True,
    ) -> None:
        """Keep `weights` if their metric is better than that of those kept. Processes among which
        weights are spread all offer the same metrics; one of them `writes`.

        Raises:
            TrainingError: validation does not measure this metric.
        """
        if self._metric not in metrics:
            raise TrainingError(
                f"keep_best names {self._metric!r}, and validation measures "
                f"{', '.join(sorted(metrics))}"
            )
        value = metrics[self._metric]
        if not value < self._value:
            self.overtaken += 1
            return
        kept = {}
        for name, tensor in weights.items():
            whole = full(tensor.detach())
            if writes:
                kept[name] = whole.cpu().contiguous()
        if writes:
            with writing(self._path), atomic_large_file(self._path) as unfinished:
                save_file(kept, unfinished, {"step": str(step), "value": repr(value)})
        self.step, self._value, self.overtaken = step, value, 0

    @torch.no_grad()
    def load_into(self, weights: Mapping[str, Tensor]) -> None:
        """Copy what was kept over `weights`, which are those that were offered.

        Raises:
            TrainingError: it is missing or damaged.
        """
        for name, kept in BestFile(self._path).tensors().items():
            copy_whole(weights[name], kept)


def _name_again(source: Path, target: Path) -> None:
    """Give a file a second name in place of what had that name before."""
    with hidden_folder(target) as folder:
        second_name(source, folder / "file")
        sync(folder / "file")
        os.replace(folder / "file", target)
    sync(target.parent)
