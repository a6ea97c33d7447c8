"""Errors of samples, from the processes that load them to the one that reads the batches.

torch makes the whole traceback of such an error its message, and an error of another class where
it has arguments of its own. Here it travels in place of its batch, and is raised as it was.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from torch.utils.data import Dataset

from vlv.errors import VLVError

Item = TypeVar("Item")


@dataclass(frozen=True)
class Failed:
    """In place of the samples of a batch: why there are none."""

    error: VLVError


class CarryingDataset(Dataset[Item]):
    """A dataset whose errors a loader carries, which has a `collated` and is read by `arrived`."""

    def __getitems__(self, numbers: Sequence[Any]) -> list[Item] | Failed:
        """The samples of a batch, as torch asks for them."""
        try:
            return [self[number] for number in numbers]
        except VLVError as error:
            return Failed(error)


def collated(collate: Callable[[list[Any]], Any], samples: list[Any] | Failed) -> Any:
    """A batch of samples, made by `collate`."""
    return samples if isinstance(samples, Failed) else collate(samples)


def arrived(batch: Any) -> Any:
    """A batch that a loader gave.

    Raises:
        VLVError: what was raised in place of one of its samples.
    """
    if isinstance(batch, Failed):
        raise batch.error
    return batch
