"""Weights spread over processes by PyTorch's `fully_shard` (FSDP2).

A process keeps its part of each parameter that trains, of its gradient, its moments and its
average. What computes gathers the weights of one block at a time.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from vlv.errors import ConfigError

Sharding = Literal["none", "fsdp", "hybrid"]

# Frozen blocks of fewer bytes are kept whole by every process: to gather them costs more time than
# they cost memory.
FROZEN_BYTES = 4 * 2**30
# What uses weights beside the loss.
_METHODS = ("validate", "picture", "finish")


def make_mesh(sharding: Sharding, device: torch.device, processes: int) -> DeviceMesh | None:
    """How processes share weights; None where each has all of them.

    `fsdp` spreads them over all processes. `hybrid` spreads them over the processes of a machine,
    and every machine has all of them.

    Raises:
        ConfigError: machines have different numbers of processes.
    """
    if sharding == "none" or processes == 1:
        return None
    if sharding == "fsdp":
        return init_device_mesh(device.type, (processes,), mesh_dim_names=("shard",))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", processes))
    if processes % local:
        raise ConfigError(
            f"sharding: hybrid needs machines with equally many processes, and {processes} are not "
            f"a multiple of this one's {local}; use sharding: fsdp"
        )
    names = ("replicate", "shard")
    return init_device_mesh(device.type, (processes // local, local), mesh_dim_names=names)


def shard(objective: nn.Module, mesh: DeviceMesh) -> None:
    """Spread the weights of `objective`, which is on its device already.

    Repeated blocks (of a `ModuleList`) are gathered one at a time where something in their list
    trains, or where they have at least `FROZEN_BYTES`. All other parameters that train are one
    group. All other frozen ones stay whole.
    """
    for block in blocks_to_shard(objective, FROZEN_BYTES):
        fully_shard(block, mesh=mesh)
    whole = {
        parameter
        for parameter in objective.parameters()
        if not isinstance(parameter, DTensor) and not parameter.requires_grad
    }
    fully_shard(objective, mesh=mesh, ignored_params=whole)
    for method in _METHODS:
        register_fsdp_forward_method(objective, method)


def blocks_to_shard(objective: nn.Module, frozen_bytes: int = FROZEN_BYTES) -> list[nn.Module]:
    """The blocks that are gathered one at a time."""
    return [
        block
        for blocks in _outermost_lists(objective)
        if any(p.requires_grad for p in blocks.parameters())
        or sum(p.numel() * p.element_size() for p in blocks.parameters()) >= frozen_bytes
        for block in blocks
        if next(block.parameters(), None) is not None
    ]


def _outermost_lists(module: nn.Module) -> Iterator[nn.ModuleList]:
    """Lists of modules that are called, not of further lists."""
    for child in module.children():
        called = not any(
            isinstance(part, nn.ModuleList | nn.Sequential) for part in child.children()
        )
        if isinstance(child, nn.ModuleList) and called:
            yield child
        else:
            yield from _outermost_lists(child)


def local_part(tensor: Tensor) -> Tensor:
    """The part of a parameter that this process has, as a leaf that shares its memory."""
    if not isinstance(tensor, DTensor):
        return tensor
    with torch.no_grad():
        part: Tensor = tensor.to_local()
    return part.detach().requires_grad_(tensor.requires_grad)


def like(part: Tensor, whole: Tensor) -> Tensor:
    """`part`, which belongs to this process, as a part of what `whole` is a part of."""
    if not isinstance(whole, DTensor):
        return part
    return DTensor.from_local(
        part.detach(),
        whole.device_mesh,
        whole.placements,
        run_check=False,
        shape=whole.shape,
        stride=whole.stride(),
    )


def full(tensor: Tensor) -> Tensor:
    """All of a tensor that is spread over processes; all of them have to call."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def copy_whole(target: Tensor, source: Tensor) -> None:
    """Copy this process's part of `source`, which every process has whole, over `target`."""
    if isinstance(target, DTensor):
        mesh, placements = target.device_mesh, target.placements
        source = source.to(target.device)
        source = distribute_tensor(source, mesh, placements, src_data_rank=None)
    target.copy_(source)


@contextmanager
def outside_of_steps(objective: nn.Module) -> Iterator[None]:
    """Inside, `objective` computes without being trained; its weights may be others then."""
    try:
        yield
    finally:
        if isinstance(objective, FSDPModule):
            # What was gathered to compute is not what the next step starts from.
            objective.reshard()


def gather_for_export(objective: nn.Module, *, keep: bool) -> None:
    """Replace parts by whole parameters in the CPU's memory where `keep` is set; the objective
    trains no more. All processes have to call.
    """
    # A parameter may be part of several modules, as embeddings are that also predict words.
    places: dict[nn.Parameter, list[tuple[nn.Module, str]]] = {}
    for module in objective.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if isinstance(parameter, DTensor):
                places.setdefault(parameter, []).append((module, name))
    for parameter, owners in places.items():
        whole = full(parameter.detach())
        if keep:
            kept = nn.Parameter(whole.cpu(), requires_grad=parameter.requires_grad)
            for module, name in owners:
                module.register_parameter(name, kept)
