"""Regression of rewards on log-ratios within groups of answers, which needs no clip.

The maximiser of E[R] - lambda KL(pi || pi_old) has R = lambda rho + lambda log Z with rho = log pi / pi_old of a whole
answer: within a group, rewards are a straight line of log-ratios. `ratio` (rho), `reward` and `group` are `(n,)`, one per
answer; `group` tells groups apart by any whole numbers.
"""

from __future__ import annotations

from torch import Tensor

from palaestra.objectives.segments import group_mean, group_sum, group_variance, has_spread

LEAST = 3
"""Answers of a group from which Reg-GRPO can learn: two always fit, up to the sign."""


def normalised(x: Tensor, group: Tensor, epsilon: float, *, detach: bool = False, correction: int = 1) -> Tensor:
    """(x - mean) / sqrt(var + epsilon^2) within each one's group, `(n,)`, the variance with n - `correction` below.

    With epsilon above 0, both value and gradient are finite where all of a group is alike. `detach` takes the deviation for a
    constant.
    """
    away = x - group_mean(x, group)
    total, count = group_sum(away.square(), group)
    deviation = (total / (count - correction).clamp(min=1) + epsilon**2).sqrt()
    return away / (deviation.detach() if detach else deviation)


def reg_grpo(
    ratio: Tensor, reward: Tensor, group: Tensor, epsilon: float, *, detach: bool = False, correction: int = 1
) -> Tensor:
    """Regressive GRPO (Park et al. 2025): mean_i (A_i - A_theta,i)^2 with A = (R - mean R) / std R and A_theta the same of rho.

    Scale and origin of ratios and of rewards do not matter. Both deviations are with n - `correction` below; `epsilon` is that of
    `normalised` for the ratios. Groups whose rewards are all alike, or of fewer than three answers, are left out. At rho = 0,
    where the paper's loss is 0 / 0, the gradient is -2 / (n epsilon) A: GRPO's, but for a factor.
    """
    _, count = group_sum(reward, group)
    kept = has_spread(reward, group) & (count >= LEAST)
    if not bool(kept.any()):
        return 0.0 * ratio.sum()
    ratio, reward, group = ratio[kept], reward[kept], group[kept]
    target = normalised(reward, group, 0.0, correction=correction)
    return (target - normalised(ratio, group, epsilon, detach=detach, correction=correction)).square().mean()


def rebel(ratio: Tensor, reward: Tensor, group: Tensor, eta: float = 1.0) -> Tensor:
    """REBEL (Gao et al. 2024) over all pairs of a group: the mean of ((rho_i - rho_j) / eta - (R_i - R_j))^2 for i != j.

    That is twice the variance within groups, with n - 1 below, of rho / eta - R. A group counts by its answers; one of a single
    answer has no pair and is left out.
    """
    _, count = group_sum(reward, group)
    kept = count > 1
    if not bool(kept.any()):
        return 0.0 * ratio.sum()
    return 2 * group_variance((ratio / eta - reward)[kept], group[kept]).mean()
