"""Losses of critics that predict a Gaussian over the return, N(q, std^2).

Shapes: `q` and `std` `(P, B)` for `P` critics (or `(B,)`); targets `(B,)` or `(P, B)`, already detached; `scale` and `bound`
a number or `(P, 1)`. Losses average over the batch and sum over the critics. The targets of mean and deviation are separate
arguments, so that the mean may regress on an expectation and the deviation on a sample.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

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
