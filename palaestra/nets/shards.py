"""Modules whose weights several processes have between them, a shard of each weight (FSDP, Zhao et al., arXiv 2304.11277).

A pass has one layer whole at a time, and its gradients come as shards, added up over the processes. Where none are wanted, a
module can be had whole, to answer prompts or to be saved.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from palaestra.core.precision import passes_dtype
from palaestra.core.world import world


def shard(module: nn.Module, layers: Iterable[nn.Module], passes: Sequence[str] = ()) -> None:
    """Keep this process's shard of the weights of `module`; those of each layer, and the rest, are gathered when they are needed.

    `passes` names the methods, besides `forward`, that need them.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    mesh = init_device_mesh(next(module.parameters()).device.type, (world().size,))
    rounded = passes_dtype()
    policy = MixedPrecisionPolicy() if rounded is None else MixedPrecisionPolicy(rounded, torch.float32)
    for part in (*layers, module):
        sharded: Any = fully_shard(part, mesh=mesh, mp_policy=policy)
        # A loss is a sum over all processes' shares of a batch, so gradients are added, not averaged.
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)
    for name in passes:
        register_fsdp_forward_method(module, name)
    module._get_fsdp_state()._lazy_init()  # type: ignore[union-attr, operator]  # else the first layer used would take itself for the whole


def is_sharded(module: nn.Module) -> bool:
    """Whether this process has only a shard of a module's weights at the moment."""
    return world().size > 1 and any(_is_shard(p) for p in module.parameters())


@contextmanager
def whole(module: nn.Module) -> Iterator[None]:
    """All of a module's weights, in every process, for what needs no gradients."""
    if not is_sharded(module):
        yield
        return
    from torch.distributed.fsdp import FSDPModule

    parts = [part for part in module.modules() if isinstance(part, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.set_reshard_after_forward(part is not module, recurse=False)
        # Besides giving the rest back, forget the passes that were made, which need not be the same in all processes: the next
        # backward pass would fetch weights ahead in their order.
        module.reset_iter_state()  # type: ignore[operator]


def gathered(state: Any) -> Any:
    """A state with whole tensors in place of shards, for the first process to keep; others have None there."""
    if type(state) in (list, tuple):
        return [gathered(item) for item in state]
    if isinstance(state, dict) and any(_is_shard(item) or isinstance(item, (dict, list)) for item in state.values()):
        return {key: gathered(item) for key, item in state.items()}
    if _is_shard(state):
        full = state.full_tensor()
        return full.cpu() if world().rank == 0 else None
    return state


def shards_of(tensors: Iterable[Tensor], like: Iterable[Tensor]) -> list[Tensor]:
    """This process's shards of whole tensors, as it has them of others of the same shapes."""
    from torch.distributed.tensor import distribute_tensor

    return [
        distribute_tensor(tensor, other.device_mesh, other.placements, src_data_rank=None)  # type: ignore[attr-defined]
        for tensor, other in zip(tensors, like, strict=True)
    ]


def local(tensor: Tensor) -> Tensor:
    """What this process has of a tensor."""
    return tensor.to_local() if _is_shard(tensor) else tensor  # type: ignore[operator]


def _is_shard(value: Any) -> bool:
    return isinstance(value, Tensor) and hasattr(value, "device_mesh")
