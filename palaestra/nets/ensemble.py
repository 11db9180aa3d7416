"""Several actors as one policy: a boosted ensemble of weak learners."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from palaestra.core.errors import require
from palaestra.core.experience import tree_map
from palaestra.core.policy import Acted, Policy
from palaestra.nets.actors import SquashedGaussianActor

MOST = 10_000
"""Actors that an ensemble, and a file that describes one, may have."""


class Ensemble(Policy):
    """Acts by one of its actors through a whole episode, drawn by their weights: its memory is which one.

    Without a memory, as in `predict`, the last actor acts.
    """

    weights: Tensor

    def __init__(self, observation_space: Any, action_space: Any, members: int = 1, **actor: Any):
        super().__init__(observation_space, action_space)
        require(1 <= members <= MOST, f"an ensemble has 1 to {MOST} members, got {members}")
        self.actors = nn.ModuleList(
            SquashedGaussianActor(observation_space, action_space, **actor) for _ in range(members)
        )
        self.register_buffer("weights", torch.full((members,), 1 / members, dtype=torch.float64))

    @classmethod
    def of(cls, actors: Sequence[SquashedGaussianActor], weights: Tensor) -> Ensemble:
        """The ensemble of these actors, not copied, with `weights` `(P,)`."""
        last = actors[-1]
        with torch.device("meta"):  # networks that are replaced at once need neither memory nor random numbers
            made = cls(last.observation_space, last.action_space, len(actors), **last.settings())
        made.actors, made.weights = nn.ModuleList(actors), weights.clone()
        return made

    def initial_carry(self, batch: int, generator: torch.Generator | None = None) -> Tensor:
        """Which actor plays each of `batch` episodes, `(B,)`."""
        return torch.multinomial(self.weights, batch, replacement=True, generator=generator)

    def act(
        self,
        obs: Any,
        carry: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
        greedy: bool = False,
        action_mask: Any = None,
    ) -> Acted:
        last: Any = self.actors[-1]
        if carry is None:
            return Acted(last.act(obs, generator=generator, greedy=greedy).action, None, None)
        action = torch.empty(len(carry), last.box.size)
        for learner in carry.unique().tolist():
            rows = (carry == learner).nonzero().squeeze(1)
            actor: Any = self.actors[learner]
            seen = tree_map(lambda x, rows=rows: x[rows], obs)
            action[rows] = actor.act(seen, generator=generator, greedy=greedy).action
        return Acted(action, None, carry)

    def env_action(self, action: Tensor) -> np.ndarray:
        return self.actors[-1].env_action(action)  # type: ignore[operator]

    def settings(self) -> dict[str, Any]:
        return {"members": len(self.actors), **self.actors[-1].settings()}  # type: ignore[operator]
