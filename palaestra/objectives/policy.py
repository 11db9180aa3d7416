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


def surrogate(logp: Tensor, old_logp: Tensor, advantage: Tensor, mask: Tensor | None = None) -> Tensor:
    """Minus the linearised objective (Schulman et al. 2015, eq. 14): -mean[ pi(a|s)/pi_old(a|s) A ]."""
    return -mean((logp - old_logp).exp() * advantage, mask)


def mirror_descent(
    logp: Tensor,
    old_logp: Tensor,
    advantage: Tensor,
    divergence: Tensor,
    step_size: float,
    mask: Tensor | None = None,
) -> Tensor:
    """One mirror-descent step from pi_k (Tomar et al. 2020): -mean[ pi/pi_k A ] + 1/t_k mean[ D(pi, pi_k) ].

    `divergence` `(B,)` is KL(pi || pi_k) or another Bregman divergence at each state, the *new* policy first.
    """
    return surrogate(logp, old_logp, advantage, mask) + mean(divergence, mask) / step_size


def mirror_descent_off_policy(
    log_new: Tensor, log_old: Tensor, q: Tensor, step_size: float, alpha: float, index: float = 1.0
) -> Tensor:
    """The same step from replayed states with a ~ pi reparameterised (Tomar et al. 2020), all inputs `(B,)`:

    mean[ 1/t log_q pi(a|s) + q (alpha - 1/t) log_q pi_k(a|s) - Q(s, a) ], with `log_new` = log_q pi, `log_old` = log_q pi_k
    and `index` the Tsallis q. The factor q is that of the gradient of the Tsallis entropy. Where alpha = 1/t the
    second term vanishes and, for q = 1, soft actor-critic's loss remains.
    """
    c = 1 / step_size
    return (c * log_new + index * (alpha - c) * log_old - q).mean()


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


def log_temperature(log_alpha: Tensor, logp: Tensor, target_entropy: float) -> Tensor:
    """`temperature` with log alpha in place of alpha, as DSAC-T has it: its gradient lacks the factor alpha."""
    return -(log_alpha * (logp.detach() + target_entropy)).mean()
