"""How many items are worked on at once: a number, or as many as the memory holds.

Knows nothing of what the items are.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Literal, TypeVar

from vlv.errors import ConfigError

T = TypeVar("T")
R = TypeVar("R")

BatchSize = int | Literal["auto"]
# What "auto" begins with.
FIRST_SIZE = 16


def batch_size(text: str) -> BatchSize:
    """A batch size as it is written on a command line: a number from 1 on, or "auto"."""
    if text == "auto":
        return "auto"
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"the batch size is 1 or more, or auto, not {text!r}")
    return int(text)


class Batches:
    """Groups of items of one size. With "auto" it is `first`, and halves for good when memory runs
    out.
    """

    def __init__(self, size: BatchSize, first: int = FIRST_SIZE) -> None:
        self.size = first if size == "auto" else size
        self._halves = size == "auto"

    def of(self, items: Iterable[T]) -> Iterator[list[T]]:
        """Lists of as many items as the size is when they are taken, the last one shorter."""
        rest = iter(items)
        while batch := list(islice(rest, self.size)):
            yield batch

    def run(self, work: Callable[[list[T]], Iterable[R]], items: list[T]) -> list[R]:
        """One result of `work` for each item, in order; again in halves where memory ran out.

        Raises:
            ConfigError: "auto", and one item alone is too much.
        """
        done: list[R] = []
        while len(done) < len(items):
            part = items[len(done) : len(done) + self.size]
            made = self._attempt(work, part)
            if made is not None:
                done += made
            elif len(part) == 1:
                raise ConfigError(
                    "memory runs out even with one image at a time; see the ways to lower what is "
                    "needed in the page on captions (bfloat16, quantization, offload, fewer beams)"
                )
            else:
                self.size = len(part) // 2
        return done

    def _attempt(self, work: Callable[[list[T]], Iterable[R]], part: list[T]) -> list[R] | None:
        """The results; None where memory ran out, and then what was tried is freed."""
        try:
            return list(work(part))
        except (RuntimeError, MemoryError) as error:
            if not (self._halves and _out_of_memory(error)):
                raise
        # Outside the handler: while it runs, the error's traceback keeps every tensor alive.
        from accelerate.utils.memory import clear_device_cache

        clear_device_cache(garbage_collection=True)
        return None


def _out_of_memory(error: Exception) -> bool:
    import torch
    from accelerate.utils.memory import should_reduce_batch_size

    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or should_reduce_batch_size(
        error
    )
