"""Target networks."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


def target_of(module: M) -> M:
    """A frozen copy of `module`."""
    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def polyak(target: nn.Module, online: nn.Module, tau: float) -> None:
    """target <- tau * online + (1 - tau) * target, for all parameters in one call."""
    torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), tau)  # type: ignore[attr-defined]
