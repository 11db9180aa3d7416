"""From an encoded observation, whatever its space, to one feature vector."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from palaestra.core import spaces
from palaestra.core.errors import Unsupported

IMAGE_FEATURES = 256


class Flat(nn.Module):
    """Float vectors (and multi-binary ones), flattened to `(B, n)`."""

    def __init__(self, space: Any):
        super().__init__()
        self.size = int(np.prod(space.shape))

    def forward(self, obs: Tensor) -> Tensor:
        return obs if obs.dim() == 2 and obs.is_floating_point() else obs.flatten(1).float()


class OneHot(nn.Module):
    """Discrete and multi-discrete values, each one-hot."""

    def __init__(self, space: Any):
        super().__init__()
        self.counts = [int(space.n)] if spaces.kind(space) == "discrete" else [int(n) for n in space.nvec.flatten()]
        self.size = sum(self.counts)

    def forward(self, obs: Tensor) -> Tensor:
        columns = obs.reshape(len(obs), -1)
        return torch.cat([F.one_hot(columns[:, i], n).float() for i, n in enumerate(self.counts)], -1)


class Conv(nn.Module):
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
            channels = out
        self.conv = nn.Sequential(*parts, nn.Flatten())
        with torch.no_grad():
            flat = self.conv(torch.zeros(1, layers and parts[0].in_channels, height, width)).shape[1]  # type: ignore[arg-type]
        self.project = nn.Sequential(nn.Linear(flat, IMAGE_FEATURES), nn.ReLU())
        self.size = IMAGE_FEATURES

    def forward(self, obs: Tensor) -> Tensor:
        x = obs.float() / 255.0
        return self.project(self.conv(x.permute(0, 3, 1, 2) if self.channels_last else x))


class Parts(nn.Module):
    """Dict and Tuple observations: every part encoded, the features joined."""

    def __init__(self, space: Any):
        super().__init__()
        self.parts = nn.ModuleDict({key: make_encoder(sub) for key, sub in spaces.children(space).items()})
        self.size = sum(int(part.size) for part in self.parts.values())  # type: ignore[arg-type]

    def forward(self, obs: dict[str, Any]) -> Tensor:
        return torch.cat([part(obs[key]) for key, part in self.parts.items()], -1)


def make_encoder(space: Any) -> nn.Module:
    """The encoder for a space; its `size` is the number of features."""
    name = spaces.kind(space)
    if name in ("dict", "tuple"):
        return Parts(space)
    if "discrete" in name:
        return OneHot(space)
    return Conv(space) if spaces.is_image(space) else Flat(space)
