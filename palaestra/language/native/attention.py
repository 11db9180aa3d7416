"""Causal attention within packed sequences by machine code (`attention.cpp`), with its gradients.

Torch's own takes padded sequences, and looks at a prompt that several answers share once for each of them.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from palaestra.language.layout import Layout
from palaestra.language.native.library import call
from palaestra.objectives.autograd import once_differentiable


def attend(rows: Tensor, layout: Layout, heads: int, kv: int) -> Tensor:
    """What tokens read from their sequences: `(M, heads * h)` from queries, keys and values `(M, heads + 2 kv, h)` of the tokens
    that `layout` lays down. Scores are products of queries and keys as they are."""
    out: Tensor = _Attended.apply(rows, layout, heads, kv)
    return out


class _Layout(ctypes.Structure):
    _fields_ = [*((n, ctypes.c_void_p) for n in ("start", "shared", "place", "family")), ("families", ctypes.c_int64)]

    @staticmethod
    def of(layout: Layout) -> _Layout:
        place = None if layout.index is None else layout.index.data_ptr()
        family = layout.family
        return _Layout(layout.start.data_ptr(), layout.shared.data_ptr(), place, family.data_ptr(), len(family) - 1)


class _Heads(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("queries", "kv", "size")]


class _Attended(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, layout: Layout, heads: int, kv: int) -> Tensor:
        rows = rows.contiguous()
        out = rows.new_empty(len(rows), heads * rows.shape[-1])
        ctx.heads, ctx.layout = _Heads(heads, kv, rows.shape[-1]), layout
        ctx.save_for_backward(rows)
        call("attend", ctx.heads, _Layout.of(layout), rows, out)
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        once_differentiable()
        (rows,) = ctx.saved_tensors
        gradient = torch.zeros_like(rows)
        call("attend_backward", ctx.heads, _Layout.of(ctx.layout), rows, g.contiguous(), gradient)
        return gradient, None, None, None
