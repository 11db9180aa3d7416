"""Denoisers, and samplers that turn noise into data with them (EDM, Karras et al. 2022, arXiv 2206.00364)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from palaestra.core.errors import require
from palaestra.objectives.diffusion import preconditioning, sampling_levels

Denoise = Callable[[Tensor, Tensor], Tensor]
"""(x `(B, …)`, sigma `(B,)`) -> the clean data that x is expected to be a noisy version of."""
Intervention = Callable[[int, Tensor, Tensor], Tensor]
"""(i, x, sigma) -> what takes x's place at the beginning of step i: guidance, or parts of x that are known."""


class Denoiser(nn.Module):
    """D(x; sigma) = c_skip x + c_out F(c_in x, c_noise), for a network F `(x (B, …), time (B,)) -> (B, …)`."""

    def __init__(self, net: nn.Module, deviation: float = 1.0):
        super().__init__()
        self.net, self.deviation = net, deviation

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        skip, out, inner, time = preconditioning(sigma, self.deviation)
        skip, out, inner = (c.view(-1, *[1] * (x.dim() - 1)) for c in (skip, out, inner))
        return skip * x + out * self.net(inner * x, time)


@dataclass(frozen=True)
class GuidanceStrength:
    """The factor of guidance at step i of N: scale * [(1 - i / N) + bump * sin(pi (i + 1) / N)], and 0 at the last step.

    Falls with the noise, so that the last steps repair what guidance did (Jackson et al., arXiv 2404.06356, released code).
    """

    scale: float
    bump: float = 0.3

    def __call__(self, i: int, steps: int) -> float:
        if i >= steps - 1:
            return 0.0
        return self.scale * ((1 - i / steps) + self.bump * math.sin(math.pi * (i + 1) / steps))


@dataclass(frozen=True)
class EDMSampler:
    """From noise to data in `steps` steps of Heun's method (Karras et al. 2022, algorithm 2), or of Euler's.

    Churn adds fresh noise at the levels in `churn_range` before each step there; 0 makes the sampler deterministic.

    Raises:
        BadSetting: fewer than 2 steps, or levels that do not fall.
    """

    steps: int = 256
    smallest: float = 0.002
    largest: float = 80.0
    rho: float = 7.0
    churn: float = 80.0
    churn_range: tuple[float, float] = (0.05, 50.0)
    churn_noise: float = 1.003
    heun: bool = True

    def __post_init__(self) -> None:
        require(self.steps >= 2, f"sampling takes at least 2 steps, got {self.steps}")
        require(0 < self.smallest < self.largest, f"levels must fall from {self.largest} to {self.smallest}, above 0")
        require(self.churn >= 0, f"churn must be >= 0, got {self.churn}")

    @torch.no_grad()
    def __call__(
        self,
        denoise: Denoise,
        noise: Tensor,
        generator: torch.Generator | None = None,
        intervene: Intervention | None = None,
    ) -> Tensor:
        """Data `(B, …)` from standard normal `noise` `(B, …)`; `generator` draws what churn adds."""
        levels = sampling_levels(self.steps, self.smallest, self.largest, self.rho).tolist()
        x = levels[0] * noise
        for i, (sigma, following) in enumerate(pairwise(levels)):
            if intervene is not None:
                x = intervene(i, x, _level(x, sigma))
            raised = sigma * (1 + self._gamma(sigma))
            if raised > sigma:
                fresh = torch.randn(x.shape, generator=generator, dtype=x.dtype)
                x = x + self.churn_noise * math.sqrt(raised**2 - sigma**2) * fresh
            slope = (x - denoise(x, _level(x, raised))) / raised
            ahead = x + (following - raised) * slope
            if self.heun and following > 0:
                slope = (slope + (ahead - denoise(ahead, _level(x, following))) / following) / 2
                ahead = x + (following - raised) * slope
            x = ahead
        return x

    def _gamma(self, sigma: float) -> float:
        low, high = self.churn_range
        return min(self.churn / self.steps, math.sqrt(2) - 1) if low <= sigma <= high else 0.0


def _level(x: Tensor, sigma: float) -> Tensor:
    return torch.full((len(x),), sigma, dtype=x.dtype)
