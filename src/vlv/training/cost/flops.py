"""Floating-point operations of a training step, counted on boxes without weights.

A step runs forward and backward on the meta device, as in training. A multiplication with its
addition counts as two operations. Matrix products, convolutions and attention are counted (causal
attention as the whole square); sums, norms and the optimizer are not.
"""

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from vlv.training.objectives.encoding import EncoderObjective
from vlv.training.objectives.objective import Objective
from vlv.training.samples.source import Batch

# The parts of stages 1 and 2: the modules of the objective that compute, the inner ones first.
_PARTS = {
    "vision tower": "encoder.florence.vision_tower",
    "encoder": "encoder",
    "text tower": "text_tower",
    "VAE": "decoder.vae",
    "U-Net": "decoder.unet",
    "transformer": "decoder.transformer",
    "psi": "caption_decoder.psi",
    "language model": "caption_decoder.lm",
}
_OTHER = "other"


@dataclass(frozen=True)
class PartFlops:
    """Operations of one part of the model."""

    forward: int
    backward: int
    again: int = 0
    """Of the forward pass, what gradient checkpointing computes a second time."""

    @property
    def total(self) -> int:
        """All that is computed."""
        return self.forward + self.backward + self.again

    @property
    def once(self) -> int:
        """Without what is computed again."""
        return self.forward + self.backward


def step_flops(objective: Objective, batch: Batch) -> int:
    """Of one forward and backward pass on tensors of the meta device."""
    objective.train()
    with counting() as counter:
        loss, _ = objective(batch)
        loss.backward()
    return int(counter.get_total_flops())


def part_flops(
    objective: EncoderObjective, batch: Batch, *, checkpointing: bool
) -> dict[str, PartFlops]:
    """Of one forward and backward pass on the meta device, by part, and "other" for what no part
    holds. checkpointing: activations are computed again; the objective must not do so yet.
    """
    objective.train()
    forward, backward = _passes(objective, batch)
    again: Mapping[str, int] = {}
    if checkpointing:
        objective.checkpoint_gradients()
        _, with_again = _passes(objective, batch)
        again = {name: with_again[name] - backward[name] for name in backward}
    return {
        name: PartFlops(forward[name], backward[name], again.get(name, 0))
        for name in forward
        if forward[name] or backward[name]
    }


def _passes(objective: EncoderObjective, batch: Batch) -> tuple[dict[str, int], dict[str, int]]:
    """Operations forward and backward."""
    with counting() as counter, PartCounter(objective, counter) as parts:
        loss, _ = objective(batch)
        forward = dict(parts.counts)
        loss.backward()
    return forward, {name: parts.counts[name] - forward[name] for name in forward}


class PartCounter(TorchDispatchMode):
    """Adds up by part what `counter` counts inside.

    Forward, an operation belongs to the part whose module is called. Backward, it belongs to the
    part that was called when the node of the graph was made, which the node's number says.
    """

    def __init__(self, objective: EncoderObjective, counter: FlopCounterMode) -> None:
        super().__init__()
        self.counts = dict.fromkeys([*_PARTS, _OTHER], 0)
        self._counter = counter
        self._part_of = {
            module: part
            for name, module in objective.named_modules()
            if (part := _part_of(name)) is not None
        }
        self._called = [_OTHER]
        # From which number on the nodes of the graph belong to which part.
        self._since = [0]
        self._parts = [_OTHER]
        self._hooks: list[Any] = []

    def __enter__(self) -> "PartCounter":
        self._hooks = [
            register_module_forward_pre_hook(lambda module, _: self._enter(module)),
            register_module_forward_hook(lambda *_: self._leave(), always_call=True),
        ]
        super().__enter__()
        return self

    def __exit__(self, *failure: Any) -> None:
        super().__exit__(*failure)
        for hook in self._hooks:
            hook.remove()

    def _enter(self, module: nn.Module) -> None:
        self._called.append(self._part_of.get(module, self._called[-1]))
        self._note()

    def _leave(self) -> None:
        self._called.pop()
        self._note()

    def _note(self) -> None:
        if self._called[-1] != self._parts[-1]:
            self._since.append(torch._C._autograd._get_sequence_nr())
            self._parts.append(self._called[-1])

    def _part(self) -> str:
        node = torch._C._current_autograd_node()
        if node is None or len(self._called) > 1:
            return self._called[-1]
        return self._parts[bisect_right(self._since, node._sequence_nr()) - 1]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        before = self._counter.get_total_flops()
        made = func(*args, **(kwargs or {}))
        self.counts[self._part()] += int(self._counter.get_total_flops()) - int(before)
        return made


def _part_of(name: str) -> str | None:
    """The part that the module of an objective belongs to."""
    inside = (part for part, path in _PARTS.items() if f"{name}.".startswith(f"{path}."))
    return next(inside, None)


@contextmanager
def counting() -> Iterator[FlopCounterMode]:
    """Inside, operations on tensors of the meta device are counted."""
    counter = FlopCounterMode(
        display=False, custom_mapping={torch.ops.aten.convolution_backward: _convolution_backward}
    )
    with counter, _NoContents():
        yield counter


def _convolution_backward(
    gradient: Any, image: Any, kernel: Any, *rest: Any, out_shape: Any
) -> int:
    """Each gradient costs what the convolution does.

    The library's own formula ignores that a weight of a grouped convolution belongs to one group:
    it counts the gradient of Florence-2's depthwise kernels as that of dense ones.
    """
    *_, transposed, _padding, _groups, wanted = rest
    forward = conv_flop_count(image, kernel, gradient, transposed=transposed)
    return int((wanted[0] + wanted[1]) * forward)


class _NoContents(TorchFunctionMode):
    """Answers what the libraries ask of tensors without contents: whether a mask pads anything, and
    what number a metric is.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__bool__ and args[0].is_meta:
            return True
        if func is Tensor.__float__ and args[0].is_meta:
            return 0.0
        return func(*args, **(kwargs or {}))
