"""Hybrid policy evaluation and improvement (Zhou et al., arXiv 2311.08384): logged Bellman targets and fresh returns at once.

`hybrid_squared_error` is what HNPG's critics descend; the rest is the paper's theory form, exact on enumerable processes.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from palaestra.core.errors import require
from palaestra.objectives.mdp import MDP
from palaestra.objectives.value import squared_error


def hybrid_squared_error(
    logged: Tensor, target: Tensor, fresh: Tensor, returns: Tensor, online_weight: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Algorithm 1 (HPE), its regression: mean (f(s, a) - y_Bellman)^2 over logged steps + lambda mean (f(s, a) - R)^2 over the
    policy's own, halved; and the two terms, without lambda. All inputs `(B,)` or `(P, B)`.
    """
    offline, online = squared_error(logged, target), squared_error(fresh, returns)
    return offline + online_weight * online, offline, online


class Mixture(NamedTuple):
    """The data of HPE on an enumerable process, as exact distributions `(S, A)`."""

    logged: Tensor  # nu
    online_weight: float  # lambda; infinity leaves the returns of the policy alone


def evaluated(
    mdp: MDP, policy: Tensor, features: Tensor, mixture: Mixture, first: int, last: int, start: Tensor | None = None
) -> Tensor:
    """Algorithm 1 (HPE) in exact expectations: the mean of f_first+1 … f_last, `(S, A)`.

    f_k = argmin over f = `features` w, features `(S, A, d)`, of sum nu (f - r - gamma E f_k-1(s', pi))^2 + lambda sum d^pi (f -
    Q^pi)^2: unbiased returns regress to Q^pi. `start` is f_0, 0 if not given; where neither distribution sees a pair, the
    weights of least norm decide. Raises `BadSetting` unless 0 <= first < last and lambda >= 0.
    """
    require(0 <= first < last, f"the average is over fits first + 1 to last, so 0 <= first < last, got {first}, {last}")
    require(mixture.online_weight >= 0, f"lambda must be >= 0, got {mixture.online_weight}")
    returns, occupancy = mdp.values(policy), mdp.occupancy(policy)
    if math.isinf(mixture.online_weight):
        logged, online = torch.zeros_like(mixture.logged), occupancy
    else:
        logged, online = mixture.logged, mixture.online_weight * occupancy
    roots = torch.cat([logged.flatten(), online.flatten()]).sqrt()
    design = features.flatten(0, 1).repeat(2, 1) * roots.unsqueeze(1)
    pseudo_inverse = torch.linalg.pinv(design)
    f, total = torch.zeros_like(mdp.reward) if start is None else start, torch.zeros_like(mdp.reward)
    for k in range(1, last + 1):
        target = mdp.reward + mdp.gamma * mdp.transition @ (policy * f).sum(-1)
        f = features @ (pseudo_inverse @ (torch.cat([target.flatten(), returns.flatten()]) * roots))
        if k > first:
            total = total + f
    return total / (last - first)


def hybrid_actor_critic(mdp: MDP, features: Tensor, mixture: Mixture, iterations: int, first: int, last: int) -> Tensor:
    """HAC (algorithm 2) from the uniform policy: all its policies `(T, S, A)`, of which the paper returns one at random.

    eta = (1 - gamma) sqrt(log A / T).
    """
    eta = (1 - mdp.gamma) * math.sqrt(math.log(mdp.reward.shape[1]) / iterations)
    policies = [torch.full_like(mdp.reward, 1 / mdp.reward.shape[1])]
    for _ in range(iterations - 1):
        f = evaluated(mdp, policies[-1], features, mixture, first, last)
        policies.append(multiplied(policies[-1], f, eta))
    return torch.stack(policies)


def multiplied(policy: Tensor, f: Tensor, eta: float) -> Tensor:
    """HAC's update, pi'(a|s) proportional to pi(a|s) exp(eta f(s, a)), `(S, A)`."""
    return (policy.log() + eta * f).softmax(-1)


def natural_direction(scores: Tensor, advantage: Tensor, weight: Tensor) -> Tensor:
    """HNPG's w (algorithm 3): argmin of sum weight (w . grad log pi - fbar)^2, `(d,)` from `(N, d)`, `(N,)` and `(N,)`; of
    several, the shortest.

    The rows are those of both distributions, the online ones weighted by lambda; fbar = f - E_pi f.
    """
    roots = weight.sqrt()
    return torch.linalg.pinv(scores * roots.unsqueeze(1)) @ (advantage * roots)
