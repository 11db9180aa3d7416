"""A policy for every step of an episode of known length, all of them one batched network."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from palaestra.core import spaces
from palaestra.core.errors import PalaestraError, Unsupported, require
from palaestra.core.policy import Acted, Policy
from palaestra.nets.distributions import DiagGaussian
from palaestra.nets.encoders import make_encoder
from palaestra.nets.mlp import MLP
from palaestra.nets.stack import Rows

LONGEST = 10_000
"""Steps that a file may say an episode has."""


class StepwiseGaussian(Policy):
    """pi_h for h = 0 … horizon - 1, each N(mean_h(s), std_h^2); the memory of an episode is its step h.

    Actions are in the units of datasets, a box scaled to [-1, 1], but go beyond it: what lies outside reaches the environment as
    it is.
    """

    def __init__(
        self,
        observation_space: Any,
        action_space: Any,
        horizon: int = 1,
        network: tuple[int, ...] = (16, 16),
        activation: str = "tanh",
    ):
        super().__init__(observation_space, action_space)
        require(1 <= horizon <= LONGEST, f"horizon must be 1 to {LONGEST}, got {horizon}")
        self.horizon, self.network, self.activation = horizon, network, activation
        self.box = spaces.ActionBox(action_space)
        self.encoder = rows_of(observation_space)
        self.mean = MLP(self.encoder.size, network, self.box.size, activation=activation, copies=horizon)
        quieten(self.mean)
        self.log_std = nn.Parameter(torch.zeros(horizon, 1, self.box.size))

    def distribution(self, obs: Any, twice: bool = False) -> DiagGaussian:
        """pi_h at the observations `(H, B, …)` of each step, `(H, B, m)`; `twice` if it is differentiated twice."""
        mean = self.mean.twice_differentiable if twice else self.mean
        return DiagGaussian(mean(self.encoder(obs)), self.log_std)

    def initial_carry(self, batch: int, generator: torch.Generator | None = None) -> Tensor:
        """The first step of `batch` episodes, `(B,)`."""
        return torch.zeros(batch, dtype=torch.int64)

    def act(
        self,
        obs: Any,
        carry: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
        greedy: bool = False,
        action_mask: Any = None,
    ) -> Acted:
        """Act at the steps `carry` `(B,)`; without a memory, as at the first one."""
        features = self.encoder.encoder(obs)
        step = self.initial_carry(features.shape[0]) if carry is None else carry
        if bool((step >= self.horizon).any()):
            raise PalaestraError(f"the policy is one of {self.horizon} steps, but an episode goes on after them")
        dist = DiagGaussian(self.mean.rowwise(features, step), self.log_std[step, 0])
        if greedy:
            return Acted(dist.mode(), None, step + 1)
        action = dist.sample(generator)
        return Acted(action, dist.logp(action), step + 1)

    def env_action(self, action: Tensor) -> np.ndarray:
        scaled = action.cpu().numpy() * self.box.half + self.box.center
        return scaled.reshape(-1, *self.box.shape)

    def settings(self) -> dict[str, Any]:
        return {"horizon": self.horizon, "network": list(self.network), "activation": self.activation}


def rows_of(observation_space: Any) -> Rows:
    """The encoder of observations `(H, B, …)`.

    Raises:
        Unsupported: it would have parameters of its own.
    """
    encoder = make_encoder(observation_space)
    if list(encoder.parameters()):
        raise Unsupported(f"a network for every step needs vectors or discrete observations, not {observation_space}")
    return Rows(encoder)


@torch.no_grad()
def quieten(net: MLP) -> None:
    """Begin with a tenth of the last layer's weights and none of its biases, as the released code of HNPG does."""
    net.weights[-1].mul_(0.1)
    net.biases[-1].zero_()
