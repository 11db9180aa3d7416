"""A table of probabilities as a policy: the oracle of exactness tests, and all that a small discrete task needs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from palaestra.core import spaces
from palaestra.core.errors import Unsupported
from palaestra.core.experience import Experience
from palaestra.core.policy import Acted, Policy, Scored
from palaestra.nets.distributions import Categorical


class Tabular(Policy):
    """Softmax of `logits` `[S, A]`, one row per observation; uniform to begin with."""

    def __init__(self, observation_space: Any, action_space: Any):
        super().__init__(observation_space, action_space)
        for name, space in (("observations", observation_space), ("actions", action_space)):
            if spaces.kind(space) != "discrete":
                raise Unsupported(f"a table needs Discrete {name}, not {space}")
        self.logits = nn.Parameter(torch.zeros(int(observation_space.n), int(action_space.n)))

    def distribution(self, obs: Tensor, action_mask: Tensor | None = None) -> Categorical:
        """The rows of the table at observations `(B,)`."""
        return Categorical.among(self.logits[obs], action_mask)

    def act(
        self,
        obs: Tensor,
        carry: Any = None,
        *,
        generator: torch.Generator | None = None,
        greedy: bool = False,
        action_mask: Any = None,
    ) -> Acted:
        dist = self.distribution(obs, action_mask)
        if greedy:
            return Acted(dist.mode(), None, carry)
        action = dist.sample(generator)
        return Acted(action, dist.logp(action), carry)

    def score(self, batch: Experience) -> Scored:
        dist = self.distribution(batch.obs, batch.action_mask)
        return Scored(dist.logp(batch.action), dist.entropy(), None)

    def env_action(self, action: Tensor) -> np.ndarray:
        return action.cpu().numpy() + int(self.action_space.start)
