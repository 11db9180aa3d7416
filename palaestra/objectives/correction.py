"""Correction for steps that were drawn from another distribution than the policy that is trained: by another program, whose
rounding is another, or from a distribution with its tail cut off."""

from __future__ import annotations

import torch
from torch import Tensor

from palaestra.objectives.policy import mean


def truncated_ratio(logp: Tensor, sampled_logp: Tensor, bound: float) -> Tensor:
    """min( pi(a|s) / mu(a|s), c ) of each step, `(B,)`, a constant: its weight in a loss (Ionides 2008).

    `logp` is of the trainer before any update, pi, and `sampled_logp` of what drew the action, mu. Weighted so, a mean under mu
    is one under pi, but for steps that c bounds: a loss of variance for a bias towards what mu favours.
    """
    return (logp - sampled_logp).detach().exp().clamp(max=bound)


def mismatch(logp: Tensor, sampled_logp: Tensor, bound: float, mask: Tensor | None = None) -> dict[str, Tensor]:
    """How far the two distributions are apart, over steps `(B,)`: the mean of |log pi - log mu|, and the share of steps that the
    bound binds."""
    difference = (logp - sampled_logp).detach()
    return {
        "sampler/difference": mean(difference.abs(), mask),
        "sampler/truncated": mean((difference > torch.tensor(bound).log()).float(), mask),
    }
