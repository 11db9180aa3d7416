"""Policies and critics for continuous actions in a bounded box."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from palaestra.core import spaces
from palaestra.core.experience import Experience
from palaestra.core.policy import Acted, Policy, Scored
from palaestra.nets.distributions import DiagGaussian, SquashedGaussian
from palaestra.nets.encoders import make_encoder
from palaestra.nets.mlp import MLP, Network, make_net


class BoxPolicy(Policy):
    """Shared by policies whose own units are [-1, 1] and whose environment takes a bounded box."""

    def __init__(
        self, observation_space: Any, action_space: Any, network: Network, activation: str, standardise: bool = False
    ):
        super().__init__(observation_space, action_space)
        self.box = spaces.ActionBox(action_space)
        self.encoder = make_encoder(observation_space, standardise)
        self.network, self.activation, self.standardise = network, activation, standardise

    def env_action(self, action: Tensor) -> np.ndarray:
        return self.box.to_env(action)

    def random_action(self, batch: int, generator: torch.Generator, action_mask: Tensor | None = None) -> Tensor:
        return torch.rand(batch, self.box.size, generator=generator) * 2 - 1

    def normal_noise(self, batch: Experience, generator: torch.Generator) -> Tensor:
        """Standard normal noise for an action at every step of `batch`, `(B, m)`."""
        return torch.randn(len(batch), self.box.size, generator=generator)

    def settings(self) -> dict[str, Any]:
        sizes = "custom" if callable(self.network) else list(self.network)
        return {"network": sizes, "activation": self.activation, "standardise": self.standardise}


class SquashedGaussianActor(BoxPolicy):
    """tanh(N(mean, std)), the policy of soft actor-critic methods.

    `log_std_bounds=None` takes std = softplus(raw) + 1e-5; a pair clamps log std instead.
    """

    def __init__(
        self,
        observation_space: Any,
        action_space: Any,
        network: Network = (256, 256),
        activation: str = "relu",
        log_std_bounds: tuple[float, float] | None = None,
        standardise: bool = False,
    ):
        super().__init__(observation_space, action_space, network, activation, standardise)
        self.log_std_bounds = log_std_bounds
        self.net = make_net(self.encoder.size, 2 * self.box.size, network, activation=activation)  # type: ignore[arg-type]

    def distribution(self, obs: Any) -> SquashedGaussian:
        """The distribution at each observation, `(B, m)`."""
        mean, raw = self.net(self.encoder(obs)).chunk(2, -1)
        if self.log_std_bounds is None:
            return SquashedGaussian(mean, F.softplus(raw) + 1e-5)
        return SquashedGaussian(mean, raw.clamp(*self.log_std_bounds).exp())

    def sample(self, obs: Any, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Actions `(B, m)` reparameterised by standard normal `noise` `(B, m)`, and their log-densities `(B,)`."""
        return self.distribution(obs).rsample(noise)

    def act(
        self,
        obs: Any,
        carry: Any = None,
        *,
        generator: torch.Generator | None = None,
        greedy: bool = False,
        action_mask: Any = None,
    ) -> Acted:
        """A sample without its log-density, which nobody who collects for a replay buffer needs; `sample` gives both."""
        dist = self.distribution(obs)
        if greedy:
            return Acted(torch.tanh(dist.mean), None, carry)
        noise = torch.randn(dist.mean.shape, generator=generator)
        return Acted(torch.tanh(torch.addcmul(dist.mean, dist.std, noise)), None, carry)

    def score(self, batch: Experience) -> Scored:
        dist = self.distribution(batch.obs)
        logp = dist.logp_unsquashed(torch.atanh(batch.action.clamp(-1 + 1e-6, 1 - 1e-6)))
        return Scored(logp, -logp, None)

    def settings(self) -> dict[str, Any]:
        bounds = None if self.log_std_bounds is None else list(self.log_std_bounds)
        return {**super().settings(), "log_std_bounds": bounds}


class DeterministicActor(BoxPolicy):
    """tanh(net(s)), the policy of deterministic policy-gradient methods.

    While it explores, independent Gaussian noise of deviation `noise` (in units of the action box's half-width) is added
    and the sum clipped to the box; the greedy policy has none.
    """

    def __init__(
        self,
        observation_space: Any,
        action_space: Any,
        network: Network = (256, 256),
        activation: str = "relu",
        noise: float = 0.1,
        standardise: bool = False,
    ):
        super().__init__(observation_space, action_space, network, activation, standardise)
        self.noise = noise
        self.net = make_net(self.encoder.size, self.box.size, network, activation=activation)  # type: ignore[arg-type]

    def forward(self, obs: Any) -> Tensor:
        """The action for each observation, `(B, m)` in [-1, 1]."""
        return torch.tanh(self.net(self.encoder(obs)))

    def smoothed(self, obs: Any, noise: Tensor, std: float, limit: float) -> Tensor:
        """clip(pi(s) + clip(std * noise, ±limit), ±1), `(B, m)`: the target policy smoothing of TD3."""
        return (self(obs) + (std * noise).clamp(-limit, limit)).clamp(-1, 1)

    def act(
        self,
        obs: Any,
        carry: Any = None,
        *,
        generator: torch.Generator | None = None,
        greedy: bool = False,
        action_mask: Any = None,
    ) -> Acted:
        action = self(obs)
        if not greedy:
            action = (action + self.noise * torch.randn(action.shape, generator=generator)).clamp(-1, 1)
        return Acted(action, None, carry)

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "noise": self.noise}


class GaussianActor(BoxPolicy):
    """N(tanh(net(s)), std^2) with deviations that all states share; samples are clipped to the box."""

    def __init__(
        self,
        observation_space: Any,
        action_space: Any,
        network: Network = (256, 256),
        activation: str = "relu",
        log_std_bounds: tuple[float, float] = (-5.0, 2.0),
        standardise: bool = False,
    ):
        super().__init__(observation_space, action_space, network, activation, standardise)
        self.log_std_bounds = log_std_bounds
        self.net = make_net(self.encoder.size, self.box.size, network, activation=activation)  # type: ignore[arg-type]
        self.log_std = nn.Parameter(torch.zeros(self.box.size))

    def distribution(self, obs: Any) -> DiagGaussian:
        """The distribution before clipping at each observation, `(B, m)`."""
        return DiagGaussian(torch.tanh(self.net(self.encoder(obs))), self.log_std.clamp(*self.log_std_bounds))

    def act(
        self,
        obs: Any,
        carry: Any = None,
        *,
        generator: torch.Generator | None = None,
        greedy: bool = False,
        action_mask: Any = None,
    ) -> Acted:
        dist = self.distribution(obs)
        return Acted(dist.mode() if greedy else dist.sample(generator).clamp(-1, 1), None, carry)

    def score(self, batch: Experience) -> Scored:
        dist = self.distribution(batch.obs)
        return Scored(dist.logp(batch.action), dist.entropy(), None)

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "log_std_bounds": list(self.log_std_bounds)}


class Critic(nn.Module):
    """`copies` action-value networks as one: `(B, …)` observations and `(B, m)` actions to `(P, B, outputs)`."""

    def __init__(
        self,
        observation_space: Any,
        action_size: int,
        network: Network = (256, 256),
        activation: str = "relu",
        copies: int = 2,
        outputs: int = 1,
        standardise: bool = False,
        layer_norm: bool = False,
    ):
        super().__init__()
        self.encoder = make_encoder(observation_space, standardise)
        self.net = make_net(
            self.encoder.size + action_size,  # type: ignore[operator]
            outputs,
            network,
            activation=activation,
            copies=copies,
            layer_norm=layer_norm,
        )

    def forward(self, obs: Any, action: Tensor, frozen: bool = False) -> Tensor:
        """All heads, `(P, B, outputs)`; `frozen` lets a gradient through to the action only."""
        return self.net(torch.cat([self.encoder(obs), action], -1), frozen)

    def q(self, obs: Any, action: Tensor, frozen: bool = False) -> Tensor:
        """The first head of each copy, `(P, B)`."""
        return self(obs, action, frozen)[..., 0]

    def q_each(self, obs: Any, actions: Tensor) -> Tensor:
        """The first head of each copy for `K` actions at every observation, `(B, K, m)` to `(P, B, K)`."""
        features = self.encoder(obs)
        if isinstance(self.net, MLP) and len(self.net.sizes) > 2:
            return self.net.each(features, actions)[..., 0]
        rows = torch.cat([features.unsqueeze(1).expand(-1, actions.shape[1], -1), actions], -1).flatten(0, 1)
        return self.net(rows)[..., 0].unflatten(-1, actions.shape[:2])


class StateValue(nn.Module):
    """A state-value network: `(B, …)` observations to `(B,)`."""

    def __init__(
        self,
        observation_space: Any,
        network: Network = (256, 256),
        activation: str = "relu",
        standardise: bool = False,
    ):
        super().__init__()
        self.encoder = make_encoder(observation_space, standardise)
        self.net = make_net(self.encoder.size, 1, network, activation=activation)

    def forward(self, obs: Any) -> Tensor:
        return self.net(self.encoder(obs)).squeeze(-1)
