"""A reward for one step, from what was seen and done."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from palaestra.nets.encoders import make_encoder
from palaestra.nets.mlp import Network, make_net


class StepReward(nn.Module):
    """r(s, a) `(B,)` of encoded observations and of actions in the units of policies: a box in [-1, 1], indices from 0."""

    def __init__(
        self, observation_space: Any, action_space: Any, network: Network = (256, 256), activation: str = "relu"
    ):
        super().__init__()
        self.seen, self.done = make_encoder(observation_space), make_encoder(action_space)
        self.net = make_net(self.seen.size + self.done.size, 1, network, activation=activation)

    def forward(self, obs: Any, action: Tensor) -> Tensor:
        return self.net(torch.cat([self.seen(obs), self.done(action)], -1)).squeeze(-1)
