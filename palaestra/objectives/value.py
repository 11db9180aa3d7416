"""Value losses and their targets."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def td_target(reward: Tensor, next_value: Tensor, terminated: Tensor, gamma: float) -> Tensor:
    """One-step target r + gamma (1 - terminated) V(s'), `(B,)`; a time limit does not stop the bootstrap."""
    return reward + gamma * (1 - terminated) * next_value


def soft_value(q: Tensor, logp: Tensor, alpha: Tensor | float) -> Tensor:
    """V(s) = Q(s, a) - alpha log pi(a|s) for a ~ pi (Haarnoja et al. 2018, eq. 3)."""
    return q - alpha * logp


def squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """1/2 (prediction - target)^2, averaged over the batch and summed over any leading dimension of copies.

    `prediction` `(B,)` or `(P, B)`, `target` `(B,)`, already detached.
    """
    loss = 0.5 * (prediction - target).square().mean(-1)
    return loss if loss.dim() == 0 else loss.sum()


def clipped_value(value: Tensor, old_value: Tensor, target: Tensor, clip: float) -> Tensor:
    """1/2 mean max( (V - R)^2, (V_old + clip(V - V_old, ±clip) - R)^2 ): the value loss of OpenAI Baselines' PPO."""
    limited = old_value + (value - old_value).clamp(-clip, clip)
    return 0.5 * torch.maximum((value - target).square(), (limited - target).square()).mean()
