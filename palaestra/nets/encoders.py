"""From an encoded observation, whatever its space, to one feature vector.

Rows are counted by `obs.shape[0]`, since `len(obs)` would fix the batch size of an exported graph.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from palaestra.core import spaces
from palaestra.core.errors import Unsupported

IMAGE_FEATURES = 256
CONSTANT = 1e-3
"""Added to deviations, so that a column that never changes is not blown up (Fujimoto and Gu 2021)."""


class Encoder(nn.Module):
    """Encoded observations in, `(B, size)` features out."""

    size: int

    def fit(self, obs: Any) -> None:
        """Take the statistics that vectors are standardised by, if they are, from `obs` `(N, …)`."""


class Flat(Encoder):
    """Float vectors (and multi-binary ones), flattened to `(B, n)` and, if so wanted, standardised by fixed statistics."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, space: Any, standardise: bool = False):
        super().__init__()
        self.size = int(np.prod(space.shape))
        self.standardise = standardise
        if standardise:
            self.register_buffer("mean", torch.zeros(self.size))
            self.register_buffer("deviation", torch.ones(self.size))

    def forward(self, obs: Tensor) -> Tensor:
        x = obs if obs.dim() == 2 and obs.is_floating_point() else obs.reshape(obs.shape[0], self.size).float()
        return (x - self.mean) / self.deviation if self.standardise else x

    def fit(self, obs: Tensor) -> None:
        if self.standardise:
            rows = obs.reshape(len(obs), self.size).double()
            self.mean.copy_(rows.mean(0))
            self.deviation.copy_(rows.std(0, unbiased=False) + CONSTANT)


class OneHot(Encoder):
    """Discrete and multi-discrete values, each one-hot."""

    starts: Tensor

    def __init__(self, space: Any):
        super().__init__()
        self.counts = [int(space.n)] if spaces.kind(space) == "discrete" else [int(n) for n in space.nvec.flatten()]
        self.size = sum(self.counts)
        starts = [sum(self.counts[:i]) for i in range(len(self.counts))]
        self.register_buffer("starts", torch.tensor(starts), persistent=False)

    def forward(self, obs: Tensor) -> Tensor:
        columns = obs.reshape(obs.shape[0], -1) + self.starts
        return torch.zeros(obs.shape[0], self.size, device=obs.device).scatter_(1, columns, 1.0)


class Conv(Encoder):
    """The small convolutional network of Mnih et al. (2015) for images of 36 x 36 and more, and a smaller one below."""

    def __init__(self, space: Any):
        super().__init__()
        shape = space.shape
        self.channels_last = (shape[-1] in (1, 3, 4) and shape[0] not in (1, 3, 4)) or shape[-1] < shape[0]
        channels, height, width = (shape[2], shape[0], shape[1]) if self.channels_last else shape
        if min(height, width) < 8:
            raise Unsupported(
                f"images of {height}x{width} are too small for the conv encoder; flatten them or give your own network"
            )
        layers = [(32, 8, 4), (64, 4, 2), (64, 3, 1)] if min(height, width) >= 36 else [(16, 3, 2), (32, 3, 2)]
        parts: list[nn.Module] = []
        for out, kernel, stride in layers:
            parts += [nn.Conv2d(channels, out, kernel, stride), nn.ReLU()]
            channels, height, width = out, (height - kernel) // stride + 1, (width - kernel) // stride + 1
        self.conv = nn.Sequential(*parts, nn.Flatten())
        self.project = nn.Sequential(nn.Linear(channels * height * width, IMAGE_FEATURES), nn.ReLU())
        self.size = IMAGE_FEATURES

    def forward(self, obs: Tensor) -> Tensor:
        x = obs.float() / 255.0
        return self.project(self.conv(x.permute(0, 3, 1, 2) if self.channels_last else x))


class Parts(Encoder):
    """Dict and Tuple observations: every part encoded, the features joined."""

    def __init__(self, space: Any, standardise: bool = False):
        super().__init__()
        parts = {key: make_encoder(sub, standardise) for key, sub in spaces.children(space).items()}
        self.keys = list(parts)  # a ModuleDict would refuse keys such as "pos.x" or "items"
        self.parts = nn.ModuleList(parts.values())
        self.size = sum(part.size for part in parts.values())

    def forward(self, obs: dict[str, Any]) -> Tensor:
        return torch.cat([part(obs[key]) for key, part in zip(self.keys, self.parts, strict=True)], -1)

    def fit(self, obs: dict[str, Any]) -> None:
        for key, part in zip(self.keys, self.parts, strict=True):
            part.fit(obs[key])


def make_encoder(space: Any, standardise: bool = False) -> Encoder:
    """The encoder for a space; with `standardise`, float vectors are standardised by what `fit` saw."""
    name = spaces.kind(space)
    if name == "text":
        raise Unsupported("Text spaces are not supported here; tasks in text are for language models")
    if name in ("dict", "tuple"):
        return Parts(space, standardise)
    if "discrete" in name:
        return OneHot(space)
    return Conv(space) if spaces.is_image(space) else Flat(space, standardise)
