"""A long computation that stops before every pass through a network until it may go on.

A drawing, or a search with beams, is one call into a library. Run in slices, it takes turns with
others on the same device, and can be abandoned in between.
"""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from torch import nn

T = TypeVar("T")


class _Abandoned(BaseException):
    """Ends the computation from within."""


class Sliced(Generic[T]):
    """`work()`, which passes through `network` again and again, in a thread that waits its turn.

    Only one of the caller and the computation runs at any time.
    """

    def __init__(self, work: Callable[[], T], network: nn.Module) -> None:
        self._work = work
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._abandoned = False
        self._finished = False
        self._error: BaseException | None = None
        self._result: T
        self._hook = network.register_forward_pre_hook(self._pause)
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

    def abandon(self) -> None:
        """End the computation without a result."""
        self._abandoned = True
        self.advance()

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
            self._hook.remove()
            self._finished = True
            self._stopped.release()

    def _pause(self, *_: object) -> None:
        if threading.current_thread() is not self._thread:
            return
        self._stopped.release()
        self._go.acquire()
        if self._abandoned:
            raise _Abandoned
