"""Policy losses: tensors in, (loss, metrics) out. They know neither robots nor tokens.

All take log-probabilities `(B,)` and average over the `B` steps; a `mask` `(B,)` restricts the mean to chosen steps.
"""

from __future__ import annotations

import torch
from torch import Tensor

Loss = tuple[Tensor, dict[str, Tensor]]


def mean(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """The mean over the steps with mask 1."""
    return x.mean() if mask is None else (x * mask).sum() / mask.sum().clamp(min=1)


def policy_gradient(logp: Tensor, advantage: Tensor, mask: Tensor | None = None) -> Tensor:
    """REINFORCE (Williams 1992): -mean[ A log pi(a|s) ]."""
    return -mean(advantage * logp, mask)


def ppo_clip(logp: Tensor, old_logp: Tensor, advantage: Tensor, clip: float, mask: Tensor | None = None) -> Loss:
    """The clipped surrogate (Schulman et al. 2017, eq. 7): -mean min( r A, clip(r, 1-eps, 1+eps) A ), r = pi/pi_old."""
    log_ratio = logp - old_logp
    ratio = log_ratio.exp()
    surrogate = torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)
    with torch.no_grad():
        metrics = {
            "policy/kl": mean((ratio - 1) - log_ratio, mask),
            "policy/clipped": mean(((ratio - 1).abs() > clip).float(), mask),
        }
    return -mean(surrogate, mask), metrics


def entropy_regularised(logp: Tensor, q: Tensor, alpha: Tensor) -> Tensor:
    """The soft actor-critic policy loss (Haarnoja et al. 2018, eq. 9): mean[ alpha log pi(a|s) - Q(s, a) ]."""
    return (alpha * logp - q).mean()


def temperature(log_alpha: Tensor, logp: Tensor, target_entropy: float) -> Tensor:
    """The dual loss of the entropy constraint (eq. 18): mean[ -alpha (log pi + H) ], averaged, never summed, over the batch."""
    return -(log_alpha.exp() * (logp.detach() + target_entropy)).mean()
