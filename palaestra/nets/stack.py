"""Networks and optimisers of several learners as one: parameters `[P, …]`, every product batched.

The learners stay what they are, and can be used, saved and loaded as before; their tensors become views of the stack's, so that
whatever happens to one happens to the other.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, TypeVar

from torch import Tensor, nn

from palaestra.core.errors import Unsupported
from palaestra.core.experience import tree_leaves, tree_map
from palaestra.nets.adam import Adam
from palaestra.nets.encoders import Encoder
from palaestra.nets.mlp import MLP, share

M = TypeVar("M", bound=nn.Module)


class Rows(Encoder):
    """An encoder without parameters that takes `(P, B, …)`."""

    def __init__(self, encoder: Encoder):
        super().__init__()
        self.encoder, self.size = encoder, encoder.size

    def forward(self, obs: Any) -> Tensor:
        lead = tree_leaves(obs)[0].shape[:2]
        return self.encoder(tree_map(lambda x: x.flatten(0, 1), obs)).unflatten(0, lead)


def stack(modules: Sequence[M]) -> M:
    """`P` modules of one architecture as one, from inputs `(P, B, …)` to outputs `(P, B, …)`.

    Raises:
        Unsupported: a part has parameters and is no perceptron, such as a convolution or a user's own network.
    """
    first = modules[0]
    if isinstance(first, MLP):
        return MLP.stack(modules)  # type: ignore[arg-type,return-value]
    if isinstance(first, Encoder) and not list(first.parameters()):
        return Rows(first)  # type: ignore[return-value]
    if list(first.parameters(recurse=False)):
        raise Unsupported(f"a {type(first).__name__} cannot be trained for several seeds at once")
    joined = copy.copy(first)
    joined._modules = {
        name: None if child is None else stack([module._modules[name] for module in modules])  # type: ignore[type-var]
        for name, child in first._modules.items()
    }
    return joined


def stack_adam(members: Sequence[Adam], params: Sequence[Tensor]) -> Adam:
    """`P` optimisers that have taken equally many steps as one of the stacked parameters."""
    first = members[0]
    if first.gradients.max_norm is not None:
        raise Unsupported("clipped gradients cannot be computed for several seeds at once")
    joined = Adam(params, first.lr, betas=first.betas, eps=first.eps)
    for moments in ("first", "second"):
        for own, *theirs in zip(getattr(joined, moments), *(getattr(m, moments) for m in members), strict=True):
            share(own, theirs)
    joined.follow(first)
    for member in members[1:]:
        member.follow(first)
    return joined
