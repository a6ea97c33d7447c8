"""The batch size: a number, or "auto" for as many items as the memory holds.

The items can be anything.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Literal, TypeVar

from vlv.errors import ConfigError

T = TypeVar("T")
R = TypeVar("R")

BatchSize = int | Literal["auto"]
# The first size that "auto" tries.
FIRST_SIZE = 16
# What is said when "auto" can go no lower.
OUT_OF_MEMORY_ALONE = (
    "memory runs out even with one image at a time; see the ways to lower what is needed in the "
    "page on captions (bfloat16, quantization, offload, fewer beams)"
)


def batch_size(text: str) -> BatchSize:
    """A batch size as it is written on a command line: 1 or more, or "auto"."""
    if text == "auto":
        return "auto"
    if not text.isdecimal():
        raise _wrong(text)
    return checked_size(int(text))


def checked_size(size: BatchSize) -> BatchSize:
    """A batch size; ConfigError for another one than 1 or more, or "auto"."""
    if size == "auto" or (isinstance(size, int) and size >= 1):
        return size
    raise _wrong(size)


def _wrong(size: object) -> ConfigError:
    return ConfigError(f"the batch size is 1 or more, or auto, not {size!r}")


class Batches:
    """Cuts items into batches. With "auto" the size begins at `first` and is halved for good each
    time that memory runs out: it `halves`.
    """

    def __init__(self, size: BatchSize, first: int = FIRST_SIZE) -> None:
        size = checked_size(size)  # a size of 0 would give no batches, and no error
        self.size = first if size == "auto" else size
        self.halves = size == "auto"

    def of(self, items: Iterable[T]) -> Iterator[list[T]]:
        """Batches of the current size; the last one may be shorter."""
        rest = iter(items)
        while batch := list(islice(rest, self.size)):
            yield batch

    def run(self, work: Callable[[list[T]], Iterable[R]], items: list[T]) -> list[R]:
        """One result of `work` for each item, in order. With "auto", a batch for which memory runs
        out is tried again in halves.

        Raises:
            ConfigError: with "auto", memory runs out for a single item.
        """
        done: list[R] = []
        while len(done) < len(items):
            part = items[len(done) : len(done) + self.size]
            made = self._attempt(work, part)
            if made is not None:
                done += made
            elif len(part) == 1:
                raise ConfigError(OUT_OF_MEMORY_ALONE)
            else:
                self.size = len(part) // 2
        return done

    def _attempt(self, work: Callable[[list[T]], Iterable[R]], part: list[T]) -> list[R] | None:
        """The results; None if memory ran out, after the memory of the attempt is freed."""
        try:
            return list(work(part))
        except (RuntimeError, MemoryError) as error:
            from vlv.models.precision import out_of_memory

            if not (self.halves and out_of_memory(error)):
                raise
        clear_memory()
        return None


def clear_memory() -> None:
    """Give back what failed work held. Not in the handler of its error, whose traceback keeps every
    tensor alive.
    """
    from accelerate.utils.memory import clear_device_cache

    clear_device_cache(garbage_collection=True)
