"""The progress bar of every command: rate and remaining time, and only where somebody watches."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def progress(
    items: Iterable[T], *, total: int | None = None, unit: str = "image", description: str = ""
) -> Iterator[T]:
    """`items`, with a bar on standard error once two seconds have passed.

    Nothing is shown where standard error is not a terminal.
    """
    from tqdm import tqdm

    bar = tqdm(
        items,
        total=total,
        unit=f" {unit}",
        desc=description,
        delay=2,
        disable=None,
        file=sys.stderr,
        dynamic_ncols=True,
    )
    return iter(bar)
