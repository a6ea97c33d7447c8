"""What is seen at a position depends on seed and position alone."""

import time
import tracemalloc
from itertools import permutations, product

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.training.conftest import Workshop
from tests.training.written import write_checkpoint
from torch.utils.data import DataLoader

from vlv.errors import TrainingError
from vlv.training.checkpoint import list_checkpoints, read_checkpoint
from vlv.training.preemption import leave_signals_to_the_run
from vlv.training.samples.data_order import (
    DataOrder,
    KeyedPermutation,
    PositionSampler,
    generator,
    sample_index,
)
from vlv.training.samples.source import Batch, PositionDataset, SampleSource

LARGE = 40_000_000
FIRST_OF_1000 = [985, 331, 879, 647, 827, 463, 913, 299]
FIRST_OF_LARGE = [20123343, 7957559, 8341539, 1938497]


def positions(rank: int, world_size: int, batch_size: int, first_step: int = 0) -> list[list[int]]:
    return list(
        PositionSampler(
            batch_size=batch_size,
            micro_batches=2,
            first_step=first_step,
            last_step=3,
            rank=rank,
            world_size=world_size,
        )
    )


def test_processes_share_out_the_positions_of_one() -> None:
    alone = positions(rank=0, world_size=1, batch_size=8)
    shared = [positions(rank=rank, world_size=4, batch_size=2) for rank in range(4)]
    for number, batch in enumerate(alone):
        assert sorted(p for rank in shared for p in rank[number]) == batch


def test_a_later_start_sees_what_the_whole_run_sees_there() -> None:
    assert positions(0, 1, 8, first_step=1) == positions(0, 1, 8)[2:]


def epoch(seed: int, number: int, size: int) -> NDArray[np.uint64]:
    return KeyedPermutation(seed, number, size).indices(np.arange(size, dtype=np.uint64))


def deviation(counts: NDArray[np.int64], freedom: int) -> float:
    """How far counts are from equal ones: chi-square in standard deviations from its mean."""
    expected = counts.mean()
    return float((((counts - expected) ** 2 / expected).sum() - freedom) / (2 * freedom) ** 0.5)


@pytest.mark.parametrize("order", [1, 2])
def test_every_epoch_sees_each_sample_once_in_another_order(order: DataOrder) -> None:
    first = [sample_index(3, p, 50, order) for p in range(50)]
    second = [sample_index(3, p, 50, order) for p in range(50, 100)]
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second


def test_every_size_is_permuted() -> None:
    sizes = [*range(1, 1001), *np.random.default_rng(0).integers(10**3, 10**6, 5).tolist()]
    for size in sizes:
        places = epoch(1, size % 7, size)
        assert np.array_equal(np.sort(places), np.arange(size)), size
        some = range(0, size, 1 + size // 3)
        assert [sample_index(1, size * (size % 7) + p, size, 2) for p in some] == places[
            some
        ].tolist()


def test_orders_stay_what_they_are() -> None:
    """Runs that are resumed later depend on it."""
    drawn = np.random.default_rng([3, 1]).permutation(50)
    assert [sample_index(3, 50 + p, 50, 1) for p in range(50)] == drawn.tolist()
    assert [sample_index(0, p, 1000, 2) for p in range(8)] == FIRST_OF_1000
    assert [sample_index(5, LARGE + p, LARGE, 2) for p in range(4)] == FIRST_OF_LARGE


def test_every_permutation_of_few_samples_is_equally_likely() -> None:
    number = {order: at for at, order in enumerate(permutations(range(5)))}
    counts = np.zeros(len(number), dtype=np.int64)
    for at in range(4000):
        permutation = KeyedPermutation(2, at, 5)
        counts[number[tuple(permutation.index(place) for place in range(5))]] += 1
    assert abs(deviation(counts, len(number) - 1)) < 4


@pytest.mark.parametrize("size", [30, 64, 97])
def test_every_sample_is_equally_likely_at_every_position(size: int) -> None:
    counts = np.zeros((size, size), dtype=np.int64)
    for number in range(1500):
        counts[np.arange(size), epoch(4, number, size).astype(int)] += 1
    assert abs(deviation(counts, (size - 1) ** 2)) < 4


def test_neighbours_and_epochs_do_not_correlate() -> None:
    size = 200_003
    here, there = (epoch(6, number, size).astype(float) for number in (0, 1))
    other_seed = epoch(7, 0, size).astype(float)
    pairs = [(here, there), (here, other_seed), (here, np.arange(size))]
    pairs += [(here[lag:], here[:-lag]) for lag in (1, 2, 448)]  # 448: the grid's width
    for one, other in pairs:
        assert abs(np.corrcoef(one, other)[0, 1]) < 4 / size**0.5
    # A permutation keeps one sample in place, on average.
    assert (here == there).sum() < 10


def test_forty_million_samples_need_no_memory_and_no_time() -> None:
    tracemalloc.start()
    try:
        started = time.process_time()
        sample_index(11, 0, LARGE, 2)
        assert time.process_time() - started < 0.1
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()

    def microseconds() -> float:
        started = time.process_time()
        for position in range(1000):
            sample_index(11, position * 31, LARGE, 2)
        return (time.process_time() - started) * 1e3

    assert min(microseconds() for _ in range(5)) < 20


class Numbers(SampleSource):
    """Samples that say what they are."""

    def __len__(self) -> int:
        return 25

    def item(self, position: int, index: int) -> Batch:
        return {"position": torch.tensor(position), "index": torch.tensor(index)}


def seen(world_size: int, workers: int, first_step: int) -> list[tuple[int, int]]:
    """(position, index) of all processes in the order of positions, step by step."""
    loaders = [
        DataLoader(
            PositionDataset(Numbers(), 8, order=2),
            batch_sampler=PositionSampler(
                batch_size=6 // world_size,
                micro_batches=2,
                first_step=first_step,
                last_step=5,
                rank=rank,
                world_size=world_size,
            ),
            num_workers=workers,
            worker_init_fn=leave_signals_to_the_run,
        )
        for rank in range(world_size)
    ]
    rows: list[tuple[int, int]] = []
    for batches in zip(*loaders, strict=True):
        pairs = [torch.stack([b["position"], b["index"]], 1).tolist() for b in batches]
        # Processes take turns.
        rows += [(at, index) for turn in zip(*pairs, strict=True) for at, index in turn]
    return rows


@pytest.mark.parametrize(("world_size", "workers"), [*product((1, 2, 3), (0, 1, 2))])
def test_processes_and_workers_see_the_same_samples_in_the_same_order(
    world_size: int, workers: int
) -> None:
    """Two epochs and a bit, from the start and from the middle of a run."""
    expected = [(position, sample_index(8, position, 25, 2)) for position in range(60)]
    assert seen(world_size, workers, first_step=0) == expected
    if workers == 0:
        assert seen(world_size, workers, first_step=3) == expected[36:]


def test_a_run_keeps_the_order_that_it_began_with(workshop: Workshop) -> None:
    """Checkpoints of earlier versions name none: they are of the first order."""

    def run(name: str, steps: int, order: DataOrder | None) -> list[torch.Tensor]:
        folder = workshop.root / name
        workshop.run(
            "language-model",
            output_dir=str(folder),
            max_train_steps=steps,
            lr_scheduler="constant",
            data_order=order,
        )
        return list(read_checkpoint(list_checkpoints(folder)[-1])[0]["trainable"].values())

    first, second = run("first-order", 4, 1), run("second-order", 4, 2)
    assert not all(map(torch.equal, first, second))
    assert all(map(torch.equal, run("new-order", 4, None), second))
    run("old-order", 2, 1)
    tensors, state = read_checkpoint(list_checkpoints(workshop.root / "old-order")[-1])
    assert state.pop("data_order") == 1
    write_checkpoint(workshop.root / "old-order", 2, tensors, state)
    with pytest.raises(TrainingError, match="made with data_order 1, and the config names 2"):
        run("old-order", 4, 2)
    assert all(map(torch.equal, run("old-order", 4, None), first))


def test_noise_belongs_to_its_position() -> None:
    def draw(*key: object) -> torch.Tensor:
        return torch.randn(5, generator=generator(*key))  # type: ignore[arg-type]

    assert torch.equal(draw(1, 7, "noise"), draw(1, 7, "noise"))
    for other in ((1, 8, "noise"), (2, 7, "noise"), (1, 7, "timestep")):
        assert not torch.equal(draw(1, 7, "noise"), draw(*other))
