"""How exactly the factors of matrix products are taken."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import torch

from palaestra.core.errors import BadSetting, unknown

Precision = Literal["highest", "high", "medium"]


@contextmanager
def multiplying(precision: Precision) -> Iterator[None]:
    """Multiply single-precision matrices so; the caller's choice is restored.

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
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
