"""The actor-critic policy of on-policy methods: Box, Discrete and MultiDiscrete actions, any observation."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from palaestra.core import spaces
from palaestra.core.errors import Unsupported
from palaestra.core.experience import Experience
from palaestra.core.policy import Acted, Policy, Scored
from palaestra.nets.distributions import Categorical, DiagGaussian, Distribution, MultiCategorical
from palaestra.nets.encoders import make_encoder
from palaestra.nets.mlp import Network, make_net
from palaestra.nets.normalise import RunningNorm


class ActorCritic(Policy):
    """Separate actor and critic networks; a Gaussian with state-independent log std for Box actions, else categorical.

    With `normalise`, flat observations are standardised by running statistics that the policy owns. Image features are
    shared between actor and critic.
    """

    def __init__(
        self,
        observation_space: Any,
        action_space: Any,
        network: Network = (64, 64),
        activation: str = "tanh",
        normalise: bool = False,
        log_std_init: float = 0.0,
    ):
        super().__init__(observation_space, action_space)
        self.network, self.activation, self.log_std_init = network, activation, log_std_init
        self.encoder = make_encoder(observation_space)
        features = self.encoder.size
        self.norm = RunningNorm(features) if normalise else None
        self.kind = spaces.kind(action_space)
        if self.kind == "box":
            outputs = int(np.prod(action_space.shape))
            self.log_std = nn.Parameter(torch.full((outputs,), log_std_init))
        elif self.kind == "discrete":
            outputs = int(action_space.n)
        elif self.kind == "multi_discrete":
            self.counts = [int(n) for n in action_space.nvec.flatten()]
            outputs = sum(self.counts)
        else:
            raise Unsupported(f"actions of kind {self.kind} are not supported: {action_space}")
        build = {"activation": activation, "init": "orthogonal"}
        self.actor = make_net(features, outputs, network, out_gain=0.01, **build)  # type: ignore[arg-type]
        self.critic = make_net(features, 1, network, out_gain=1.0, **build)  # type: ignore[arg-type]

    def features(self, obs: Any) -> Tensor:
        """What both networks see, `(B, n)`."""
        x = self.encoder(obs)
        return x if self.norm is None else self.norm(x)

    def distribution(self, features: Tensor, action_mask: Tensor | None = None) -> Distribution:
        """The action distribution for a batch of features."""
        return self.make_distribution(self.actor(features), action_mask)

    def make_distribution(self, out: Tensor, action_mask: Tensor | None = None) -> Distribution:
        """The action distribution that the actor's output parametrises."""
        if self.kind == "box":
            if action_mask is not None:
                raise Unsupported(
                    f"an action mask makes no sense for {self.action_space}; use Discrete or MultiDiscrete"
                )
            return DiagGaussian(out, self.log_std)
        if self.kind == "discrete":
            return Categorical.among(out, action_mask)
        return MultiCategorical.among(out, self.counts, action_mask)

    def policy_parameters(self) -> list[nn.Parameter]:
        """All parameters but the critic's, for methods that step policy and value apart; the encoder counts as policy."""
        critic = set(self.critic.parameters())
        return [p for p in self.parameters() if p not in critic]

    def value(self, obs: Any) -> Tensor:
        """State values, `(B,)`."""
        return self.critic(self.features(obs)).squeeze(-1)

    def act(
        self,
        obs: Any,
        carry: Any = None,
        *,
        generator: torch.Generator | None = None,
        greedy: bool = False,
        action_mask: Any = None,
    ) -> Acted:
        dist = self.distribution(self.features(obs), action_mask)
        if greedy:
            return Acted(dist.mode(), None, carry)
        action = dist.sample(generator)
        return Acted(action, dist.logp(action), carry)

    def forward(self, batch: Experience) -> tuple[Distribution, Tensor]:
        """Action distributions and values at the observations of `batch`."""
        features = self.features(batch.obs)
        return self.distribution(features, batch.action_mask), self.critic(features).squeeze(-1)

    @torch.no_grad()
    def entropy(self, batch: Experience) -> Tensor:
        """The mean entropy of the policy at the observations of `batch`, without a gradient."""
        return self.distribution(self.features(batch.obs), batch.action_mask).entropy().mean()

    def score(self, batch: Experience) -> Scored:
        dist, value = self(batch)
        return Scored(dist.logp(batch.action), dist.entropy(), value)

    def env_action(self, action: Tensor) -> np.ndarray:
        array = action.cpu().numpy()
        if self.kind == "box":
            space = self.action_space
            return np.clip(array.reshape(-1, *space.shape), space.low, space.high)  # type: ignore[attr-defined,misc]
        if self.kind == "discrete":
            return array + int(self.action_space.start)  # type: ignore[attr-defined]
        return array.reshape(-1, *self.action_space.shape) + self.action_space.start  # type: ignore[attr-defined,misc]

    def observe(self, batch: Experience) -> None:
        if self.norm is not None:
            self.norm.update(self.encoder(batch.obs))

    def settings(self) -> dict[str, Any]:
        return {
            "network": "custom" if callable(self.network) else list(self.network),
            "activation": self.activation,
            "normalise": self.norm is not None,
            "log_std_init": self.log_std_init,
        }
