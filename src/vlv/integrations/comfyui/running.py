"""ComfyUI's Cancel and its progress bar, while a node computes."""

from collections.abc import Iterator
from contextlib import contextmanager

from comfy.model_management import throw_exception_if_processing_interrupted
from comfy.utils import ProgressBar
from torch import nn


@contextmanager
def cancellable(network: nn.Module, passes: int | None = None) -> Iterator[None]:
    """Inside, Cancel ends the node before the next pass of the network. Where the number of passes
    is given, the progress bar counts them.

    Raises ComfyUI's own exception, which it takes as the end of the workflow.
    """
    bar = None if passes is None else ProgressBar(passes)

    def before_pass(*_: object) -> None:
        throw_exception_if_processing_interrupted()
        if bar is not None:
            bar.update(1)

    hook = network.register_forward_pre_hook(before_pass)
    try:
        yield
    finally:
        hook.remove()
