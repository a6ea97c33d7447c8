"""A long computation that stops before every pass through a network until it may go on.

A drawing, or a search with beams, is one call into a library. Run in slices, it takes turns with
others on the same device, and all or some of it can be abandoned in between.

Diffusers' and transformers' own callbacks come once a step of a sampler or of `generate`. They do
not come between the passes of a check, of an encoder or of a text tower, and take no picture out of
a batch whose sampler remembers earlier steps. Hooks on the networks do all of that in one way.
"""

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar
from weakref import WeakSet

from torch import nn

from vlv.serving.worker.cancellation import Items

T = TypeVar("T")

_here = threading.local()  # `computation`: the one that this thread runs
_watched: WeakSet[nn.Module] = WeakSet()


def stop_before_passes(networks: Iterable[nn.Module]) -> None:
    """Have every computation stop before each pass through these networks, from now on.

    Hooks are registered once and stay: torch goes through the hooks of a network while a
    computation waits inside one of them, and fails if another one is removed meanwhile.
    """
    for network in networks:
        if network not in _watched:
            network.register_forward_pre_hook(_before, with_kwargs=True)
            network.register_forward_hook(_after, with_kwargs=True)
            _watched.add(network)


class _Abandoned(BaseException):
    """Ends the computation from within."""


class Sliced(Generic[T]):
    """`work()` in a thread that waits its turn; only one of it and its caller runs at any time.

    Of `items`, those that are left are not passed through the `narrowed` networks any more.
    """

    def __init__(
        self, work: Callable[[], T], items: Items, narrowed: Sequence[nn.Module] = ()
    ) -> None:
        self._work = work
        self._items = items
        self._narrowed = narrowed
        self._depth = 0  # of passes within passes: a model calls its own layers
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._abandoned = False
        self._finished = False
        self._error: BaseException | None = None
        self._result: T
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def advance(self) -> bool:
        """Run until the next pass; whether the computation is finished now."""
        self._go.release()
        self._stopped.acquire()
        return self._finished

    def result(self) -> T:
        """The result of a finished computation; its error is raised."""
        if self._error is not None:
            raise self._error
        return self._result

    def leave(self, at: int) -> bool:
        """Leave an item out from the next pass on; without any, the computation is ended without a
        result, and this is true.
        """
        self._items.leave(at)
        if self._items.deserted:
            self._abandoned = True
            self.advance()
        return self._abandoned

    def before(self, network: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        """In its thread, before a pass: wait, and give the arguments of what is left."""
        if self._depth == 0:
            self._stopped.release()
            self._go.acquire()
            if self._abandoned:
                raise _Abandoned
        self._depth += 1
        return self._items.narrow(args, kwargs) if self._narrows(network) else None

    def after(self, network: nn.Module, kwargs: dict[str, Any], output: Any) -> Any:
        """In its thread, after a pass: the output with blanks for what was left out."""
        self._depth -= 1
        return self._items.widen(output, kwargs) if self._narrows(network) else None

    def _narrows(self, network: nn.Module) -> bool:
        return any(network is one for one in self._narrowed)

    def _run(self) -> None:
        _here.computation = self
        self._go.acquire()
        try:
            if not self._abandoned:
                self._result = self._work()
        except _Abandoned:
            pass
        except BaseException as error:
            self._error = error
        finally:
            self._finished = True
            self._stopped.release()


def _before(network: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
    computation: Sliced[Any] | None = getattr(_here, "computation", None)
    return None if computation is None else computation.before(network, args, kwargs)


def _after(network: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
    computation: Sliced[Any] | None = getattr(_here, "computation", None)
    return None if computation is None else computation.after(network, kwargs, output)
