"""A long computation that stops before every pass through a network until it may go on.

A drawing, or a search with beams, is one call into a library. Run in slices, it takes turns with
others on the same device, and all or some of it can be abandoned in between.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from torch import nn

from vlv.serving.leaving import Items

T = TypeVar("T")


class _Abandoned(BaseException):
    """Ends the computation from within."""


class Sliced(Generic[T]):
    """`work()`, which passes `items` through `networks` again and again, in a thread that waits its
    turn.

    Only one of the caller and the computation runs at any time.
    """

    def __init__(self, work: Callable[[], T], networks: Sequence[nn.Module], items: Items) -> None:
        self._work = work
        self._items = items
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._abandoned = False
        self._finished = False
        self._error: BaseException | None = None
        self._result: T
        self._hooks = [
            hook
            for network in networks
            for hook in (
                network.register_forward_pre_hook(self._before, with_kwargs=True),
                network.register_forward_hook(self._after, with_kwargs=True),
            )
        ]
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

    def _run(self) -> None:
        self._go.acquire()
        try:
            if not self._abandoned:
                self._result = self._work()
        except _Abandoned:
            pass
        except BaseException as error:
            self._error = error
        finally:
            for hook in self._hooks:
                hook.remove()
            self._finished = True
            self._stopped.release()

    def _before(self, _: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        if threading.current_thread() is not self._thread:
            return None
        self._stopped.release()
        self._go.acquire()
        if self._abandoned:
            raise _Abandoned
        return self._items.narrow(args, kwargs)

    def _after(self, _: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        if threading.current_thread() is not self._thread:
            return None
        return self._items.widen(output, kwargs)
