"""The memory of one GPU that a step of stage 1 or 2 needs, counted on boxes without weights.

Exact: weights, gradients, the optimizer's moments, and the average of weights. Of several
processes each needs the same, since they exchange gradients in place, or with `sharding` its part
of what trains. A checkpoint needs no more: what it holds goes to the CPU's memory tensor by tensor.
An estimate: activations and everything else that a step makes and drops, which is the peak of a
step that is run on the meta device, where tensors have sizes and no contents. It knows what
autocast casts and that attention is fused. It does not know the allocator's gaps, the workspace of
kernels, or what CUDA takes itself.
"""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from vlv.models.vlv import VLVModel
from vlv.training.meta_steps import boxes_of, encoder_objective, meta_batch
from vlv.training.objectives.encoding import EncoderObjective
from vlv.training.objectives.objective import Objective
from vlv.training.optimizers import moment_bytes
from vlv.training.samples.source import Batch
from vlv.training.sharding import blocks_to_shard
from vlv.training.stages.encoding import EncoderStageConfig
from vlv.training.stages.stage2 import Stage2Config

GIB = 2**30


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU."""

    trainable: int
    """Weights that train, in float32."""
    frozen: int
    """Weights that do not, as they are kept, and buffers."""
    gradients: int
    optimizer: int
    """The optimizer's moments."""
    average: int
    """The moving average of the weights, if one is kept."""
    update: int
    """What the optimizer's step makes and drops; by then the activations are gone."""
    activations: int
    """An estimate: the peak of what a forward and backward pass make, beyond the gradients."""
    gathered: int = 0
    """With `sharding`: weights that a pass gathers, and gradients before they are shared out; of
    what is no block all, and of blocks two with their gradients and those that are being sent."""

    @property
    def total(self) -> int:
        """The most at any one time."""
        kept = self.trainable + self.frozen + self.gradients + self.optimizer + self.average
        return kept + max(self.update, self.activations + self.gathered)

    def __str__(self) -> str:
        """In GiB, as the comments of configs/paper have it."""
        parts = {
            "weights": self.trainable + self.frozen,
            "gradients": self.gradients,
            "moments": self.optimizer,
            "average": self.average,
        }
        kept = " + ".join(f"{name} {size / GIB:.1f}" for name, size in parts.items() if size)
        passing = f"update {self.update / GIB:.1f}, activations {self.activations / GIB:.1f}"
        if self.gathered:
            passing += f" + gathered {self.gathered / GIB:.1f}"
        return f"{self.total / GIB:.1f} GiB = {kept} + max({passing})"


def stage_memory(config: EncoderStageConfig, model: VLVModel, processes: int = 1) -> Memory:
    """What one process of a run of stage 1 or 2 needs, where pictures are images on disk. With
    `sharding`, `processes` are those among which weights are spread: of `hybrid` a machine's.

    `model` is of the meta device, as `vlv.checkpoints.published.skeleton` makes it, and is used up.
    """
    return objective_memory(config, encoder_objective(config, boxes_of(model)), processes)


def objective_memory(
    config: EncoderStageConfig, objective: EncoderObjective, processes: int = 1
) -> Memory:
    """The same for an objective of the meta device, which is used up. Captions are as long as the
    config allows.
    """
    sharded = config.sharding != "none" and processes > 1
    blocks = [list(b.parameters()) for b in blocks_to_shard(objective)] if sharded else []
    in_blocks = {parameter for block in blocks for parameter in block}
    named = objective.trainable()
    trainable = list(named.values())
    moments = moment_bytes(objective, config)
    frozen = [p for p in objective.parameters() if not p.requires_grad]
    spread = [p for p in frozen if p in in_blocks]
    whole = [p for p in frozen if p not in in_blocks]
    parts = processes if sharded else 1
    gradients = stored_bytes(trainable, parts)
    gathered = 0
    if sharded:
        largest = max((stored_bytes(block) for block in blocks), default=0)
        gathered = 2 * stored_bytes([p for p in trainable if p not in in_blocks]) + 4 * largest
    longest = config.max_tokens if isinstance(config, Stage2Config) else 0
    batch = meta_batch(config, objective, config.train_batch_size, longest)
    return Memory(
        trainable=gradients,
        frozen=stored_bytes([*whole, *objective.buffers()]) + stored_bytes(spread, parts),
        gradients=gradients,
        optimizer=round(sum(_rows(p, parts) * moments[name] for name, p in named.items())),
        average=gradients if config.use_ema else 0,
        update=gradients,
        activations=step_peak(objective, batch, config.mixed_precision != "no"),
        gathered=gathered,
    )


def stored_bytes(tensors: list[Any], parts: int = 1) -> int:
    """Bytes of tensors, or of the largest of equal parts of them, which are cut between rows."""
    return sum(_rows(tensor, parts) * tensor.element_size() for tensor in tensors)


def _rows(tensor: Tensor, parts: int) -> int:
    if parts == 1 or tensor.ndim == 0:
        return tensor.numel()
    return -(-tensor.shape[0] // parts) * (tensor.numel() // max(tensor.shape[0], 1))


def step_peak(objective: Objective, batch: Batch, bfloat16: bool) -> int:
    """The most bytes that a forward and backward pass hold beyond weights and gradients."""
    objective.train()
    for parameter in objective.trainable().values():
        # As after an earlier micro-batch.
        parameter.grad = torch.empty_like(parameter)
    casting = _Autocast() if bfloat16 else nullcontext()
    with PeakMemory() as memory, _FusedAttention(), casting:
        loss, _ = objective(batch)
        if isinstance(casting, _Autocast):
            casting.end_forward()
        # What `loss.backward()` calls; in that these modes would be off, and with checkpointing
        # the backward pass computes forward again.
        torch.autograd.Variable._execution_engine.run_backward(
            (loss,),
            (torch.ones_like(loss),),
            keep_graph=False,
            create_graph=False,
            inputs=(),
            allow_unreachable=True,
            accumulate_grad=True,
        )
    return memory.peak


@contextmanager
def autocasting(bfloat16: bool) -> Iterator[None]:
    """Inside, the meta device computes as a GPU does, with autocast if `bfloat16`."""
    with _FusedAttention(), _Autocast() if bfloat16 else nullcontext():
        yield


class PeakMemory(TorchDispatchMode):
    """Adds up the tensors that are made inside for as long as they live."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        before = {id(x.untyped_storage()) for x in tree_leaves((args, kwargs)) if _is_tensor(x)}
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if _is_tensor(tensor) and id(tensor.untyped_storage()) not in before:
                self._count(tensor.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage in self._known:
            return
        self._known.add(storage)
        size = storage.nbytes()
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._release, size)

    def _release(self, size: int) -> None:
        self.live -= size


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


class _Attention(torch.autograd.Function):
    """The sizes of a fused attention: no matrix of scores is ever kept."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, out)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        query, key, value, _ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


_ATTENDED = ("query", "key", "value")


class _FusedAttention(TorchFunctionMode):
    """Computes attention as GPUs do; on the meta device torch would take it apart."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is torch.nn.functional.scaled_dot_product_attention:
            named = kwargs or {}  # some of the libraries name them
            inputs = [*args, *(named[name] for name in _ATTENDED[len(args) :])][:3]
            return _Attention.apply(*inputs)
        if func is Tensor.__bool__ and args[0].is_meta:
            # The library asks of a mask of ones whether anything is padded.
            return True
        return func(*args, **(kwargs or {}))


# What autocast computes in bfloat16 and in float32 on CUDA, as far as the boxes use it.
_BFLOAT16 = frozenset(
    {
        torch.nn.functional.linear,
        torch.conv2d,
        torch.matmul,
        torch.bmm,
        torch.nn.functional.scaled_dot_product_attention,
    }
)
_FLOAT32 = frozenset(
    {
        torch.layer_norm,
        torch.nn.functional.layer_norm,
        torch.group_norm,
        torch.nn.functional.group_norm,
        torch.nn.functional.cross_entropy,
        torch.softmax,
        torch.nn.functional.softmax,
        torch.rsqrt,
        Tensor.pow,
        torch.pow,
        Tensor.softmax,
    }
)


class _Autocast(TorchFunctionMode):
    """Autocast to bfloat16 as on CUDA; the library's own knows no meta device."""

    def __init__(self) -> None:
        super().__init__()
        # Trainable weights are cast once in a forward pass, however often they are used.
        self._cast: dict[int, Tensor] | None = {}

    def end_forward(self) -> None:
        """Drop the cast weights, as autocast does when its block ends."""
        self._cast = None

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _BFLOAT16:
            args, kwargs = tree_map_only(Tensor, self._to_bfloat16, (args, kwargs))
        elif func in _FLOAT32:
            args, kwargs = tree_map_only(Tensor, _to_float32, (args, kwargs))
        return func(*args, **kwargs)

    def _to_bfloat16(self, tensor: Tensor) -> Tensor:
        if tensor.dtype != torch.float32:
            return tensor
        if self._cast is None or not (tensor.is_leaf and tensor.requires_grad):
            return tensor.to(torch.bfloat16)
        if id(tensor) not in self._cast:
            self._cast[id(tensor)] = tensor.to(torch.bfloat16)
        return self._cast[id(tensor)]


def _to_float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor
