"""Value losses and their targets."""

from __future__ import annotations

import math

import torch
from torch import Tensor

mse_loss, SUM = torch.ops.aten.mse_loss.default, 2  # less overhead than torch.nn.functional's


@torch.no_grad()
def td_target(reward: Tensor, next_value: Tensor, terminated: Tensor, gamma: float) -> Tensor:
    """One-step target r + gamma (1 - terminated) V(s'), `(B,)`; a time limit does not stop the bootstrap."""
    return reward + gamma * (1 - terminated) * next_value


def soft_value(q: Tensor, logp: Tensor, alpha: Tensor | float) -> Tensor:
    """V(s) = Q(s, a) - alpha log pi(a|s) for a ~ pi (Haarnoja et al. 2018, eq. 3)."""
    return q - alpha * logp


@torch.no_grad()
def greedy_value(q: Tensor, chooser: Tensor, action_mask: Tensor | None = None) -> Tensor:
    """V(s) = Q(s, argmax_a chooser(s, a)) over the allowed actions, `(B,)` from two `(B, n)`.

    Q-learning (Mnih et al. 2015) chooses by `q` itself, double Q-learning (van Hasselt et al. 2016, eq. 4) by the online
    network. Where no action is allowed, as after a terminal step, the value is that of some action and must not be used.
    """
    if action_mask is not None:
        chooser = chooser.masked_fill(~action_mask.bool(), -torch.inf)
    return q.gather(-1, chooser.argmax(-1, keepdim=True)).squeeze(-1)


def likely_actions(logits: Tensor, threshold: float) -> Tensor:
    """Where G(a|s) / max_b G(b|s) > threshold for G = softmax of `logits`, `(B, n)` (Fujimoto et al. 2019, 1910.01708, eq. 13).

    0 lets every action with finite logits pass, a threshold just below 1 the likeliest only.
    """
    return logits - logits.amax(-1, keepdim=True) > (math.log(threshold) if threshold > 0 else -math.inf)


def taken(values: Tensor, action: Tensor) -> Tensor:
    """The values `(B, n)` of the actions `(B,)` that were taken, `(B,)`."""
    return values.gather(-1, action.unsqueeze(-1)).squeeze(-1)


def squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """1/2 (prediction - target)^2, averaged over the batch and summed over any leading dimension of copies.

    `prediction` `(B,)` or `(P, B)`, `target` `(B,)`, already detached.
    """
    return mse_loss(prediction, target.expand_as(prediction), SUM) * (0.5 / target.shape[-1])


def huber_error(prediction: Tensor, target: Tensor, delta: float) -> Tensor:
    """mean of 1/2 e^2 where |e| < delta, else delta (|e| - delta/2), e = prediction - target, `(B,)` each (Huber 1964).

    The mean is over the last dimension, so that of `P` learners `(P, B)` each has its own, `(P,)`.
    """
    return torch.nn.functional.huber_loss(prediction, target, reduction="none", delta=delta).mean(-1)


def clipped_value(
    value: Tensor, old_value: Tensor, target: Tensor, clip: float, weight: Tensor | None = None
) -> Tensor:
    """1/2 mean max( (V - R)^2, (V_old + clip(V - V_old, ±clip) - R)^2 ): the value loss of OpenAI Baselines' PPO.

    In place of a mean over the steps, `weight` `(B,)` gives their weighted sum.
    """
    limited = old_value + (value - old_value).clamp(-clip, clip)
    worse = torch.maximum((value - target).square(), (limited - target).square())
    return 0.5 * (worse.mean() if weight is None else (worse * weight).sum())
