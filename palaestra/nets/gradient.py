"""Gradients of objectives: by autograd, or as one compiled function of the inputs.

An objective is a function of tensors that gives `(loss, outputs)`. To compile it, the loss and its whole backward pass are
traced into one graph of tensor operations, which TorchInductor turns into machine code: the bookkeeping between operations,
which is most of what a small network's update costs, is then gone. Inside `compiling(threads)` every objective is compiled,
except for those that cannot be; they go on by autograd, and a warning says why.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import is_dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from palaestra.core.errors import PalaestraError
from palaestra.core.precision import multiplying
from palaestra.core.world import world

Outputs = dict[str, Tensor]
Objective = Callable[..., tuple[Tensor, Outputs]]
"""Inputs -> (loss, named tensors). What changes between calls, parameters apart, must be an input: tensors, in
an `Experience` or another dataclass, a dict, tuple or list, or a plain value, for each of which it is compiled anew."""

VARIANTS = 4
"""Shapes and plain values of one objective's inputs that are compiled; others go by autograd."""
LOOK_EVERY = 1000
"""Calls between comparisons of a compiled gradient with autograd's."""
CHUNK = 16_384
"""Numbers that a loop must have for each thread: one does fewer sooner, and their sums are then the same with any number."""
TOLERANCE = 0.01
"""The largest distance between the two, relative to their length, that rounding may explain."""

TRIALS = 8
"""Inputs on which code for several threads must agree with code for one, to the last bit."""

MANY, BLOCK = 2048, 64
"""Rows from which their sum is made of sums over blocks, and rows in one."""

_threads: int | None = None


@contextmanager
def compiling(threads: int | None) -> Iterator[None]:
    """Compile objectives for a number of threads; `None` leaves them to autograd."""
    global _threads
    before, _threads = _threads, threads
    try:
        yield
    finally:
        _threads = before


def compiler() -> str | None:
    """The C++ compiler that TorchInductor would call, if there is one."""
    found = (shutil.which(name) for name in (os.environ.get("CXX"), "g++", "clang++") if name)
    return next((path for path in found if path), None)


class Gradient(NamedTuple):
    """What an objective gives at some inputs."""

    gradients: Sequence[Tensor]
    norm: list[Tensor]  # where the norm is limited: that of all gradients together, and what to divide them by
    outputs: Outputs


class Gradients:
    """Differentiates objectives with respect to `params`; `max_norm` limits the global norm of the gradient."""

    def __init__(self, params: Sequence[Tensor], max_norm: float | None = None):
        self.params, self.max_norm = params, max_norm
        self.compiled: dict[str, bool] = {}
        """Which inputs of which objectives are compiled, and which could not be: part of a run's state, so that a
        resumed run computes the same."""
        self._functions: dict[Hashable, _Compiled | None] = {}

    def __call__(self, objective: Objective, inputs: Sequence[Any]) -> Gradient:
        if _threads is None:
            return self.by_autograd(objective, inputs)
        leaves: list[Tensor] = []
        key = (objective.__name__, *[_flatten(value, leaves) for value in inputs])
        if key not in self._functions:
            self._functions[key] = self._compile(key, objective, leaves)
        function = self._functions[key]
        if function is None:
            return self.by_autograd(objective, inputs)
        result = function(leaves)
        function.calls += 1
        if function.calls <= 2 or function.calls % LOOK_EVERY == 0:
            with multiplying("highest"):  # in a lower precision rounding alone sets the two apart
                apart = _distance(function(leaves), self.by_autograd(objective, inputs))
            if not apart <= TOLERANCE:
                reason = "it depends on something that is not one of its inputs"
                if function.calls > 2:
                    raise PalaestraError(
                        f"the compiled {objective.__name__} no longer gives autograd's gradient: {reason} and has changed; "
                        "make it an input, or train with compile=False (--no-compile)"
                    )
                self._refuse(key, reason)
                return self.by_autograd(objective, inputs)
        return result

    def by_autograd(self, objective: Objective, inputs: Sequence[Any]) -> Gradient:
        """The gradient by autograd."""
        loss, outputs = objective(*inputs)
        gradients = torch.autograd.grad(loss, self.params)
        norm = [] if self.max_norm is None else limited(gradients, self.max_norm)
        return Gradient(gradients, norm, {name: value.detach() for name, value in outputs.items()})

    def _compile(self, key: tuple[Any, ...], objective: Objective, leaves: list[Tensor]) -> _Compiled | None:
        name = str(key)
        variants = sum(done for known, done in self.compiled.items() if known.startswith(f"({objective.__name__!r},"))
        if not self.compiled.get(name, variants < VARIANTS):
            return None
        try:
            function = _Compiled(self, objective, key[1:], leaves)
        except Exception as error:  # anything may go wrong in tracing a user's code, and autograd still works
            self._refuse(key, f"{type(error).__name__}: {error}".splitlines()[0])
            return None
        self.compiled[name] = True
        return function

    def _refuse(self, key: tuple[Any, ...], reason: str) -> None:
        self.compiled[str(key)], self._functions[key] = False, None
        warnings.warn(f"{key[0]} is left to autograd, not compiled: {reason}", stacklevel=4)


def limited(gradients: Sequence[Tensor], max_norm: float, sharded: bool = False) -> list[Tensor]:
    """The norm of all gradients together, and what to divide them by so that it is at most `max_norm`; of `sharded` ones, that of
    the gradients which all processes have between them."""
    total = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    if sharded:
        square = total.square()
        world().sum([square])
        total = square.sqrt()
    return [total, (total / max_norm).clamp(min=1.0)]


class _Compiled:
    """One objective and its gradient as machine code, for inputs of certain shapes."""

    def __init__(self, gradients: Gradients, objective: Objective, structure: tuple[Any, ...], leaves: list[Tensor]):
        from torch._inductor import compile as inductor
        from torch.fx.experimental.proxy_tensor import make_fx

        def whole(*leaves: Tensor) -> list[Tensor]:
            tensors = iter(leaves)
            found = gradients.by_autograd(objective, [_rebuild(part, tensors) for part in structure])
            self.names = list(found.outputs)
            return [*found.gradients, *found.norm, *found.outputs.values()]

        graph = make_fx(whole, decomposition_table=FUSED)(*leaves)
        assert _threads is not None
        self.threads = _threads

        def with_threads(count: int) -> Callable[..., list[Tensor]]:
            return inductor(graph, leaves, options={"cpp.threads": count, "cpp.min_chunk_size": CHUNK})  # type: ignore[return-value]

        with torch.no_grad():
            self.alone = self.together = with_threads(1)
            if self.threads > 1 and _same(self.alone, several := with_threads(self.threads), leaves):
                self.together = several
        self.split = len(gradients.params), len(gradients.params) + (0 if gradients.max_norm is None else 2)
        self.calls = 0

    def __call__(self, leaves: list[Tensor]) -> Gradient:
        # Threads that compiled code has would wait for cores that a neighbour took.
        function = self.together if torch.get_num_threads() >= self.threads else self.alone
        with torch.no_grad():
            results = function(*leaves)
        first, second = self.split
        return Gradient(results[:first], results[first:second], dict(zip(self.names, results[second:], strict=True)))


def _same(first: Callable[..., list[Tensor]], second: Callable[..., list[Tensor]], leaves: list[Tensor]) -> bool:
    """Whether two functions give the same to the last bit, at `leaves` and at others near by: sums in another order do not."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(TRIALS):
        pairs = zip(first(*leaves), second(*leaves), strict=True)
        if not all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in pairs):
            return False
        leaves = [
            x * (0.9 + 0.2 * torch.rand(x.shape, generator=generator)) if x.is_floating_point() else x for x in leaves
        ]
    return True


def _thin_product(a: Tensor, b: Tensor) -> Tensor:
    """A matrix product with a dimension of one is an elementwise pass, which the compiler joins with its neighbours."""
    if a.shape[-1] == 1:
        return a * b
    if b.shape[-1] == 1:
        return (a.mT * b).sum(-2, keepdim=True).mT
    return NotImplemented


def _sum_over_rows(x: Tensor, dim: Sequence[int] | None = None, keepdim: bool = False, **options: Any) -> Tensor:
    """A sum over very many rows is made of sums over blocks of them, which stay in the cache."""
    rows = x.shape[-2] if x.dim() > 1 and dim and len(dim) == 1 and dim[0] in (-2, x.dim() - 2) else 0
    if rows < MANY or rows % BLOCK or options:
        return NotImplemented
    return x.unflatten(-2, (-1, BLOCK)).sum(-2).sum(-2, keepdim)


aten = torch.ops.aten
FUSED: dict[Any, Callable[..., Tensor]] = {
    aten.mm.default: _thin_product,
    aten.bmm.default: _thin_product,
    aten.sum.dim_IntList: _sum_over_rows,
    # A bias is added in the pass that takes the activation, instead of being written out for the product to add to.
    aten.addmm.default: lambda bias, a, b: a @ b + bias,
    aten.baddbmm.default: lambda bias, a, b: a @ b + bias,
}
"""What is rewritten before it is compiled."""


class _Leaf(NamedTuple):
    """A tensor's place in the structure of the inputs, and all that compiled code takes for granted about it."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype


def _flatten(value: Any, leaves: list[Tensor]) -> Any:
    """The structure of `value`, whose tensors are appended to `leaves`."""
    if isinstance(value, Tensor):
        leaves.append(value)
        return _Leaf(tuple(value.shape), value.stride(), value.dtype)
    if isinstance(value, (tuple, list)):
        return tuple, tuple([_flatten(item, leaves) for item in value])
    if isinstance(value, dict) or is_dataclass(value):
        items = value.items() if hasattr(value, "items") else vars(value).items()
        return type(value), tuple([(name, _flatten(item, leaves)) for name, item in items])
    return value


def _rebuild(structure: Any, tensors: Iterator[Tensor]) -> Any:
    """The inverse of `_flatten`."""
    if isinstance(structure, _Leaf):
        return next(tensors)
    if isinstance(structure, tuple):
        kind, items = structure
        if kind is tuple:
            return tuple(_rebuild(item, tensors) for item in items)
        return kind(**{name: _rebuild(item, tensors) for name, item in items})
    return structure


def _distance(result: Gradient, plain: Gradient) -> float:
    """How far two gradients, or their outputs, are apart, relative to their length; 0 where either has diverged."""
    pairs = (result.gradients, plain.gradients), (result.outputs.values(), plain.outputs.values())
    apart = [(_vector(ours) - _vector(theirs)).norm() / (_vector(theirs).norm() + 1e-5) for ours, theirs in pairs]
    return float(torch.stack(apart).nan_to_num(0.0).max())


def _vector(tensors: Iterable[Tensor]) -> Tensor:
    return torch.cat([torch.zeros(0, dtype=torch.float64), *[x.flatten().double() for x in tensors]])
