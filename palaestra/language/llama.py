"""The architecture that Llama, Mistral, Qwen2 and Qwen3 share, in as few operations as possible.

For small models launching an operation, or one more pass over memory, costs more than arithmetic. So norms' weights and the scale
of the attention are folded into the projections, projections of the same input are one product, and heads are laid out so that
the rotary embedding is one complex product. The operations around these products are autograd functions with gradients by hand,
which save less for the backward pass than their parts would.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import silu
from torch.utils.checkpoint import checkpoint

from palaestra.language.layout import Layout
from palaestra.language.native import attention, elementwise, library
from palaestra.nets.shards import is_sharded
from palaestra.objectives.autograd import once_differentiable

aten = torch.ops.aten

TRUNKS = ("LlamaModel", "MistralModel", "Qwen2Model", "Qwen3Model")
SMALL = 100_000_000
"""Models of at most that many parameters are rearranged, which takes a second copy of the weights."""


def fits(trunk: Any) -> bool:
    """Whether `Llama` computes the same as `trunk`, a model without its head (`packing.body`), and is worth its memory."""
    if type(trunk).__name__ not in TRUNKS or trunk.num_parameters() > SMALL:
        return False
    config = trunk.config
    rope = getattr(config, "rope_parameters", None) or {}
    windows = getattr(config, "layer_types", None) or []
    plain = rope.get("rope_type", "default") == "default" and rope.get("partial_rotary_factor", 1.0) == 1.0
    whole = all(kind == "full_attention" for kind in windows) and (
        windows or getattr(config, "sliding_window", None) is None
    )
    gated = config.hidden_act == "silu" and not getattr(config, "mlp_bias", False)
    # Adapters are layers of another kind; weights that processes share out are gathered by the layers' own passes.
    bare = all(type(part) is torch.nn.Linear for layer in trunk.layers for part in _projections(layer))
    bare = bare and type(trunk.get_input_embeddings()) is torch.nn.Embedding
    return plain and bool(whole) and gated and bare and trunk.dtype == torch.float32 and not is_sharded(trunk)


def _projections(layer: Any) -> list[Any]:
    attention, mlp = layer.self_attn, layer.mlp
    return [
        *(attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj),
        *(mlp.gate_proj, mlp.up_proj, mlp.down_proj),
    ]


class Layer(NamedTuple):
    """A layer's weights, rearranged for `x @ weight`."""

    qkv: Tensor  # (d, (heads + 2 kv) h)
    qkv_bias: Tensor | None
    norms: Tensor | None  # (heads + kv, h) of queries and keys, where they are normalised
    out: Tensor  # (heads h, d)
    out_bias: Tensor | None
    gate_up: Tensor  # (d, 2 m)
    down: Tensor  # (m, d)


class Llama:
    """A model's weights, rearranged by differentiable operations, so that gradients reach the originals."""

    def __init__(self, trunk: Any):
        config = trunk.config
        self.heads, self.kv = config.num_attention_heads, config.num_key_value_heads
        self.size = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self.width = config.hidden_size
        self.embedding = trunk.get_input_embeddings()
        self.device = self.embedding.weight.device
        self.layers = [self._rearranged(layer) for layer in trunk.layers]
        self.norm = trunk.norm.weight * self.width**0.5
        self.frequency = trunk.rotary_emb.inv_freq.float().to(self.device)
        # Of x / sqrt(mean x^2 + eps), the norm's length is hypot(|x|, sqrt(d eps)), and sqrt(d) is folded into what follows.
        self.floor = torch.tensor((self.width * config.rms_norm_eps) ** 0.5, device=self.device)
        self.head_floor = torch.tensor((self.size * config.rms_norm_eps) ** 0.5, device=self.device)

    def rotation(self, position: Tensor) -> Tensor:
        """The rotary embedding at `position` `(n,)` as complex factors of a head's pairs, `(n, 1, h/2)`."""
        angle = torch.outer(position, self.frequency)
        return torch.polar(torch.ones_like(angle), angle).unsqueeze(1)

    def hidden_states(self, ids: Tensor, layout: Layout, recompute: bool = False, rows: Tensor | None = None) -> Tensor:
        """The last hidden states `(M, d)` of the tokens that are laid down, or those at `rows` `(n,)`, given their ids `(M,)`.

        With `recompute`, layers keep only their inputs for the backward pass.
        """
        turn = self.rotation(layout.position)
        again = recompute and torch.is_grad_enabled()
        through = partial(checkpoint, self._through, use_reentrant=False) if again else self._through
        x = self.embedding(ids)
        for layer in self.layers[:-1]:
            x = through(layer, x, turn, layout)
        x = through(self.layers[-1], x, turn, layout, rows)
        return _Normed.apply(x, self.floor) * self.norm

    def _through(self, layer: Layer, x: Tensor, turn: Tensor, layout: Layout, rows: Tensor | None = None) -> Tensor:
        """The hidden states `(M, d)` after a layer; after the last, those at `rows` alone `(n, d)`."""
        turning = (self.heads + self.kv) * self.size
        qkv = _Projected.apply(x, self.floor, layer.qkv, layer.qkv_bias)
        if layer.norms is not None:
            by_head = _Normed.apply(qkv[:, :turning].unflatten(1, (-1, self.size)), self.head_floor) * layer.norms
            qkv = torch.cat([by_head.flatten(1), qkv[:, turning:]], 1)
        attended = self._attended(_Turned.apply(qkv, turn, turning).unflatten(1, (-1, self.size)), layout)
        if rows is not None:
            x, attended = x.index_select(0, rows), attended.index_select(0, rows)
        x = torch.addmm(x, attended, layer.out)
        x = x if layer.out_bias is None else x + layer.out_bias
        return _Gated.apply(x, self.floor, layer.gate_up, layer.down)

    def _attended(self, qkv: Tensor, layout: Layout) -> Tensor:
        """What tokens attend to, `(M, heads h)`, given queries, keys and values `(M, heads + 2 kv, h)`."""
        if library.fits(qkv):
            return attention.attend(qkv, layout, self.heads, self.kv)
        query, key, value = (
            part.transpose(1, 2) for part in layout.beside(qkv).split((self.heads, self.kv, self.kv), 2)
        )
        return layout.attend(query, key, value, 1.0).flatten(2)[0]

    def _folded(self, weight: Tensor, norm: Tensor) -> Tensor:
        """A projection `(out, d)`, with the weights of the norm before it and sqrt(d) folded in, transposed to `(d, out)`."""
        return (weight * (norm * self.width**0.5)).t()

    def _rearranged(self, layer: Any) -> Layer:
        attention = layer.self_attn
        normed = getattr(attention, "q_norm", None) is not None
        scale = self.size**-0.5

        def heads(x: Tensor, factor: float = 1.0) -> Tensor:
            """A weight or bias with the rows of every head in the order of rotated pairs: (0, h/2, 1, h/2 + 1, …)."""
            pairs = x.view(-1, 2, self.size // 2, *x.shape[1:]).transpose(1, 2)
            return (pairs * factor).reshape(x.shape)

        q, k, v, o, gate, up, down = _projections(layer)
        q_scale = 1.0 if normed else scale
        weight = torch.cat([heads(q.weight, q_scale), heads(k.weight), v.weight])
        bias = None if q.bias is None else torch.cat([heads(q.bias, q_scale), heads(k.bias), v.bias])
        norms = None
        if normed:
            of_query, of_key = (heads(n.weight, self.size**0.5) for n in (attention.q_norm, attention.k_norm))
            norms = torch.stack([of_query * scale] * self.heads + [of_key] * self.kv)
        return Layer(
            self._folded(weight, layer.input_layernorm.weight),
            bias,
            norms,
            o.weight.t(),
            o.bias,
            self._folded(torch.cat([gate.weight, up.weight]), layer.post_attention_layernorm.weight),
            down.weight.t(),
        )


def pairs(x: Tensor) -> Tensor:
    """Pairs of numbers as complex ones, `(…, h)` as `(…, h/2)`."""
    return torch.view_as_complex(x.unflatten(-1, (-1, 2)))


def _normed(x: Tensor, floor: Tensor) -> tuple[Tensor, Tensor]:
    """x / l and l = hypot(|x|, floor), for each row."""
    if library.fits(x):
        return elementwise.normed(x.contiguous(), floor)
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True).hypot_(floor)
    return x / length, length


def _unnormed(g: Tensor, y: Tensor, length: Tensor, more: Tensor | None = None) -> Tensor:
    """The gradient of x, given that of y = x / l: (g - y <g, y>) / l, and `more`. Overwrites `g`."""
    if library.fits(g):
        return elementwise.unnormed(g, y, length, more)
    g.addcmul_(y, (g * y).sum(-1, keepdim=True), value=-1).div_(length)
    return g if more is None else g.add_(more)


def _gated(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up."""
    return elementwise.gated(gate, up) if library.fits(gate) else silu(gate).mul_(up)


def _ungated(g: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """silu(gate) * up and the gradients of `gate` and `up`, given its own. Overwrites `g`."""
    if library.fits(g):
        return elementwise.ungated(g, gate, up)
    opened = silu(gate)
    g_up = g * opened
    g_gate = g.mul_(up)
    aten.silu_backward.grad_input(g_gate, gate, grad_input=g_gate)
    return opened.mul_(up), g_gate, g_up


class _Normed(torch.autograd.Function):
    """x / hypot(|x|, floor)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, floor: Tensor) -> Tensor:
        y, length = _normed(x, floor)
        ctx.save_for_backward(y, length)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        once_differentiable()
        return _unnormed(g.clone(memory_format=torch.contiguous_format), *ctx.saved_tensors), None


class _Projected(torch.autograd.Function):
    """The product of a normalised input with a weight `(d, n)`, and a bias."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, floor: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        y, length = _normed(x, floor)
        ctx.save_for_backward(y, length, weight)
        ctx.biased = bias is not None
        out = y @ weight
        return out if bias is None else out.add_(bias)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        once_differentiable()
        y, length, weight = ctx.saved_tensors
        return _unnormed(g @ weight.t(), y, length), None, y.t() @ g, g.sum(0) if ctx.biased else None


class _Turned(torch.autograd.Function):
    """The first `turning` columns of `x` `(n, …)`, heads of pairs, rotated; overwrites `x`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, turn: Tensor, turning: int) -> Tensor:
        _Turned.heads(x, turn, turning).mul_(turn)
        ctx.save_for_backward(turn)
        ctx.turning = turning
        ctx.mark_dirty(x)
        return x

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        once_differentiable()
        (turn,) = ctx.saved_tensors
        back, turning = torch.empty_like(g, memory_format=torch.contiguous_format), ctx.turning
        torch.mul(_Turned.heads(g, turn, turning), turn.conj(), out=_Turned.heads(back, turn, turning))
        back[:, turning:] = g[:, turning:]
        return back, None, None

    @staticmethod
    def heads(x: Tensor, turn: Tensor, turning: int) -> Tensor:
        return pairs(x[:, :turning].unflatten(1, (-1, 2 * turn.shape[-1])))


class _Gated(torch.autograd.Function):
    """x + (silu(gate) * up) @ down, where gate and up are products of the normalised input.

    They are two tables, not halves of one, whose rows would lie far apart in memory.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, floor: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
        y, length = _normed(x, floor)
        gate, up = (y @ weight for weight in gate_up.chunk(2, -1))
        ctx.save_for_backward(y, length, gate, up, gate_up, down)
        return torch.addmm(x, _gated(gate, up), down)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        once_differentiable()
        y, length, gate, up, gate_up, down = ctx.saved_tensors
        product, g_gate, g_up = _ungated(g @ down.t(), gate, up)
        g_down = product.t() @ g
        g_gate_up = torch.empty_like(gate_up, memory_format=torch.contiguous_format)
        for weight, g_part in zip(g_gate_up.chunk(2, -1), (g_gate, g_up), strict=True):
            torch.mm(y.t(), g_part, out=weight)
        to_gate, to_up = gate_up.t().chunk(2)
        return _unnormed((g_gate @ to_gate).addmm_(g_up, to_up), y, length, g.contiguous()), None, g_gate_up, g_down
