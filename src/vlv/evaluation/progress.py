"""How long work tells what it is at, without knowing who watches."""

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

T = TypeVar("T")


class Progress(Protocol):
    """Passes items through and may show how many of `total` have gone by."""

    def __call__(
        self, items: Iterable[T], *, total: int, unit: str, description: str
    ) -> Iterator[T]:
        """The items, in order."""
        ...


def silent(items: Iterable[T], *, total: int, unit: str, description: str) -> Iterator[T]:
    """Shows nothing."""
    return iter(items)
