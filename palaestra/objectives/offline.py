"""Losses of offline methods: tensors in, a loss out; means over the batch."""

from __future__ import annotations

from torch import Tensor


def normalised_value(q: Tensor) -> Tensor:
    """mean Q / mean |Q|, the denominator held constant (Fujimoto and Gu 2021, eq. 5), `(B,)` to a number."""
    return q.mean() / q.detach().abs().mean().clamp(min=1e-8)
