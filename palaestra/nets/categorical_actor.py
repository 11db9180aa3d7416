"""A softmax policy over one discrete action, as behaviour cloning and other offline methods learn it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from palaestra.core import spaces
from palaestra.core.errors import Unsupported
from palaestra.core.experience import Experience
from palaestra.core.policy import Acted, Policy, Scored
from palaestra.nets.distributions import Categorical
from palaestra.nets.encoders import make_encoder
from palaestra.nets.mlp import Network, make_net


class CategoricalActor(Policy):
    """softmax(net(s)) over `n` actions. With `samples` it draws from it in evaluation too, where others take the mode."""

    def __init__(
        self,
        observation_space: Any,
        action_space: Any,
        network: Network = (256, 256),
        activation: str = "relu",
        samples: bool = False,
        standardise: bool = False,
    ):
        super().__init__(observation_space, action_space)
        if spaces.kind(action_space) != "discrete":
            raise Unsupported(f"a categorical policy needs one discrete action, but the action space is {action_space}")
        self.network, self.activation, self.samples, self.standardise = network, activation, samples, standardise
        self.encoder = make_encoder(observation_space, standardise)
        self.net = make_net(self.encoder.size, int(action_space.n), network, activation=activation)

    def distribution(self, obs: Any, action_mask: Tensor | None = None) -> Categorical:
        """The distribution over actions at each observation, its probabilities `(B, n)`."""
        return Categorical.among(self.net(self.encoder(obs)), action_mask)

    def act(
        self,
        obs: Any,
        carry: Any = None,
        *,
        generator: torch.Generator | None = None,
        greedy: bool = False,
        action_mask: Any = None,
    ) -> Acted:
        dist = self.distribution(obs, action_mask)
        if greedy and not self.samples:
            return Acted(dist.mode(), None, carry)
        action = dist.sample(generator)
        return Acted(action, dist.logp(action), carry)

    def score(self, batch: Experience) -> Scored:
        dist = self.distribution(batch.obs, batch.action_mask)
        return Scored(dist.logp(batch.action), dist.entropy(), None)

    def env_action(self, action: Tensor) -> np.ndarray:
        return action.cpu().numpy() + int(self.action_space.start)  # type: ignore[attr-defined]

    def export_onnx(self, path: str | Path) -> Path:
        if self.samples:
            raise Unsupported("a policy that samples in evaluation is no function that ONNX could hold")
        return super().export_onnx(path)

    def settings(self) -> dict[str, Any]:
        return {
            "network": "custom" if callable(self.network) else list(self.network),
            "activation": self.activation,
            "samples": self.samples,
            "standardise": self.standardise,
        }
