"""The epsilon-greedy policy of Q-learning methods: Discrete actions, any observation, action masks."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from palaestra.core import spaces
from palaestra.core.errors import Unsupported
from palaestra.core.policy import Acted, Policy
from palaestra.nets.encoders import make_encoder
from palaestra.nets.mlp import Network, make_net


class QNetwork(Policy):
    """Action values `(B, n)`; acts greedily, and while exploring takes a uniformly random action with chance `epsilon`.

    `epsilon` is a buffer, so that a schedule that changes it is saved with the policy. With `dueling`, state value and
    advantages come from two networks on the encoded observation, joined as Q = V + A - mean A (Wang et al. 2016, eq. 9).
    """

    epsilon: Tensor

    def __init__(
        self,
        observation_space: Any,
        action_space: Any,
        network: Network = (120, 84),
        activation: str = "relu",
        dueling: bool = False,
    ):
        super().__init__(observation_space, action_space)
        if spaces.kind(action_space) != "discrete":
            raise Unsupported(f"a Q-network needs one discrete action, but the action space is {action_space}")
        self.network, self.activation, self.dueling = network, activation, dueling
        self.count = int(action_space.n)
        self.encoder = make_encoder(observation_space)
        features = int(self.encoder.size)  # type: ignore[arg-type]
        self.net = make_net(features, self.count, network, activation=activation)
        self.value_net = make_net(features, 1, network, activation=activation) if dueling else None
        self.register_buffer("epsilon", torch.tensor(1.0))

    def forward(self, obs: Any) -> Tensor:
        """The value of every action, `(B, n)`."""
        features = self.encoder(obs)
        out = self.net(features)
        if self.value_net is None:
            return out
        return self.value_net(features) + out - out.mean(-1, keepdim=True)

    def act(
        self,
        obs: Any,
        carry: Any = None,
        *,
        generator: torch.Generator | None = None,
        greedy: bool = False,
        action_mask: Any = None,
    ) -> Acted:
        q = self(obs)
        if action_mask is not None:
            q = q.masked_fill(~action_mask.bool(), -torch.inf)
        action = q.argmax(-1)
        if not greedy:
            explore = torch.rand(len(action), generator=generator) < self.epsilon
            action = torch.where(explore, self.random_action(len(action), generator, action_mask), action)
        return Acted(action, None, carry)

    def random_action(self, batch: int, generator: torch.Generator | None, action_mask: Any = None) -> Tensor:
        if action_mask is None:
            return torch.randint(self.count, (batch,), generator=generator)
        return torch.multinomial(action_mask.float(), 1, generator=generator).squeeze(-1)

    def env_action(self, action: Tensor) -> np.ndarray:
        return action.cpu().numpy() + int(self.action_space.start)  # type: ignore[attr-defined]

    def settings(self) -> dict[str, Any]:
        sizes = "custom" if callable(self.network) else list(self.network)
        return {"network": sizes, "activation": self.activation, "dueling": self.dueling}
