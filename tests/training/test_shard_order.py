"""The order by shards is exact, reads few shards at a time, and is a function of position."""

from collections import Counter
from itertools import product

import numpy as np
import pytest
from torch.utils.data import DataLoader

from vlv.errors import ConfigError
from vlv.training.samples.data_order import PositionSampler
from vlv.training.samples.shard_order import Shards
from vlv.training.samples.source import Batch, PositionDataset, SampleSource, order_of_new_run

UNEVEN = (7, 0, 30, 1, 12, 25, 9, 16)
FIRST = [77, 68, 36, 76, 71, 33, 78, 72]


class Numbers(SampleSource):
    """Samples that are their own numbers."""

    def __init__(self, shards: Shards | None) -> None:
        self.shards = shards

    def __len__(self) -> int:
        return 100 if self.shards is None else sum(self.shards.sizes)

    def item(self, position: int, index: int) -> Batch:
        return {"index": index}


@pytest.mark.parametrize(
    ("sizes", "streams", "buffer"),
    [(UNEVEN, 3, 5), (UNEVEN, 8, 1000), ((5,), 8, 2), ((1, 1, 1), 7, 1), ((50,) * 20, 1, 60)],
)
def test_every_epoch_sees_each_sample_once(
    sizes: tuple[int, ...], streams: int, buffer: int
) -> None:
    shards, total = Shards(sizes, streams, buffer), sum(sizes)
    epochs = [
        [shards.index(3, number * total + offset) for offset in range(total)] for number in range(3)
    ]
    for order in epochs:
        assert sorted(order) == list(range(total))
    if total > 20:
        assert len({tuple(order) for order in epochs}) == 3


def test_the_order_stays_what_it_is() -> None:
    """Runs that are resumed later depend on it."""
    shards = Shards(UNEVEN, 3, 5)
    assert [shards.index(1, position) for position in range(8)] == FIRST


@pytest.mark.parametrize(("ranks", "workers"), [*product((1, 2, 3), (0, 1, 2))])
def test_ranks_and_workers_see_every_sample_once(ranks: int, workers: int) -> None:
    source = Numbers(Shards((7, 30, 1, 12, 25, 9, 36), streams=4, buffer=8))
    assert len(source) == 120
    seen: Counter[int] = Counter()
    for rank in range(ranks):
        loader = DataLoader(
            PositionDataset(source, 5, 3),
            batch_sampler=PositionSampler(
                batch_size=4,
                micro_batches=1,
                first_step=0,
                last_step=120 // (4 * ranks),
                rank=rank,
                world_size=ranks,
            ),
            num_workers=workers,
        )
        seen.update(int(index) for batch in loader for index in batch["index"])
    assert seen == Counter(range(120))


def test_a_process_has_shards_of_its_own_and_few_at_a_time() -> None:
    sizes, ranks = (100,) * 40, 4
    shards = Shards(sizes, streams=4, buffer=150)
    of_rank = [
        [shards.index(0, position) // 100 for position in range(rank, 4000, ranks)]
        for rank in range(ranks)
    ]
    for shards_of_one in of_rank:
        assert len(set(shards_of_one)) in (10, 11)
        at_once = [len(set(shards_of_one[at : at + 150])) for at in range(0, 1000, 150)]
        assert max(at_once) <= 3
    assert sum(len(set(one)) for one in of_rank) == 40


def test_a_block_is_shuffled() -> None:
    shards = Shards((1000,) * 8, streams=1, buffer=4000)
    order = np.array([shards.index(0, position) for position in range(4000)])
    places = np.arange(4000)
    # Within a block, the shard of a sample says nothing about when it is seen.
    assert abs(np.corrcoef(order // 1000, places)[0, 1]) < 0.07
    assert abs(np.corrcoef(order[1:], order[:-1])[0, 1]) < 0.07


def test_what_needs_shards_says_so() -> None:
    far, near = Shards(UNEVEN), Shards(UNEVEN, is_remote=False)
    assert order_of_new_run(None, Numbers(far)) == 3
    assert order_of_new_run(None, Numbers(near)) == 2
    assert order_of_new_run(3, Numbers(near)) == 3
    assert order_of_new_run(1, Numbers(far)) == 1
    with pytest.raises(ConfigError, match=r"data_order 3 is for sets of \.tar shards"):
        order_of_new_run(3, Numbers(None))


def test_the_first_samples_of_a_set_end_inside_a_shard() -> None:
    shards = Shards.of_first(20, (7, 0, 30, 1), 8, 100, True)
    assert shards.sizes == (7, 0, 13, 0)
