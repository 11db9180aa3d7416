"""Games of preferences among n answers, solved exactly: what general preferences are aligned to, and the oracle of its tests.

`preference` `(n, n)` holds P(y > y'), the probability that the row's answer is preferred to the column's, with P + P^T = 1; it
need not come from scores, and may be cyclic. Policies are `(n,)` probabilities. P(y > pi) is the expected win rate of an answer.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from palaestra.core.errors import PalaestraError, require

ROUNDING = 1e-6
"""How far P + P^T may be from 1."""


def check_preference(preference: Tensor) -> None:
    """Refuse what is no game of preferences: a table that is not square, not in [0, 1], or not antisymmetric."""
    square = preference.ndim == 2 and preference.shape[0] == preference.shape[1] > 0
    require(square, f"preferences must be a square table, got shape {tuple(preference.shape)}")
    inside = (preference >= 0) & (preference <= 1)
    require(bool(inside.all()), "preferences must be probabilities, between 0 and 1")
    off = float((preference + preference.T - 1).abs().max())
    require(off <= ROUNDING, f"P(y > y') + P(y' > y) must be 1; it is off by {off:.3g}")


def from_payoff(payoff: Tensor) -> Tensor:
    """P = (1 + payoff) / 2 of payoffs in [-1, 1], of which -1 is a sure loss."""
    return (1 + payoff) / 2


def from_scores(score: Tensor) -> Tensor:
    """The preferences of a Bradley-Terry model, P(y > y') = sigma(R(y) - R(y')), `(n, n)` from `(n,)`."""
    return torch.sigmoid(score.unsqueeze(1) - score)


def win_rate(preference: Tensor, policy: Tensor) -> Tensor:
    """P(y > pi) of each answer against a policy's answers, `(n,)`."""
    return preference @ policy


def mirror_step(
    preference: Tensor, policy: Tensor, eta: float, reference: Tensor | None = None, tau: float = 0.0
) -> Tensor:
    """The policy in proportion to exp(P(y > pi)/eta) pi_ref(y)^(tau/eta) pi(y)^(1 - tau/eta), `(n,)`.

    A step of online mirror descent in the game regularised by tau KL(. || pi_ref) (Zhang et al. 2024, 2407.00617, eq. 5). With
    tau = 0 it is soft policy iteration, which maximises P(. > pi) - eta KL(. || pi) (Rosset et al. 2024, 2404.03715, eq. 9), and
    a step of Hedge at rate 1/eta.
    """
    require(eta > 0 and 0 <= tau <= eta, f"a step needs 0 <= tau <= eta and eta > 0, got tau = {tau} and eta = {eta}")
    require(tau == 0 or reference is not None, "with tau above 0 a step needs the reference policy")
    logit = win_rate(preference, policy) / eta
    if tau < eta:
        logit = logit + (1 - tau / eta) * policy.log()
    if reference is not None and tau:
        logit = logit + tau / eta * reference.log()
    return logit.softmax(-1)


def regularised_nash(
    preference: Tensor, reference: Tensor, tau: float, tolerance: float = 1e-13, limit: int = 200_000
) -> Tensor:
    """The one policy in proportion to pi_ref(y) exp(P(y > pi) / tau), which none beats where leaving pi_ref costs tau KL, `(n,)`.

    Found by mirror steps with eta = tau + 1 / (4 tau), at which they contract around it by 1 / sqrt(1 + 4 tau^2).

    Raises:
        PalaestraError: tau is too small to get there in `limit` steps.
    """
    check_preference(preference)
    require(tau > 0, f"tau must be positive, got {tau}")
    eta, policy = tau + 1 / (4 * tau), reference
    for _ in range(limit):
        before, policy = policy, mirror_step(preference, policy, eta, reference, tau)
        if float((policy - before).abs().max()) < tolerance:
            return policy
    raise PalaestraError(f"the regularised Nash policy was not reached in {limit} steps; a larger tau needs fewer")


def exploitability(preference: Tensor, policy: Tensor) -> Tensor:
    """max_y P(y > pi) - 1/2, 0 for a minimax winner: what the best answer gains against the policy."""
    return win_rate(preference, policy).max() - 0.5


def minimax_winner(preference: Tensor) -> Tensor:
    """The policy with the best worst case, argmax_p min_q P(p > q), `(n,)`, by linear programming.

    Also called the von Neumann winner, and the Condorcet winner if there is one (Swamy et al. 2024, 2401.04056). Where there are
    several, one of them.

    Raises:
        PalaestraError: scipy is not installed.
    """
    check_preference(preference)
    try:
        from scipy.optimize import linprog
    except ImportError:
        raise PalaestraError("minimax winners need scipy: pip install palaestra[offline]") from None
    n = len(preference)
    table = preference.double().cpu().numpy()
    # Variables p and v; v is maximised subject to v <= sum_y p(y) P(y > y') for all y'.
    found = linprog(
        np.append(np.zeros(n), -1.0),
        A_ub=np.hstack([-table.T, np.ones((n, 1))]),
        b_ub=np.zeros(n),
        A_eq=np.append(np.ones(n), 0.0)[None],
        b_eq=[1.0],
        bounds=[(0, None)] * n + [(None, None)],
    )
    policy = torch.as_tensor(found.x[:n]).to(preference).clamp(min=0)
    return policy / policy.sum()


class Played(NamedTuple):
    """What a learner that plays against itself ends with, `(n,)` each."""

    last: Tensor
    average: Tensor


def hedge(preference: Tensor, steps: int, rate: float | None = None) -> Played:
    """Multiplicative weights against oneself, pi_{t+1} in proportion to pi_t exp(rate P(y > pi_t)), from the uniform policy.

    The `average` of pi_1 … pi_T is a minimax winner but for 2 Regret / T; the `last` one circles where preferences are cyclic.
    `rate` is sqrt(8 log n / T) unless given.
    """
    check_preference(preference)
    n = len(preference)
    rate = rate or math.sqrt(8 * math.log(max(n, 2)) / steps)
    policy = preference.new_full((n,), 1 / n)
    total = torch.zeros_like(policy)
    for _ in range(steps):
        total += policy
        policy = mirror_step(preference, policy, 1 / rate)
    return Played(policy, total / steps)


def order_effect(forth: Tensor, again: Tensor, back: Tensor, tolerance: float = 1e-4) -> str | None:
    """By how much, in words, a judge of pairs depends on the order in which it is shown them; None where it does not.

    It was asked about n pairs twice, `forth` and `again`, and the other way round, `back`: preferences `(n,)` that are 0 for a
    tie. One that answers the same question differently draws its answers; then P(a, b) + P(b, a) must be 0 in the mean, within
    four standard errors.
    """
    if not len(forth):
        return None
    off = forth + back
    if torch.equal(forth, again):
        found, allowed, how = off.abs().max(), tolerance, "up to "
    else:
        error = off.std(correction=0) / math.sqrt(len(off))
        found, allowed, how = off.mean().abs(), tolerance + 4 * float(error), "on average "
    return f"{how}{float(found):.3g}" if found > allowed else None
