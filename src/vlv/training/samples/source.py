"""What the loop needs to know of a sample source. Knows no objective, no network and no loop.

Workers of a data loader receive a pickled copy of the source, where processes are spawned: a source
holds settings, paths, mapped files and tokenizers, and never a network.
"""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from vlv.errors import ConfigError
from vlv.training.samples.carried import CarryingDataset
from vlv.training.samples.data_order import BY_SHARDS, NEW_RUNS, DataOrder, sample_index
from vlv.training.samples.shard_order import Shards

Batch = dict[str, Any]

# Their values decide the shapes of other tensors, which the program has to know.
KEPT_ON_HOST = frozenset({"caption_length"})


class SampleSource(ABC):
    """Samples to learn from, by index.

    A source draws all its randomness from the position of a sample (see data_order.py), never from
    a global generator.
    """

    counted: frozenset[str] = frozenset()
    """Values of an item that are added up over the run; no objective reads them."""

    @property
    def fingerprint(self) -> str | None:
        """Changes when the samples do, where the config alone does not say what they are."""
        return None

    @property
    def captions_fingerprint(self) -> str | None:
        """Changes when captions do, where `fingerprint` does not."""
        return None

    shards: Shards | None = None
    """Where samples come in shards, those; the data order 3 needs them."""

    def fetch_ahead(self, index: int) -> None:  # noqa: B027
        """Begin to fetch what sample `index` needs, where that takes long."""

    @abstractmethod
    def __len__(self) -> int:
        """How many different samples there are."""

    @abstractmethod
    def item(self, position: int, index: int) -> Batch:
        """Sample `index` as seen at `position`: tensors that stack into a batch."""


def order_of_new_run(wish: DataOrder | None, samples: SampleSource) -> DataOrder:
    """The data order of a run that begins.

    Raises:
        ConfigError: its config names one by shards, and its samples come in none.
    """
    if wish == BY_SHARDS and samples.shards is None:
        raise ConfigError(
            "data_order 3 is for sets of .tar shards or parquet files; leave data_order out"
        )
    far = samples.shards is not None and samples.shards.is_remote
    return wish or (BY_SHARDS if far else NEW_RUNS)


class PositionDataset(CarryingDataset[Batch]):
    """A source's samples by position, in the data order of a seed."""

    def __init__(self, samples: SampleSource, seed: int, order: DataOrder) -> None:
        self._samples = samples
        self._seed = seed
        self._order = order

    def index(self, position: int) -> int:
        """Which sample is seen at a position."""
        if self._order != 3:
            return sample_index(self._seed, position, len(self._samples), self._order)
        assert self._samples.shards is not None  # checked before the run
        return self._samples.shards.index(self._seed, position)

    def __getitem__(self, position: int) -> Batch:
        shards = self._samples.shards
        if self._order == BY_SHARDS and shards is not None and shards.is_remote:
            self._samples.fetch_ahead(shards.ahead(self._seed, position))
        return self._samples.item(position, self.index(position))


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with its tensors on `device`, but for those in `KEPT_ON_HOST`. From pinned memory
    the copies run beside what the device computes.
    """
    return {
        name: value.to(device, non_blocking=True)
        if isinstance(value, Tensor) and name not in KEPT_ON_HOST
        else value
        for name, value in batch.items()
    }
