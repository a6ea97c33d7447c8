"""Cooperative steps: a long computation that pauses before every forward pass of a network.

Beam search or image sampling is one call into a library. As a cooperative task it takes turns with
others on the same device, and all of it or some of its items can be cancelled between passes.

The callbacks of diffusers and transformers run once a step of a sampler or of `generate`. They do
not run between the passes of verification, of an encoder or of a text tower, and cannot remove an
item from a batch whose sampler keeps a history. Forward hooks do all of this in one way.
"""

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar
from weakref import WeakSet

from torch import nn

from vlv.serving.worker.cancellation import BatchItems

T = TypeVar("T")

_current = threading.local()  # `task`: the cooperative task that this thread runs
_hooked: WeakSet[nn.Module] = WeakSet()


def pause_before_passes(networks: Iterable[nn.Module]) -> None:
    """Have every cooperative task pause before each forward pass of these networks, from now on.

    Hooks are registered once and never removed: torch iterates over the hooks of a network while a
    task waits inside one of them, and fails if another one is removed meanwhile.
    """
    for network in networks:
        if network not in _hooked:
            network.register_forward_pre_hook(_before_pass, with_kwargs=True)
            network.register_forward_hook(_after_pass, with_kwargs=True)
            _hooked.add(network)


class _TaskCancelled(BaseException):
    """Ends the computation from within."""


class CooperativeTask(Generic[T]):
    """`compute()` in a thread that waits for its turn: either it or its caller runs, never both.

    Rows of cancelled items are dropped from the passes of the networks in `drop_rows_in`. `passes`
    is the number of finished passes of the network `counted`.
    """

    def __init__(
        self,
        compute: Callable[[], T],
        items: BatchItems,
        drop_rows_in: Sequence[nn.Module] = (),
        counted: nn.Module | None = None,
    ) -> None:
        self._compute = compute
        self._items = items
        self._drop_rows_in = drop_rows_in
        self._counted = counted
        self.passes = 0
        self._depth = 0  # of passes within passes: a model calls its own layers
        self._resumed, self._paused = threading.Semaphore(0), threading.Semaphore(0)
        self._cancelled = False
        self._finished = False
        self._error: BaseException | None = None
        self._result: T
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def advance(self) -> bool:
        """Run until the next pass; returns whether the computation is finished."""
        self._resumed.release()
        self._paused.acquire()
        return self._finished

    def result(self) -> T:
        """The result of a finished computation; raises its error if it failed."""
        if self._error is not None:
            raise self._error
        return self._result

    def cancel(self, index: int) -> bool:
        """Cancel an item from the next pass on.

        Returns whether the whole task is cancelled, because no item is left; it has no result then.
        """
        self._items.cancel(index)
        if self._items.all_cancelled:
            self._cancelled = True
            self.advance()
        return self._cancelled

    def before_pass(self, network: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        """In the task's thread: wait for the turn, then return the arguments of active items."""
        if self._depth == 0:
            self._paused.release()
            self._resumed.acquire()
            if self._cancelled:
                raise _TaskCancelled
        self._depth += 1
        return self._items.drop_rows(args, kwargs) if self._drops_rows(network) else None

    def after_pass(self, network: nn.Module, kwargs: dict[str, Any], output: Any) -> Any:
        """In the task's thread: the output with placeholders for cancelled items."""
        self._depth -= 1
        self.passes += network is self._counted
        return self._items.restore_rows(output, kwargs) if self._drops_rows(network) else None

    def _drops_rows(self, network: nn.Module) -> bool:
        return any(network is one for one in self._drop_rows_in)

    def _run(self) -> None:
        _current.task = self
        self._resumed.acquire()
        try:
            if not self._cancelled:
                self._result = self._compute()
        except _TaskCancelled:
            pass
        except BaseException as error:
            self._error = error
        finally:
            self._finished = True
            self._paused.release()


def _before_pass(network: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
    task: CooperativeTask[Any] | None = getattr(_current, "task", None)
    return None if task is None else task.before_pass(network, args, kwargs)


def _after_pass(network: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
    task: CooperativeTask[Any] | None = getattr(_current, "task", None)
    return None if task is None else task.after_pass(network, kwargs, output)
