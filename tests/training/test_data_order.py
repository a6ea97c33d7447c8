"""What is seen at a position depends on seed and position alone."""

import torch

from vlv.training.samples.data_order import PositionSampler, generator, sample_index


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


def test_every_epoch_sees_each_sample_once_in_another_order() -> None:
    first = [sample_index(3, p, 50) for p in range(50)]
    second = [sample_index(3, p, 50) for p in range(50, 100)]
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second


def test_noise_belongs_to_its_position() -> None:
    def draw(*key: object) -> torch.Tensor:
        return torch.randn(5, generator=generator(*key))  # type: ignore[arg-type]

    assert torch.equal(draw(1, 7, "noise"), draw(1, 7, "noise"))
    for other in ((1, 8, "noise"), (2, 7, "noise"), (1, 7, "timestep")):
        assert not torch.equal(draw(1, 7, "noise"), draw(*other))
