"""From one score for a whole trajectory to a reward for each of its steps."""

from __future__ import annotations

from torch import Tensor


def spread_evenly(score: Tensor, mask: Tensor, terminated: Tensor, horizon: int, gamma: float = 1.0) -> Tensor:
    """r(xi) / H at every step of a trajectory xi, whatever its length (Swamy et al. 2024, algorithm 2).

    `score` `(B,)` is r; `mask` `(T, B)` is 1 on a trajectory's steps; H is the longest that one may be. Where a trajectory
    `terminated` `(T, B)` before that, the steps that are missing pay as well, discounted, as part of its last step: else a
    long life would be worth something if the score is positive, and a short one if it is negative. `(T, B)`.
    """
    length = mask.sum(0)
    missing = horizon - length
    later = missing if gamma == 1 else gamma * (1 - gamma**missing) / (1 - gamma)
    last = mask * (mask.cumsum(0) == length)
    return score / horizon * (mask + last * terminated * later)


def at_the_end(score: Tensor, mask: Tensor) -> Tensor:
    """The whole score `(B,)` at the last step of each trajectory, 0 before, `(T, B)`."""
    return score * mask * (mask.cumsum(0) == mask.sum(0))
