"""Returns and advantages over segments: pure functions of rewards, values and episode ends."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def gae(
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    gamma: float,
    lam: float,
) -> Tensor:
    """Generalised advantage estimation (Schulman et al. 2016, eq. 16), all arguments and the result `(T, N)`.

    delta_t = r_t + gamma (1 - terminated_t) V(s'_t) - V(s_t) with s'_t the true next state, and
    A_t = delta_t + gamma lam (1 - terminated_t)(1 - truncated_t) A_{t+1}: a time limit stops the sum but not the bootstrap.
    """
    delta = reward + gamma * (1 - terminated) * next_value - value
    carry_on = gamma * lam * (1 - terminated) * (1 - truncated)
    advantage = torch.empty_like(delta)
    running = torch.zeros_like(delta[0])
    for d, c, out in reversed(list(zip(delta, carry_on, advantage, strict=True))):
        torch.addcmul(d, c, running, out=out)
        running = out
    return advantage


@torch.no_grad()
def discounted_returns(
    reward: Tensor, next_value: Tensor, terminated: Tensor, truncated: Tensor, gamma: float
) -> Tensor:
    """Sum of discounted rewards to the end of the episode, `(T, N)`; bootstrapped where the batch or a time limit cut it.

    G_t = r_t + gamma (1 - terminated_t) [ G_{t+1} if the episode goes on inside the batch, else V(s'_t) ].
    """
    zeros = torch.zeros_like(reward)
    return gae(reward, zeros, _where_cut(next_value, truncated), terminated, truncated, gamma, 1.0)


@torch.no_grad()
def rewards_to_go(reward: Tensor, starts: Tensor, gamma: float) -> Tensor:
    """G_t = r_t + gamma G_{t+1} to the end of each episode, `(N,)`, of episodes of any length laid end to end.

    `starts` `(E,)` are their first rows. Nothing is added for what comes after a time limit.
    """
    lengths = torch.cat([starts[1:], torch.tensor([len(reward)])]) - starts
    total = reward.to(torch.float64, copy=True)
    for step in range(int(lengths.max()) - 2, -1, -1):  # all episodes at once, from the end
        rows = starts[lengths > step + 1] + step
        total[rows] += gamma * total[rows + 1]
    return total.to(reward.dtype)


def _where_cut(next_value: Tensor, truncated: Tensor) -> Tensor:
    """`next_value` where the sum stops without a terminal state, 0 where later rewards stand in for it."""
    cut = truncated.clone()
    cut[-1] = 1.0
    return next_value * cut


def standardise(x: Tensor, epsilon: float = 1e-8) -> Tensor:
    """(x - mean) / std along the last dimension; 0 where all are alike, or there is but one.

    Compared as they are: the mean of equal numbers may be another number, and their deviation as small as its error.
    """
    if x.shape[-1] < 2:
        return torch.zeros_like(x)
    centred = x - x.mean(-1, keepdim=True)
    alike = (x == x[..., :1]).all(-1, keepdim=True)
    return (centred / (x.std(-1, keepdim=True) + epsilon)).masked_fill(alike, 0.0)
