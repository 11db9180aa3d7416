"""A conditional variational autoencoder of actions given observations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from palaestra.nets.encoders import make_encoder
from palaestra.nets.mlp import MLP

LOG_STD = (-4.0, 15.0)
"""Limits of the log-deviation of the code, as in the code released with BCQ (Fujimoto et al. 2019) and after it."""


class ConditionalVAE(nn.Module):
    """z ~ N(mean(s, a), std(s, a)), a' = tanh(decoder(s, z)); the code z has twice as many dimensions as the action."""

    def __init__(
        self,
        observation_space: Any,
        action_size: int,
        network: Sequence[int] = (750, 750),
        activation: str = "relu",
        standardise: bool = False,
    ):
        super().__init__()
        self.encoder = make_encoder(observation_space, standardise)
        self.code = 2 * action_size
        features: int = self.encoder.size  # type: ignore[assignment]
        self.inwards = MLP(features + action_size, network, 2 * self.code, activation=activation)
        self.outwards = MLP(features + self.code, network, action_size, activation=activation)

    def forward(self, obs: Any, action: Tensor, noise: Tensor, frozen: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """The action of a code drawn for `action` by standard normal `noise` `(B, 2m)`, and the code's mean and log-deviation.

        `frozen` lets a gradient through to `action` only.
        """
        features = self.encoder(obs)
        mean, log_std = self.inwards(torch.cat([features, action], -1), frozen).chunk(2, -1)
        log_std = log_std.clamp(*LOG_STD)
        code = torch.addcmul(mean, log_std.exp(), noise)
        return torch.tanh(self.outwards(torch.cat([features, code], -1), frozen)), mean, log_std

    def normal_noise(self, batch: int, generator: torch.Generator) -> Tensor:
        """Standard normal noise for codes, `(B, 2m)`."""
        return torch.randn(batch, self.code, generator=generator)
