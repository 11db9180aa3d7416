"""A U-Net over time: residual detail at every resolution, from a few steps to the whole trajectory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from palaestra.core.errors import require

Norm = type[nn.GroupNorm]
GROUPS = 8
"""Groups of channels that are normalised together."""
PERIOD = 10_000.0
"""The longest period of the time embedding."""


class TemporalUNet(nn.Module):
    """`(B, T, columns)` trajectories and times `(B,)` to `(B, T, columns)`, for any T of at least 2^(levels - 1) steps.

    `channels` are those of each level, from the finest; a level has half the resolution of the one above. Groups of channels are
    normalised over the trajectory or, with `step_norm`, at each step by itself. The network of policy-guided diffusion
    (Jackson et al., arXiv 2404.06356, released code).

    Raises:
        BadSetting: numbers of channels that the normalisation or the time embedding cannot divide.
    """

    def __init__(self, columns: int, channels: Sequence[int], step_norm: bool = False):
        super().__init__()
        fits = len(channels) > 0 and channels[0] % 16 == 0 and all(c > 0 and c % GROUPS == 0 for c in channels)
        require(fits, f"channels must be multiples of {GROUPS}, the first of 16, got {' '.join(map(str, channels))}")
        self.levels = len(channels)
        self.time = _TimeEmbedding(channels[0])
        inward, outward = pairwise((columns, *channels)), list(pairwise(channels))[::-1]
        norm = _StepNorm if step_norm else nn.GroupNorm
        self.inward = nn.ModuleList(_Down(fan_in, width, channels[0], norm) for fan_in, width in inward)
        self.outward = nn.ModuleList(_Up(below, width, channels[0], norm) for width, below in outward)
        self.project = nn.Conv1d(channels[0], columns, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        t = F.silu(self.time(time))
        x = x.mT
        details: list[Tensor] = []
        for i, block in enumerate(self.inward):
            x = block(x if i == 0 else F.max_pool1d(x, 2), t)
            details.append(x)
        for block, detail in zip(self.outward, details[-2::-1], strict=True):
            x = block(x, detail, t)
        return self.project(x).mT


class _TimeEmbedding(nn.Module):
    frequencies: Tensor

    def __init__(self, width: int):
        super().__init__()
        half = width // 8
        spacing = math.log(PERIOD) / (half - 1)
        self.register_buffer("frequencies", torch.exp(-spacing * torch.arange(half)), persistent=False)
        self.net = nn.Sequential(nn.Linear(2 * half, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, time: Tensor) -> Tensor:
        angle = time.unsqueeze(-1) * self.frequencies
        return self.net(torch.cat([angle.sin(), angle.cos()], -1))


class _StepNorm(nn.GroupNorm):
    """`(B, C, T)`, groups of channels normalised at each step by itself."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.mT.flatten(0, 1)).unflatten(0, (x.shape[0], x.shape[2])).mT


class _Conv(nn.Module):
    """A convolution that keeps the length, with the time added where it is given, normalised, rectified."""

    def __init__(self, fan_in: int, width: int, norm: Norm, kernel: int = 3, time: int | None = None):
        super().__init__()
        self.padding = (kernel - 1) // 2, kernel // 2
        self.conv = nn.Conv1d(fan_in, width, kernel)
        self.time = nn.Linear(time, width) if time is not None else None
        self.norm = norm(GROUPS, width, eps=1e-6)

    def forward(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        x = self.conv(F.pad(x, self.padding))
        if self.time is not None:
            x = x + self.time(t).unsqueeze(-1)
        return F.relu(self.norm(x))


class _Down(nn.Module):
    def __init__(self, fan_in: int, width: int, time: int, norm: Norm):
        super().__init__()
        self.first, self.second = _Conv(fan_in, width, norm, time=time), _Conv(width, width, norm)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.second(self.first(x, t))


class _Up(nn.Module):
    def __init__(self, below: int, width: int, time: int, norm: Norm):
        super().__init__()
        self.rise = _Conv(below, width, norm, kernel=2, time=time)
        self.first, self.second = _Conv(2 * width, width, norm), _Conv(width, width, norm)

    def forward(self, x: Tensor, detail: Tensor, t: Tensor) -> Tensor:
        x = self.rise(F.interpolate(x, size=detail.shape[-1], mode="nearest-exact"), t)
        return self.second(self.first(torch.cat([x, detail], 1)))
