"""Policy losses: tensors in, a loss out. They know neither robots nor tokens.

All take log-probabilities `(B,)` and average over the `B` steps; a `mask` `(B,)` restricts the mean to chosen steps. Where a loss
is made of `mean` alone, `(H, B)` gives the losses `(H,)` of `H` policies.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from palaestra.objectives.autograd import once_differentiable


def mean(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """The mean over the steps, the last dimension, with mask 1; a mask of other numbers weights them."""
    return x.mean(-1) if mask is None else (x * mask).sum(-1) / mask.sum(-1).clamp(min=1)


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
    step_size: Tensor | float,
    mask: Tensor | None = None,
) -> Tensor:
    """One mirror-descent step from pi_k (Tomar et al. 2020): -mean[ pi/pi_k A ] + 1/t_k mean[ D(pi, pi_k) ].

    `divergence` `(B,)` is KL(pi || pi_k) or another Bregman divergence at each state, the *new* policy first.
    """
    return surrogate(logp, old_logp, advantage, mask) + mean(divergence, mask) / step_size


def mirror_descent_off_policy(
    log_new: Tensor, log_old: Tensor, q: Tensor, step_size: Tensor | float, alpha: float, index: float = 1.0
) -> Tensor:
    """The same step from replayed states with a ~ pi reparameterised (Tomar et al. 2020), all inputs `(B,)`:

    mean[ 1/t log_q pi(a|s) + q (alpha - 1/t) log_q pi_k(a|s) - Q(s, a) ], with `log_new` = log_q pi, `log_old` = log_q pi_k
    and `index` the Tsallis q. The factor q is that of the gradient of the Tsallis entropy. Where alpha = 1/t the
    second term vanishes and, for q = 1, soft actor-critic's loss remains.
    """
    c = 1 / step_size
    return (c * log_new + index * (alpha - c) * log_old - q).mean()


def ppo_clip(
    logp: Tensor,
    old_logp: Tensor,
    advantage: Tensor,
    clip: float | tuple[float, float],
    mask: Tensor | None = None,
    *,
    weight: Tensor | None = None,
    cap: float | None = None,
) -> tuple[Tensor, Tensor]:
    """The clipped surrogate (Schulman et al. 2017, eq. 7): -mean min( r A, clip(r, 1-eps, 1+eps) A ), and r = pi/pi_old.

    `clip` is eps, or (eps_low, eps_high) for a range that is wider upwards (Yu et al. 2025, eq. 10). In place of a mean over the
    steps, `weight` `(B,)` gives their weighted sum: how a batch of segments is averaged (`objectives.segments`). `cap` c bounds
    the loss of steps with A < 0 by -c A (dual clip, Ye et al. 2020, eq. 4).
    """
    if weight is None:
        weight = torch.full_like(logp, 1 / logp.numel()) if mask is None else mask / mask.sum().clamp(min=1)
    low, high = clip if isinstance(clip, tuple) else (clip, clip)
    return _ClippedSurrogate.apply(logp, old_logp, advantage, low, high, weight, cap)


class _ClippedSurrogate(torch.autograd.Function):
    """The loss together with its gradient, -w r A where the clip does not bind and 0 where it does: one node of the
    graph in place of nine, which is what a small policy's update mostly costs."""

    @staticmethod
    def forward(
        ctx: Any,
        logp: Tensor,
        old_logp: Tensor,
        advantage: Tensor,
        low: float,
        high: float,
        weight: Tensor,
        cap: float | None,
    ) -> tuple[Tensor, Tensor]:
        ratio = (logp - old_logp).exp_()
        plain = ratio * advantage
        clipped = ratio.clamp(1 - low, 1 + high).mul_(advantage)
        each, bound = torch.minimum(plain, clipped), clipped < plain
        if cap is not None:
            least = torch.where(advantage < 0, cap * advantage, -torch.inf)
            each, bound = torch.maximum(each, least), bound | (each < least)
        loss, gradient = -(each * weight).sum(), plain.masked_fill_(bound, 0.0).mul_(-weight)
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(ratio)
        return loss, ratio

    @staticmethod
    def backward(ctx: Any, g_loss: Tensor, g_ratio: Tensor) -> Any:
        once_differentiable()
        return g_loss * ctx.saved_tensors[0], None, None, None, None, None, None


def ratio_metrics(ratio: Tensor, clip: float, mask: Tensor | None = None) -> dict[str, Tensor]:
    """How far the policy has moved: the estimate mean[ r - 1 - log r ] of KL(old || new), and the share of clipped steps."""
    return {
        "policy/kl": mean(ratio - 1 - ratio.log(), mask),
        "policy/clipped": mean(((ratio - 1).abs() > clip).float(), mask),
    }


def entropy_regularised(logp: Tensor, q: Tensor, alpha: Tensor) -> Tensor:
    """The soft actor-critic policy loss (Haarnoja et al. 2018, eq. 9): mean[ alpha log pi(a|s) - Q(s, a) ]."""
    return (alpha * logp - q).mean()


def temperature(log_alpha: Tensor, logp: Tensor, target_entropy: float) -> Tensor:
    """The dual loss of the entropy constraint (eq. 18): mean[ -alpha (log pi + H) ], averaged, never summed, over the batch."""
    return -(log_alpha.exp() * (logp.detach() + target_entropy)).mean()


def log_temperature(log_alpha: Tensor, logp: Tensor, target_entropy: float) -> Tensor:
    """`temperature` with log alpha in place of alpha, as DSAC-T has it: its gradient lacks the factor alpha."""
    return -(log_alpha * (logp.detach() + target_entropy)).mean()
