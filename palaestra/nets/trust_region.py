"""The natural gradient within a trust region (Schulman et al. 2015, appendix C): one policy's step, or that of many at once.

Parameters `[H, …]` with batches `(H, B)` are `H` policies, each with a system of equations, a trust region and a line search of
its own; every product is one for all of them. Without leading dimensions it is the step of a single policy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from palaestra.nets.distributions import Distribution
from palaestra.objectives.policy import mean, surrogate


class TrustRegion(NamedTuple):
    """How far a step goes."""

    max_kl: float
    """delta: KL(old || new) at the border, by its second-order model."""
    cg_steps: int
    cg_damping: float
    search_steps: int
    """Most step sizes tried before the step is given up."""
    search_shrink: float
    """Factor between step sizes tried."""
    least_gain: float = 0.0
    """Least improvement that is taken, as a share of what the gradient promises for the size tried."""
    kl_limit: float = math.inf
    """Most KL(old || new) that is taken, measured at the size tried."""


class Stepped(NamedTuple):
    """What a step has done, each `(…)` without the batch."""

    loss: Tensor
    kl: Tensor
    entropy: Tensor  # of the policy before the step
    gradient_norm: Tensor


def step(
    params: Sequence[Tensor],
    distribution: Callable[[], Distribution],
    action: Tensor,
    advantage: Tensor,
    region: TrustRegion,
    weight: Tensor | None = None,
) -> Stepped:
    """One step of `params` up the surrogate objective at `action`, whose `advantage` is `(…, B)`; changes them in place.

    `distribution` gives the policy of the present parameters at the states of the batch, in a form that can be differentiated
    twice; the mean over the batch, of the surrogate and of the KL divergence alike, is weighted by `weight` `(…, B)`.
    """
    lead = advantage.dim() - 1
    dist = distribution()
    old = dist.detach()
    old_logp = old.logp(action)
    loss = surrogate(dist.logp(action), old_logp, advantage, weight)
    # The gradient of KL(old || new) is 0 here, and its derivative along v is the Fisher matrix times v.
    kl_gradient = flat(torch.autograd.grad(mean(old.kl(dist), weight).sum(), params, create_graph=True), lead)
    descent = -flat(torch.autograd.grad(loss.sum(), params, retain_graph=True), lead)

    def fisher(v: Tensor) -> Tensor:
        product = torch.autograd.grad((kl_gradient * v).sum(), params, retain_graph=True)
        return flat(product, lead) + region.cg_damping * v

    direction = conjugate_gradient(fisher, descent, region.cg_steps)
    curvature = dot(direction, fisher(direction))
    longest = direction * (2 * region.max_kl / curvature.clamp(min=1e-12)).sqrt()

    def measured() -> tuple[Tensor, Tensor]:
        new = distribution()
        return surrogate(new.logp(action), old_logp, advantage, weight), mean(old.kl(new), weight)

    promised = dot(descent, longest)
    new_loss, kl = line_search(params, longest, loss.detach(), promised.squeeze(-1), measured, region)
    entropy = mean(dist.entropy(), weight).detach()
    return Stepped(new_loss, kl, entropy, descent.norm(dim=-1))


@torch.no_grad()
def line_search(
    params: Sequence[Tensor],
    longest: Tensor,
    loss: Tensor,
    promised: Tensor,
    measured: Callable[[], tuple[Tensor, Tensor]],
    region: TrustRegion,
) -> tuple[Tensor, Tensor]:
    """Take the largest tried share of the step `longest` `(…, n)` that lowers the loss enough and stays close enough, or none.

    `measured` gives the loss and the KL divergence `(…)` at the present parameters. Returns both as they are in the end.
    """
    start = [p.clone() for p in params]
    share = torch.ones_like(loss)
    taken, kl = torch.zeros_like(loss, dtype=torch.bool), torch.zeros_like(loss)
    for _ in range(region.search_steps):
        move(params, start, longest * share.unsqueeze(-1))
        new_loss, new_kl = measured()
        enough = loss - new_loss > region.least_gain * promised * share
        taken = taken | (enough & (new_kl <= region.kl_limit))
        if bool(taken.all()):  # a branch on data: the one place a step needs one
            return new_loss, new_kl
        share = torch.where(taken, share, share * region.search_shrink)
    share = torch.where(taken, share, 0.0)
    move(params, start, longest * share.unsqueeze(-1))
    return torch.where(taken, new_loss, loss), torch.where(taken, new_kl, kl)


def conjugate_gradient(product: Callable[[Tensor], Tensor], b: Tensor, steps: int, tolerance: float = 1e-10) -> Tensor:
    """The x with A x = b, for a symmetric positive definite A given as `product(v)` = A v; `b` `(…, n)`.

    Each system stops after `steps` steps or once its squared residual is below `tolerance`.
    """
    x = torch.zeros_like(b)
    residual, direction = b, b
    squared = dot(residual, residual)
    for _ in range(steps):
        going = squared >= tolerance
        if not bool(going.any()):
            break
        image = product(direction)
        length = torch.where(going, squared / dot(direction, image), 0.0)
        x = x + length * direction
        residual = residual - length * image
        fresh = dot(residual, residual)
        direction = torch.where(going, residual + fresh / squared * direction, direction)
        squared = fresh
    return x


def dot(a: Tensor, b: Tensor) -> Tensor:
    """The products of two rows of vectors, `(…, n)` and `(…, n)` to `(…, 1)`."""
    return (a * b).sum(-1, keepdim=True)


def flat(tensors: Sequence[Tensor], lead: int = 0) -> Tensor:
    """Tensors `[…, *]` as one vector `(…, n)` for each of their `lead` leading dimensions."""
    return torch.cat([t.flatten(lead) for t in tensors], -1)


def move(params: Sequence[Tensor], start: Sequence[Tensor], step: Tensor) -> None:
    """params <- start + step, in place."""
    lead = step.dim() - 1
    pieces = step.split([p[(0,) * lead].numel() for p in params], -1)
    for p, s, piece in zip(params, start, pieces, strict=True):
        torch.add(s, piece.reshape(p.shape), out=p)
