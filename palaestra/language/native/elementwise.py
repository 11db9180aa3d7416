"""Norms and gates of training passes by machine code (`elementwise.cpp`), with their gradients.

All tensors are of single precision and lie in one piece.
"""

from __future__ import annotations

import torch
from torch import Tensor

from palaestra.language.native.library import call


def normed(x: Tensor, floor: Tensor) -> tuple[Tensor, Tensor]:
    """x / l `(…, d)` and l = hypot(|x|, floor) `(…, 1)`, for each row of `x` `(…, d)`."""
    y, length = torch.empty_like(x), x.new_empty(*x.shape[:-1], 1)
    call("normalise_rows", x, floor, y, length, length.numel(), x.shape[-1])
    return y, length


def unnormed(g: Tensor, y: Tensor, length: Tensor, more: Tensor | None = None) -> Tensor:
    """The gradient of x, given that of y = x / l: (g - y <g, y>) / l, and `more`. Overwrites `g`."""
    call("normalise_rows_backward", g, y, length, more, length.numel(), y.shape[-1])
    return g


def gated(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up."""
    out = torch.empty_like(gate)
    call("gated", gate, up, out, gate.numel())
    return out


def ungated(g: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """silu(gate) * up and the gradients of `gate` and `up`, given its own. Overwrites `g`."""
    of_gate, out = torch.empty_like(gate), torch.empty_like(gate)
    call("gated_backward", gate, up, g, of_gate, out, gate.numel())
    return out, of_gate, g
