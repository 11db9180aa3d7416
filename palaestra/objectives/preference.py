"""Losses of preferences between two things: tensors in, a loss out.

A label `(B,)` is the probability that the first of a pair is preferred: 1 or 0, or 1/2 for a tie.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from palaestra.objectives.policy import mean

EPSILON = 1e-6
"""Added to every coordinate of a difference, so that its length has a gradient at 0, as `torch.nn.TripletMarginLoss` does."""


def bradley_terry(gap: Tensor, label: Tensor | float = 1.0) -> Tensor:
    """-p log sigma(gap) - (1 - p) log sigma(-gap) for each pair, `(B,)`: p the label, `gap` what the first is better by."""
    return -label * logsigmoid(gap) - (1 - label) * logsigmoid(-gap)


def distance(anchor: Tensor, z: Tensor) -> Tensor:
    """|anchor - z + epsilon|, `(z,)` and `(B, z)` to `(B,)`."""
    return torch.linalg.vector_norm(anchor - z + EPSILON, dim=-1)


def triplet(
    anchor: Tensor, first: Tensor, second: Tensor, label: Tensor, margin: float = 1.0, ties: bool = False
) -> Tensor:
    """mean max(0, |z* - z+| - |z* - z-| + margin) over pairs, z+ the preferred one (Kang et al. 2023), 0 without any.

    `anchor` z* `(z,)`, `first` and `second` `(B, z)`. Ties are left out; with `ties` they count with half the difference of
    their distances, which draws the two together, and the mean is over all pairs.
    """
    apart = distance(anchor, first) - distance(anchor, second)
    side = torch.sign(2 * label - 1)
    hinge = (side * apart + margin).relu()
    strict = (side != 0).to(apart.dtype)
    if ties:
        return torch.where(side != 0, hinge, 0.5 * apart.abs()).mean()
    return mean(hinge, strict)


def agreement(anchor: Tensor, first: Tensor, second: Tensor, label: Tensor) -> Tensor:
    """The share of strict labels whose preferred one lies nearer to `anchor`."""
    side = torch.sign(2 * label - 1)
    nearer = (side * (distance(anchor, second) - distance(anchor, first)) > 0).to(first.dtype)
    return mean(nearer, (side != 0).to(first.dtype))


def unit_length(z: Tensor) -> Tensor:
    """mean (|z| - 1)^2 of embeddings `(B, z)`: they are drawn to the unit sphere."""
    return (torch.linalg.vector_norm(z, dim=-1) - 1).square().mean()


def excess_length(z: Tensor) -> Tensor:
    """mean max(0, |z| - 1) of embeddings `(B, z)`: they are drawn into the unit ball."""
    return (torch.linalg.vector_norm(z, dim=-1) - 1).relu().mean()
