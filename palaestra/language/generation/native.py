"""Decoding for Llama's shape on a processor by machine code (`palaestra/language/native/step.cpp`)."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from palaestra.language.generation.llama import LlamaDecoder
from palaestra.language.llama import Layer
from palaestra.language.native.library import call, library


class _Layer(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("qkv", "qkv_bias", "norms", "out", "out_bias", "gate_up", "down")]


class _Model(ctypes.Structure):
    _fields_ = [
        *(
            (n, ctypes.c_int64)
            for n in ("layers", "width", "heads", "kv", "size", "inner", "words_known", "vocabulary")
        ),
        *((n, ctypes.c_float) for n in ("floor", "head_floor")),
        ("layer", ctypes.POINTER(_Layer)),
        *((n, ctypes.c_void_p) for n in ("words", "turns", "head")),
    ]


class NativeDecoder(LlamaDecoder):
    """`LlamaDecoder` whose steps are those of `step.cpp`, where what a row is given does not depend on other rows at all."""

    @torch.no_grad()
    def __init__(self, model: Any, rows: int, longest: int, room: int, spare: int):
        super().__init__(model, rows, longest, room, spare)
        native = library()
        assert native is not None, "make_decoder asks first"
        self.native, self.held = native, list[Tensor]()
        inner, self.vocabulary = len(self.layers[0].down), self.head.shape[1]
        turns = torch.view_as_real(self.query_turns[:, 0].contiguous()).flatten(1)
        layers = (_Layer * len(self.layers))(*map(self._native, self.layers))
        self.model = _Model(
            *(len(layers), self.width, self.heads, self.kv, self.size, inner, len(self.words), self.vocabulary),
            *(float(self.floor), float(self.head_floor)),
            *(layers, self._at(self.words), self._at(turns), self._in_panels(self.head)),
        )

    def step(self, token: Tensor) -> Tensor:
        column, token = self._next_column(), token.contiguous()
        logits = torch.empty(self.rows, self.vocabulary)
        room = self.cache.shape[2]
        unknown = call("step", self.model, token, self.start, self.rows, self.cache, room, self.columns, column, logits)
        if unknown >= 0:
            raise IndexError(f"token {int(token[unknown])} is none of the {len(self.words)} that the model knows")
        return logits

    def _prepare(self) -> None:
        """Every row goes from its own first column on."""

    def _native(self, layer: Layer) -> _Layer:
        bias, out_bias = (
            None if b is None else self._in_panels(b.unsqueeze(0)) for b in (layer.qkv_bias, layer.out_bias)
        )
        norms = None if layer.norms is None else self._at(layer.norms)
        qkv, out, gate_up, down = map(self._in_panels, (layer.qkv, layer.out, layer.gate_up, layer.down))
        return _Layer(qkv, bias, norms, out, out_bias, gate_up, down)

    def _in_panels(self, weight: Tensor) -> int:
        """The address of a weight `(depth, columns)` as `(panels, depth, columns of a panel)`."""
        wide = self.native.panel()
        return self._at(pad(weight, (0, -weight.shape[1] % wide)).unflatten(1, (-1, wide)).transpose(0, 1))

    def _at(self, x: Tensor) -> int:
        """The address of a tensor's numbers, which are held for as long as the decoder lives."""
        self.held.append(x.contiguous())
        return self.held[-1].data_ptr()
