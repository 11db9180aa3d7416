"""Telling an expert's state-action pairs from a learner's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from palaestra.nets.encoders import make_encoder
from palaestra.nets.mlp import MLP, Network, make_net

BOUND = 0.999
"""Actions are clipped to this before they are compared: an expert's may lie on the bounds of the box, where a squashed policy's
never do, and nothing else would have to be looked at."""


class Discriminator(nn.Module):
    """D(s, a) `(B,)`, large where a pair looks like the expert's; `bounded` ends in a tanh.

    With `absorbing` there is one more state, the one that episodes which ended stay in: all its inputs are 0, but for one
    of its own that is 1.
    """

    def __init__(
        self,
        observation_space: Any,
        action_size: int,
        network: Network = (256, 256),
        activation: str = "tanh",
        bounded: bool = False,
        absorbing: bool = False,
        standardise: bool = False,
    ):
        super().__init__()
        self.encoder = make_encoder(observation_space, standardise)
        self.bounded, self.absorbing = bounded, absorbing
        self.inputs = int(self.encoder.size) + action_size + int(absorbing)  # type: ignore[arg-type]
        self.net = make_net(self.inputs, 1, network, activation=activation, init="orthogonal")

    def features(self, obs: Any, action: Tensor, mask: Tensor | None = None) -> Tensor:
        """What pairs are judged by, `(B, inputs)`; `mask` `(B,)` is 0 where a row stands for the absorbing state."""
        x = torch.cat([self.encoder(obs), action.clamp(-BOUND, BOUND)], -1)
        if not self.absorbing:
            return x
        alive = x.new_ones(len(x), 1) if mask is None else mask.unsqueeze(-1)
        return torch.cat([alive * x, 1 - alive], -1)

    def judge(self, x: Tensor, twice: bool = False) -> Tensor:
        """D at features `(B, inputs)`; `twice` goes through operations that can be differentiated twice."""
        net = self.net.twice_differentiable if twice and isinstance(self.net, MLP) else self.net
        d = net(x).squeeze(-1)
        return torch.tanh(d) if self.bounded else d

    def forward(self, obs: Any, action: Tensor) -> Tensor:
        return self.judge(self.features(obs, action))

    def at_absorbing(self) -> Tensor:
        """D at the absorbing state, `(1,)`."""
        return self.judge(F.one_hot(torch.tensor([self.inputs - 1]), self.inputs).float())
