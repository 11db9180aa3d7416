"""Multi-layer perceptrons, one or a stack of `P` as one, with a hand-written backward pass.

On a CPU the cost of a small network is mostly the bookkeeping of many small operations. The whole perceptron is therefore
one node of the autograd graph: forward and backward are a handful of matrix products each, twin critics and ensembles are
one batched product, and only the gradients that are needed are computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from palaestra.core.errors import require, unknown
from palaestra.objectives.autograd import once_differentiable

aten = torch.ops.aten

Network = Sequence[int] | Callable[[int, int], nn.Module]
"""A user's network: hidden sizes, or a function (inputs, outputs) -> module."""

SELU = (1.6732632423543772, 1.0507009873554805)
"""alpha and scale of Klambauer et al. 2017, eq. 14, for which the activations' mean and variance stay 0 and 1."""

# name: (forward of the pre-activation, gradient from (grad, pre-activation, activation), needs the pre-activation);
# the forward may overwrite what it is given
ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor, Tensor], Tensor], bool]] = {
    "relu": (torch.relu_, lambda g, z, h: aten.threshold_backward.default(g, h, 0), False),
    "tanh": (torch.tanh_, lambda g, z, h: aten.tanh_backward.default(g, h), False),
    "gelu": (F.gelu, lambda g, z, h: aten.gelu_backward.default(g, z), True),
    "silu": (F.silu, lambda g, z, h: aten.silu_backward.default(g, z), True),
    "selu": (torch.selu_, lambda g, z, h: aten.elu_backward.default(g, *SELU, 1.0, True, h), False),
}


class MLP(nn.Module):
    """`copies` perceptrons of equal sizes as one; `copies=None` is a single one.

    Input `(B, inputs)`, shared by all copies, or `(P, B, inputs)`; output `(B, outputs)` or `(P, B, outputs)`.
    Weights are `[P, in, out]`. `init` is 'uniform' (±1/sqrt(in), PyTorch's own default), 'orthogonal' (gain sqrt(2),
    and `out_gain` for the last layer; zero biases), as policy-gradient methods use it, or 'normal' (deviation 1/sqrt(in);
    zero biases), which selu is derived for and has by default.
    """

    def __init__(
        self,
        inputs: int,
        hidden: Sequence[int],
        outputs: int,
        *,
        activation: str = "relu",
        copies: int | None = None,
        init: str | None = None,
        out_gain: float = 1.0,
    ):
        super().__init__()
        if activation not in ACTIVATIONS:
            raise unknown("activation", activation, ACTIVATIONS)
        self.activation = activation
        self.copies = copies
        self.sizes = (inputs, *hidden, outputs)
        lead = () if copies is None else (copies,)
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for fan_in, fan_out in zip(self.sizes, self.sizes[1:], strict=False):
            self.weights.append(nn.Parameter(torch.empty(*lead, fan_in, fan_out)))
            self.biases.append(nn.Parameter(torch.empty(*(lead and (*lead, 1)), fan_out)))
        self._initialise(init or ("normal" if activation == "selu" else "uniform"), out_gain)
        # A plain list of the same parameters: walking a ParameterList costs more than a small matrix product.
        self._params = [*self.weights, *self.biases]

    @classmethod
    def stack(cls, members: Sequence[MLP]) -> MLP:
        """Single perceptrons of equal sizes as one stack, of whose parameters their own become views."""
        first = members[0]
        joined = cls(
            first.sizes[0], first.sizes[1:-1], first.sizes[-1], activation=first.activation, copies=len(members)
        )
        for own, *theirs in zip(joined.parameters(), *(member.parameters() for member in members), strict=True):
            share(own, theirs)
            own.requires_grad_(theirs[0].requires_grad)
        return joined

    def forward(self, x: Tensor, frozen: bool = False) -> Tensor:
        """Apply the network; `frozen` treats the parameters as constants, so that only `x` receives a gradient."""
        params = self._params
        if not torch.is_grad_enabled():
            return _forward(x, params, self.activation)[-1]
        if frozen:
            params = [p.detach() for p in params]
        return _Perceptron.apply(x, self.activation, *params)

    def rowwise(self, x: Tensor, copy: Tensor) -> Tensor:
        """Every row by the copy that `copy` `(B,)` names: `(B, inputs)` to `(B, outputs)`, without a gradient."""
        with torch.no_grad():
            return _forward(x.unsqueeze(1), [p[copy] for p in self._params], self.activation)[-1].squeeze(1)

    def each(self, shared: Tensor, own: Tensor) -> Tensor:
        """The outputs of a stack for `K` inputs that begin alike, `(B, n)` and `(B, K, m)` to `(P, B, K, outputs)`.

        What the first layer makes of the shared part is computed once for all of them.
        """
        w, b, size = self.weights[0], self.biases[0], shared.shape[-1]
        first = _affine(shared, w[:, :size], b).unsqueeze(2)
        rest = own.flatten(0, 1).expand(len(w), -1, -1) @ w[:, size:]
        h = getattr(F, self.activation)(first + rest.unflatten(1, own.shape[:2])).flatten(1, 2)
        out = _Perceptron.apply(h, self.activation, *self.weights[1:], *self.biases[1:])
        return out.unflatten(1, own.shape[:2])

    def mixed(self, x: Tensor, mix: Tensor) -> Tensor:
        """sum_k mix_k f_k(x), `(…, n)`, where the outputs are `K` sets f_k of n and `mix` is `(K,)`, or `(P, K)` for a stack.

        As the sets share all but the last layer, this layer is mixed before anything is multiplied by it.
        """
        if self.copies is not None:
            mix = mix.unsqueeze(-2)
        params, layers = list(self._params), len(self.sizes) - 1
        for i in (layers - 1, -1):
            params[i] = torch.einsum("...kn,...k->...n", params[i].unflatten(-1, (mix.shape[-1], -1)), mix)
        return _Perceptron.apply(x, self.activation, *params)

    def twice_differentiable(self, x: Tensor) -> Tensor:
        """The same function through ordinary autograd, for methods that differentiate a gradient (TRPO)."""
        weights, biases = list(self.weights), list(self.biases)
        for i, (w, b) in enumerate(zip(weights, biases, strict=True)):
            x = x @ w + b
            if i < len(weights) - 1:
                x = getattr(F, self.activation)(x)
        return x

    def _initialise(self, init: str, out_gain: float) -> None:
        last = len(self.weights) - 1
        with torch.no_grad():
            for i, (w, b) in enumerate(zip(self.weights, self.biases, strict=True)):
                if init == "orthogonal":
                    for matrix in w.view(-1, *w.shape[-2:]):
                        nn.init.orthogonal_(matrix, out_gain if i == last else math.sqrt(2))
                    b.zero_()
                elif init == "normal":
                    w.normal_(std=1 / math.sqrt(w.shape[-2]))
                    b.zero_()
                else:
                    bound = 1 / math.sqrt(w.shape[-2])
                    w.uniform_(-bound, bound)
                    b.uniform_(-bound, bound)


class NormedMLP(nn.Module):
    """`MLP` with layer normalisation (Ba et al. 2016): the units of a hidden layer have mean 0 and variance 1 before a gain and a
    shift of each, and then the activation. `build` is as for `MLP`.
    """

    def __init__(self, inputs: int, hidden: Sequence[int], outputs: int, **build: Any):
        super().__init__()
        self.plain = MLP(inputs, hidden, outputs, **build)
        self.gains = nn.ParameterList(torch.ones_like(b) for b in self.plain.biases[:-1])
        self.shifts = nn.ParameterList(torch.zeros_like(b) for b in self.plain.biases[:-1])

    def forward(self, x: Tensor, frozen: bool = False) -> Tensor:
        """Apply the network; `frozen` treats the parameters as constants, so that only `x` receives a gradient."""
        groups = (self.plain.weights, self.plain.biases, self.gains, self.shifts)
        weights, biases, gains, shifts = ([p.detach() if frozen else p for p in group] for group in groups)
        for w, b, gain, shift in zip(weights, biases, gains, shifts, strict=False):
            z = F.layer_norm(_affine(x, w, b), gain.shape[-1:])
            x = getattr(F, self.plain.activation)(torch.addcmul(shift, z, gain))
        return _affine(x, weights[-1], biases[-1])


@torch.no_grad()
def share(whole: Tensor, parts: Sequence[Tensor]) -> None:
    """Let `whole` `[P, …]` take the values of its `P` parts, which become views of it."""
    for own, part in zip(whole, parts, strict=True):
        own.copy_(part.view_as(own))
        part.data = own.detach().view_as(part)


def _affine(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    if w.dim() == 2:
        return torch.addmm(b, x, w)
    return torch.baddbmm(b, x if x.dim() == 3 else x.expand(w.shape[0], -1, -1), w)


def _forward(x: Tensor, params: Sequence[Tensor], activation: str) -> list[Tensor]:
    """The input of every layer and the output; pre-activations too where the gradient needs them."""
    act, _, keep = ACTIVATIONS[activation]
    layers = len(params) // 2
    trace = [x]
    for i in range(layers):
        z = _affine(x, params[i], params[layers + i])
        if i == layers - 1:
            trace.append(z)
        else:
            x = act(z)
            trace += [z, x] if keep else [x]
    return trace


class _Perceptron(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, activation: str, *params: Tensor) -> Tensor:
        *trace, out = _forward(x, params, activation)
        ctx.activation = activation
        ctx.save_for_backward(*params[: len(params) // 2], *trace)
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        once_differentiable()
        _, gradient, keep = ACTIVATIONS[ctx.activation]
        layers = (len(ctx.needs_input_grad) - 2) // 2
        weights, trace = ctx.saved_tensors[:layers], list(ctx.saved_tensors[layers:])
        learn = ctx.needs_input_grad[2]
        w_grads: list[Tensor | None] = [None] * layers
        b_grads: list[Tensor | None] = [None] * layers
        stacked = weights[0].dim() == 3
        product = torch.bmm if stacked else torch.mm
        for i in reversed(range(layers)):
            h = trace.pop()
            w = weights[i]
            if learn:
                wide = h if h.dim() == w.dim() else h.expand(w.shape[0], -1, -1)
                w_grads[i] = product(wide.mT, g)
                b_grads[i] = g.sum(-2, keepdim=stacked)
            if i > 0:
                g = product(g, w.mT)
                g = gradient(g, trace.pop() if keep else h, h)
            elif ctx.needs_input_grad[0]:
                g = product(g, w.mT)
                if stacked and h.dim() == 2:
                    g = g.sum(0)
        return (g if ctx.needs_input_grad[0] else None, None, *w_grads, *b_grads)


class Copies(nn.Module):
    """`P` modules of a user's own kind behind the interface of a stacked `MLP`: output `(P, B, outputs)`."""

    def __init__(self, modules: Sequence[nn.Module]):
        super().__init__()
        self.members = nn.ModuleList(modules)

    def forward(self, x: Tensor, frozen: bool = False) -> Tensor:
        return torch.stack([_call(member, x, frozen) for member in self.members])


class Single(nn.Module):
    """A user's own module behind the interface of `MLP`."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, x: Tensor, frozen: bool = False) -> Tensor:
        return _call(self.module, x, frozen)


def _call(module: nn.Module, x: Tensor, frozen: bool) -> Tensor:
    if not frozen:
        return module(x)
    constants = {name: p.detach() for name, p in module.named_parameters()}
    return torch.func.functional_call(module, constants, (x,))


def make_net(
    inputs: int,
    outputs: int,
    network: Network,
    *,
    activation: str = "relu",
    copies: int | None = None,
    init: str | None = None,
    out_gain: float = 1.0,
    layer_norm: bool = False,
) -> nn.Module:
    """A network from hidden sizes or from a user's function, single or as `copies` in one."""
    if callable(network):
        require(not layer_norm, "a network of your own normalises its layers itself; leave layer normalisation off")
        if copies is None:
            return Single(network(inputs, outputs))
        return Copies([network(inputs, outputs) for _ in range(copies)])
    kind = NormedMLP if layer_norm else MLP
    return kind(inputs, network, outputs, activation=activation, copies=copies, init=init, out_gain=out_gain)
