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
from palaestra.nets.mlp import MLP, Network, make_net
from palaestra.objectives.value import likely_actions


class QNetwork(Policy):
    """Action values `(B, n)`; acts greedily, and while exploring takes a uniformly random action with chance `epsilon`.

    `epsilon` is a buffer, so that a schedule that changes it is saved with the policy. With `dueling`, state value and
    advantages come from two networks on the encoded observation, joined as Q = V + A - mean A (Wang et al. 2016, eq. 9).
    Of several `estimates`, quantiles or heads, the value is their mean. With a `threshold`, a second network `prior` models
    the data's actions, and those with G(a|s) <= threshold max G are never preferred (Fujimoto et al. 2019, eq. 13).
    """

    epsilon: Tensor

    def __init__(
        self,
        observation_space: Any,
        action_space: Any,
        network: Network = (120, 84),
        activation: str = "relu",
        dueling: bool = False,
        estimates: int = 1,
        threshold: float | None = None,
        standardise: bool = False,
    ):
        super().__init__(observation_space, action_space)
        if spaces.kind(action_space) != "discrete":
            raise Unsupported(f"a Q-network needs one discrete action, but the action space is {action_space}")
        self.network, self.activation, self.dueling = network, activation, dueling
        self.estimates, self.threshold, self.standardise = estimates, threshold, standardise
        self.count = int(action_space.n)
        self.encoder = make_encoder(observation_space, standardise)
        features = int(self.encoder.size)  # type: ignore[arg-type]
        self.net = make_net(features, estimates * self.count, network, activation=activation)
        self.value_net = make_net(features, estimates, network, activation=activation) if dueling else None
        self.prior = None if threshold is None else make_net(features, self.count, network, activation=activation)
        self.register_buffer("epsilon", torch.tensor(1.0))

    def forward(self, obs: Any) -> Tensor:
        """The value of every action, `(B, n)`."""
        out = self.each(obs)
        return out.squeeze(-2) if self.estimates == 1 else out.mean(-2)

    def each(self, obs: Any) -> Tensor:
        """Every estimate of every action's value, `(B, estimates, n)`."""
        features = self.encoder(obs)
        out = self.net(features).unflatten(-1, (self.estimates, self.count))
        if self.value_net is None:
            return out
        return self.value_net(features).unsqueeze(-1) + out - out.mean(-1, keepdim=True)

    def mixed(self, obs: Any, mix: Tensor) -> Tensor:
        """A mixture of the estimates, sum_k mix_k Q_k, `(B, n)`, by `mix` `(estimates,)`."""
        if isinstance(self.net, MLP) and self.value_net is None:
            return self.net.mixed(self.encoder(obs), mix)
        return torch.einsum("...k,...bkn->...bn", mix, self.each(obs))

    def preferences(self, obs: Any, action_mask: Tensor | None = None) -> Tensor:
        """What the greedy policy maximises, `(B, n)`: the values of actions that are allowed and likely, else minus infinity."""
        q = self(obs)
        allowed = None if action_mask is None else action_mask.bool()
        if self.threshold is not None:
            logits = self.behaviour(obs)
            if allowed is not None:
                logits = logits.masked_fill(~allowed, -torch.inf)
            allowed = likely_actions(logits, self.threshold)
        return q if allowed is None else q.masked_fill(~allowed, -torch.inf)

    def behaviour(self, obs: Any) -> Tensor:
        """Unnormalised log-probabilities of the data's actions, `(B, n)`, where there is a `threshold`."""
        assert self.prior is not None
        return self.prior(self.encoder(obs))

    def act(
        self,
        obs: Any,
        carry: Any = None,
        *,
        generator: torch.Generator | None = None,
        greedy: bool = False,
        action_mask: Any = None,
    ) -> Acted:
        action = self.preferences(obs, action_mask).argmax(-1)
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
        return {
            "network": sizes,
            "activation": self.activation,
            "dueling": self.dueling,
            "estimates": self.estimates,
            "threshold": self.threshold,
            "standardise": self.standardise,
        }
