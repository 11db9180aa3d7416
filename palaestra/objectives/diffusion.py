"""Denoising diffusion as EDM states it (Karras et al. 2022, arXiv 2206.00364): D(x; sigma) is what noisy data x were before.

`deviation` is the data's own, sigma_data. Levels are `(B,)`, data `(B, …)`.
"""

from __future__ import annotations

import torch
from torch import Tensor


def preconditioning(sigma: Tensor, deviation: float = 1.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """c_skip, c_out, c_in and c_noise of D = c_skip x + c_out F(c_in x, c_noise) (table 1), each of the shape of `sigma`.

    They keep the inputs and the targets of the network F at unit variance at every level.
    """
    total = sigma.square() + deviation**2
    return deviation**2 / total, sigma * deviation * total.rsqrt(), total.rsqrt(), sigma.log() / 4


def loss_weight(sigma: Tensor, deviation: float = 1.0) -> Tensor:
    """(sigma^2 + sigma_data^2) / (sigma sigma_data)^2, which is 1 / c_out^2: F is learnt alike at every level (table 1)."""
    return (sigma.square() + deviation**2) / (sigma * deviation).square()


def denoising_loss(denoised: Tensor, clean: Tensor, sigma: Tensor, deviation: float = 1.0) -> Tensor:
    """mean[ weight(sigma) (D(x + sigma eps; sigma) - x)^2 ] over all elements of `(B, …)`, one level `(B,)` each (eq. 2)."""
    error = (denoised - clean).square().flatten(1).mean(1)
    return (loss_weight(sigma, deviation) * error).mean()


def training_levels(noise: Tensor, mean: float = -1.2, deviation: float = 1.2) -> Tensor:
    """Log-normal noise levels from standard normal `noise` `(B,)`: ln sigma ~ N(mean, deviation^2) (table 1)."""
    return (mean + deviation * noise).exp()


def sampling_levels(steps: int, smallest: float = 0.002, largest: float = 80.0, rho: float = 7.0) -> Tensor:
    """`steps` levels that fall from the largest to the smallest, evenly spaced after taking the rho-th root, and 0 at the end
    (eq. 5): `(steps + 1,)` in float64."""
    share = torch.linspace(0, 1, steps, dtype=torch.float64)
    first, last = largest ** (1 / rho), smallest ** (1 / rho)
    return torch.cat([(first + share * (last - first)) ** rho, torch.zeros(1, dtype=torch.float64)])
