"""A stream of prompts through an engine: captions in the order of the prompts.

Knows nothing of where prompts come from. The next prompts are asked for while captions are written.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Generic, Protocol, TypeVar

from torch import Tensor

from vlv.inference.engines.engine import CaptionEngine, NewTokens, RequestFailed
from vlv.inference.engines.prompts import Prompts
from vlv.inference.engines.sampling import Sampling
from vlv.inference.records import Refused
from vlv.models.outputs import Caption

# The reason of an item for which the engine gives no caption.
FAILED = "engine-failed"


class Named(Protocol):
    """Something to caption that has a name."""

    @property
    def name(self) -> str:
        """What people know it by."""


T = TypeVar("T", bound=Named)

# Results that may wait for an earlier one, for each request that the engine works on.
_WAITING = 16


@dataclass(frozen=True)
class Prompted(Generic[T]):
    """Something to caption: its prompt e (Q,d_LM), and how its tokens are chosen."""

    item: T
    e: Tensor
    sampling: Sampling


@dataclass
class _Open(Generic[T]):
    """A request in progress, or a refusal, which is finished from the start."""

    item: T | Refused
    sampling: Sampling | None = None
    ids: list[list[int]] = field(default_factory=list)
    captions: dict[int, Caption] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        return len(self.captions) == len(self.ids)

    def refuse(self, message: str) -> None:
        self.item = Refused(self.item.name, FAILED, message)
        self.ids, self.captions = [], {}


def write_captions(
    engine: CaptionEngine, prompts: Prompts, items: Iterable[Prompted[T] | Refused]
) -> Iterator[tuple[T | Refused, list[Caption]]]:
    """Each item with its captions, in order. Refusals pass through with none; an item that the
    engine cannot caption becomes one.

    Raises:
        EngineError: the engine has stopped.
    """
    coming, more = iter(items), True
    keys = count()
    in_order: deque[_Open[T]] = deque()
    opened: dict[int, _Open[T]] = {}
    try:
        while more or in_order:
            while more and _takes(engine, opened, len(in_order)):
                item = next(coming, None)
                if item is None:
                    more = False
                elif isinstance(item, Refused):
                    in_order.append(_Open(item))
                else:
                    key, sampling = next(keys), item.sampling
                    opened[key] = _Open(
                        item.item, sampling, [[] for _ in range(sampling.sequences)]
                    )
                    in_order.append(opened[key])
                    engine.add(key, item.e, sampling)
                if in_order and in_order[0].finished:
                    break
            while in_order and in_order[0].finished:
                done = in_order.popleft()
                yield done.item, [done.captions[at] for at in range(len(done.ids))]
            for event in engine.step() if opened else ():
                _record(event, opened, prompts)
    finally:
        for key in opened:
            engine.cancel(key)


def _takes(engine: CaptionEngine, opened: dict[int, _Open[T]], waiting: int) -> bool:
    """Whether the engine has room for the next request, and its result would not wait too long."""
    return engine.room > 0 and waiting < _WAITING * max(1, len(opened) + engine.room)


def _record(
    event: NewTokens | RequestFailed, opened: dict[int, _Open[T]], prompts: Prompts
) -> None:
    if isinstance(event, RequestFailed):
        opened.pop(event.key).refuse(event.message)
        return
    one = opened[event.key]
    assert one.sampling is not None
    ids = one.ids[event.sequence]
    ids += event.ids
    if event.finish is not None:
        ended = event.finish == "end"
        one.captions[event.sequence] = prompts.caption(ids, ended, one.sampling.forced_start)
        if one.finished:
            del opened[event.key]
