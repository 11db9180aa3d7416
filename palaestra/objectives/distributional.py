"""Losses of critics that predict a distribution over the return: a Gaussian, N(q, std^2), or quantiles.

Shapes: `q` and `std` `(P, B)` for `P` critics (or `(B,)`); targets `(B,)` or `(P, B)`, already detached; `scale` and `bound`
a number or `(P, 1)`. Losses average over the batch and sum over the critics. The targets of mean and deviation are separate
arguments, so that the mean may regress on an expectation and the deviation on a sample.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from palaestra.objectives.autograd import once_differentiable

CACHED = 100_000
"""Numbers that are worked on together: more of them leave the processor's cache, which costs more than half the speed."""
HUBER = 50.0
"""Where the released loss turns from squared to absolute error, in units of return."""


@torch.no_grad()
def bounded_target(sample: Tensor, q: Tensor, bound: Tensor | float) -> Tensor:
    """q + clip(sample - q, ±bound), the sampled return held near the mean (Duan et al. 2023, arXiv 2310.05858)."""
    error = sample - q
    bound = torch.as_tensor(bound, dtype=q.dtype, device=q.device)
    return q + error.clamp(-bound, bound)


def gaussian_return(
    q: Tensor, std: Tensor, mean_target: Tensor, std_target: Tensor, scale: Tensor | float, epsilon: float
) -> Tensor:
    """The surrogate whose gradient is the paper's (arXiv 2310.05858):

    scale * mean[ -(mean_target - q)/(std^2 + eps) grad q - ((std_target - q)^2 - std^2)/(std^3 + eps) grad std ].

    With eps = 0, scale = 1 and both targets equal it is the gradient of the Gaussian's negative log-likelihood. `epsilon`
    is added to a squared and to a cubed return alike, as the paper has it. The value means nothing; only its gradient does.
    """
    with torch.no_grad():
        q_slope = (q - mean_target) / (std.square() + epsilon)
        std_slope = (std.square() - (std_target - q).square()) / (std.pow(3) + epsilon)
    return (scale * (q_slope * q + std_slope * std)).mean(-1).sum()


def gaussian_return_released(
    q: Tensor, std: Tensor, mean_target: Tensor, std_target: Tensor, scale: Tensor | float, epsilon: float
) -> Tensor:
    """The loss of the released DSAC-T code:

    mean[ rho (hub(q - mean_target) + std (std_^2 - hub(q_ - std_target)) / (std_ + eps)) ]

    with rho = clamp(scale/(std_^2 + eps), 0.1, 10); an underscore marks a constant and hub is the Huber loss, 1/2 x^2 for
    |x| < 50. Because of that half the deviation settles at sqrt(1/2) of the target's, where `gaussian_return` settles at
    the whole.
    """
    with torch.no_grad():
        rho = (scale / (std.square() + epsilon)).clamp(0.1, 10.0)
        std_slope = (std.square() - _huber(q, std_target)) / (std + epsilon)
    return (rho * (_huber(q, mean_target) + std * std_slope)).mean(-1).sum()


def _huber(q: Tensor, target: Tensor) -> Tensor:
    return F.huber_loss(q, target.expand_as(q), reduction="none", delta=HUBER)


def quantile_huber(quantiles: Tensor, target: Tensor, delta: float = 1.0, released: bool = False) -> Tensor:
    """sum_i mean_j |tau_i - 1(y_j < q_i)| L(y_j - q_i), averaged over the batch, with L Huber's loss and tau_i = (2i - 1) / 2N
    the midpoints that the N quantiles q_i stand for (Dabney et al. 2018, arXiv 1710.10044, eq. 10).

    `quantiles` `(B, N)`, `target` `(B, M)`, detached. `released` is the form in the code of arXiv 2111.04714: tau_j = j / M along
    the targets, the last one 1, so that no q_i stands for any quantile.
    """
    count = target.shape[-1] if released else quantiles.shape[-1]
    tau = torch.arange(1, count + 1, dtype=quantiles.dtype, device=quantiles.device)
    tau = tau / count if released else (2 * tau - 1) / (2 * count)
    return _QuantileHuber.apply(quantiles, target, tau, delta, released)


class _QuantileHuber(torch.autograd.Function):
    """`quantile_huber` together with its gradient: it has N x M errors a step, so that every pass over them counts.

    With c = clip(y - q, ±delta), L = c (y - q - c/2) and the gradient is -w c, w the weight of the error's sign. The mean of
    w x over the targets is taken as that of (1 - tau) x + (2 tau - 1) x 1(y > q), in which tau may follow the sum.
    """

    @staticmethod
    def forward(ctx: Any, quantiles: Tensor, target: Tensor, tau: Tensor, delta: float, released: bool) -> Tensor:
        def mean(x: Tensor, above: Tensor) -> Tensor:
            if released:
                return ((1 - tau) * x + (2 * tau - 1) * above).mean(-1)
            return (1 - tau) * x.mean(-1) + (2 * tau - 1) * above.mean(-1)

        slopes, losses = [], []
        rows = max(1, CACHED // (quantiles.shape[-1] * target.shape[-1]))
        for own, other in zip(quantiles.flatten(0, -2).split(rows), target.flatten(0, -2).split(rows), strict=True):
            error = other.unsqueeze(-2) - own.unsqueeze(-1)  # (rows, N, M)
            clipped = error.clamp(-delta, delta)
            above = clipped.clamp(min=0)
            slopes.append(mean(clipped, above))
            rest = error.sub_(clipped, alpha=0.5)
            losses.append(mean(clipped.mul_(rest), above.mul_(rest)).sum(-1))
        ctx.save_for_backward(torch.cat(slopes).view_as(quantiles).div_(-quantiles.shape[-2]))
        return torch.cat(losses).view(quantiles.shape[:-1]).mean(-1)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        once_differentiable()
        return g[..., None, None] * ctx.saved_tensors[0], None, None, None, None
