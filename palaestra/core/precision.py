"""How exactly the factors of matrix products are taken, and what the passes of language models compute in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import torch

from palaestra.core.errors import BadSetting, unknown

Precision = Literal["highest", "high", "medium", "bfloat16"]

_passes: torch.dtype | None = None


@contextmanager
def multiplying(precision: Precision) -> Iterator[None]:
    """Multiply single-precision matrices so; the caller's choice is restored. bfloat16 is for `passing` alone.

    Raises:
        UnknownName: torch knows no such precision.
        BadSetting: the caller has set it for one kind of processor alone.
    """
    if precision not in get_args(Precision):
        raise unknown("precision", precision, get_args(Precision))
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:
        raise BadSetting(
            "the precision of products was set in torch.backends, for one kind of processor alone; give precision='medium' or "
            "'high' (--precision) in its place"
        ) from None
    global _passes
    passes_before, _passes = _passes, torch.bfloat16 if precision == "bfloat16" else None
    torch.set_float32_matmul_precision("highest" if precision == "bfloat16" else precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
        _passes = passes_before


def passes_dtype() -> torch.dtype | None:
    """What the passes of language models compute in where that is not what their weights are in."""
    return _passes


def passing(device: torch.device, keep: bool = False) -> torch.autocast:
    """A pass of a language model: in bfloat16 its products, residuals and activations where the run is to compute in it.

    Weights and their gradients stay in single precision, as do log-probabilities and losses, which come after the pass. With
    `keep`, rounded weights are kept until the end, for many passes that change none.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=_passes is not None, cache_enabled=keep)
