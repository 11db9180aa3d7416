"""Losses of offline methods: tensors in, a loss out; means over the batch."""

from __future__ import annotations

import torch
from torch import Tensor

FACTOR_LIMIT = 1e6
"""The largest Lagrange factor."""


def normalised_value(q: Tensor) -> Tensor:
    """mean Q / mean |Q|, the denominator held constant (Fujimoto and Gu 2021, eq. 5), `(B,)` to a number."""
    return q.mean() / q.detach().abs().mean().clamp(min=1e-8)


def expectile_loss(error: Tensor, expectile: float) -> Tensor:
    """mean |tau - 1(u < 0)| u^2 for errors u = target - prediction `(B,)` (Kostrikov et al. 2021, eq. 4 and 5).

    Its minimiser is the tau-expectile: the mean for 1/2 (where the loss is half the squared error), towards the maximum
    of the targets for 1.
    """
    weight = torch.where(error < 0, 1 - expectile, expectile)
    return (weight * error.square()).mean()


@torch.no_grad()
def exponential_weights(advantage: Tensor, beta: float, limit: float) -> Tensor:
    """min(exp(beta A), limit), constant weights `(B,)` for a regression on actions (Peng et al. 2019, eq. 8 and section 4)."""
    return (beta * advantage).exp().clamp(max=limit)


def weighted_likelihood(logp: Tensor, weight: Tensor) -> Tensor:
    """-mean[ w log pi(a|s) ] over recorded actions, `(B,)` each; w = 1 is behaviour cloning (Kostrikov et al. 2021, eq. 7).

    `(P, B)` of `P` learners give one number each.
    """
    return -(weight * logp).mean(-1)


def conservative_gap(q: Tensor, q_proposed: Tensor, log_density: Tensor | float = 0.0) -> Tensor:
    """mean[ log sum_k exp(Q(s, a_k) - log mu_k(a_k|s)) - Q(s, a) ] (Kumar et al. 2020, appendix F), one number per critic.

    `q` `(P, B)` are the values of the recorded actions, `q_proposed` `(P, B, K)` those of actions drawn from the densities
    whose logarithms are `log_density` `(B, K)`. The sum over k is not divided by K: the estimate of log of the integral of
    exp Q is too large by log K, which has no gradient. Where the `a_k` are all the actions there are, as discrete ones may
    be, nothing is estimated and the density is left out (eq. 4).
    """
    return ((q_proposed - log_density).logsumexp(-1) - q).mean(-1)


def constrained(excess: Tensor, log_factor: Tensor) -> Tensor:
    """The Lagrangian of constraints c_i <= 0, `(P,)`, that share a factor lambda = exp(`log_factor`) (Kumar et al. 2020, eq. 30).

    Its value means nothing; it is sum lambda c_i to what c depends on, and to `log_factor` minus the mean of lambda c_i, so
    that the factor grows while the constraints are broken.
    """
    factor = log_factor.exp().clamp(max=FACTOR_LIMIT)
    return (factor.detach() * excess).sum() - (factor * excess.detach()).mean()


def kl_to_standard_normal(mean: Tensor, log_std: Tensor) -> Tensor:
    """KL( N(mu, sigma) || N(0, 1) ) = 1/2 (mu^2 + sigma^2 - 1) - log sigma, averaged over `(B, z)` (Kingma and Welling 2014)."""
    return (0.5 * (mean.square() + (2 * log_std).exp() - 1) - log_std).mean()


def where_positive(advantage: Tensor, distance: Tensor) -> Tensor:
    """mean[ 1(A > 0) d ] over the batch and the dimensions of an action: `(B,)` and `(B, m)` (Liu et al. 2024)."""
    return ((advantage > 0).unsqueeze(-1) * distance).mean()
