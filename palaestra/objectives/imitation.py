"""Adversarial imitation: how far a learner's state-action pairs are from an expert's, by what a discriminator can tell.

Each divergence is estimated by the largest value of its variational bound, which is what the discriminator ascends. `expert`
and `learner` `(B,)` are its outputs D(s, a) on pairs of either; weights `(B,)`, where given, make the means weighted ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from palaestra.objectives.policy import mean

Weight = Tensor | None


def reverse_kl(expert: Tensor, learner: Tensor, expert_weight: Weight = None, learner_weight: Weight = None) -> Tensor:
    """KL(learner || expert) >= 1 - E_expert[exp(-D)] - E_learner[D] (Chang et al. 2024), with equality at D = log p_e / p_l."""
    return 1 - mean((-expert).exp(), expert_weight) - mean(learner, learner_weight)


def jensen_shannon(
    expert: Tensor, learner: Tensor, expert_weight: Weight = None, learner_weight: Weight = None
) -> Tensor:
    """2 JS(expert, learner) >= 2 log 2 + E_expert[log s(D)] + E_learner[log(1 - s(D))], s the logistic function: minus the binary
    cross-entropy with the expert as 1 (Goodfellow et al. 2014, Ho and Ermon 2016), with equality at D = log p_e / p_l."""
    told = mean(F.logsigmoid(expert), expert_weight) + mean(F.logsigmoid(-learner), learner_weight)
    return 2 * math.log(2) + told


def wasserstein(expert: Tensor, learner: Tensor, expert_weight: Weight = None, learner_weight: Weight = None) -> Tensor:
    """W_1(expert, learner) >= E_expert[D] - E_learner[D] for every D with Lipschitz constant 1 (Arjovsky et al. 2017)."""
    return mean(expert, expert_weight) - mean(learner, learner_weight)


DIVERGENCES: dict[str, Callable[..., Tensor]] = {
    "reverse_kl": reverse_kl,
    "js": jensen_shannon,
    "wasserstein": wasserstein,
}


def gradient_penalty(discriminator: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """mean (||grad D(x)|| - 1)^2 over the points `x` `(B, n)` (Gulrajani et al. 2017, eq. 3).

    `discriminator` gives `(B,)`, row by row, by operations that can be differentiated twice.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(discriminator(x).sum(), x, create_graph=True)
    return (gradient.norm(dim=-1) - 1).square().mean()


def airl_reward(d: Tensor) -> Tensor:
    """log p_e / p_l, which is D itself for `reverse_kl` and `js` (Fu et al. 2018); of either sign."""
    return d


def gail_reward(d: Tensor) -> Tensor:
    """-log(1 - s(D)) = log(1 + p_e / p_l) for `js` (Ho and Ermon 2016); positive, so that it also rewards not to end."""
    return F.softplus(d)


REWARDS: dict[str, Callable[[Tensor], Tensor]] = {"airl": airl_reward, "gail": gail_reward}


def boosted_weights(weights: Tensor, rate: float, most: int) -> Tensor:
    """The weights of weak learners after one more has joined, oldest first (Chang et al. 2024).

    Functional gradient descent with step `rate`: w <- ((1 - rate) w, rate). The first learner begins with all the weight, so
    that after T learners w_1 = (1 - rate)^(T-1) and w_i = rate (1 - rate)^(T-i). Of more than `most` learners the oldest
    are dropped and the weights of the others scaled to sum to 1 again.
    """
    if len(weights) == 0:
        return weights.new_ones(1)
    grown = torch.cat([(1 - rate) * weights, weights.new_full((1,), rate)])[-most:]
    return grown / grown.sum()
