"""Errors of a loader's workers are those that a loader without workers raises."""

from functools import partial

import pytest
from torch.utils.data import DataLoader, default_collate

from vlv.errors import DatasetError, ImageError, VLVError
from vlv.training.samples.carried import CarryingDataset, arrived, collated

ERRORS = (DatasetError("the shard a.tar is damaged"), ImageError("truncated", "a.png is cut off"))


class Numbers(CarryingDataset[int]):
    """Three numbers, and an error."""

    def __init__(self, error: VLVError) -> None:
        self._error = error

    def __getitem__(self, number: int) -> int:
        if number == 3:
            raise self._error
        return number


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("error", ERRORS)
def test_an_error_keeps_its_class_and_its_words(error: VLVError, workers: int) -> None:
    loader = DataLoader(
        Numbers(error),
        batch_sampler=[[0, 1], [2, 3]],
        num_workers=workers,
        collate_fn=partial(collated, default_collate),
    )
    batches = iter(loader)
    assert arrived(next(batches)).tolist() == [0, 1]
    with pytest.raises(type(error)) as raised:
        arrived(next(batches))
    assert str(raised.value) == str(error)
    assert vars(raised.value) == vars(error)
