"""Several actors as one policy: a boosted ensemble of weak learners."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from palaestra.core import registry
from palaestra.core.errors import require
from palaestra.core.experience import tree_map
from palaestra.core.policy import Acted, Policy

KINDS = ("squashed-gaussian", "actor-critic")
"""Actors that may be members."""
MOST = 10_000
"""Actors that an ensemble, and a file that describes one, may have."""


class Ensemble(Policy):
    """Acts by one of its actors through a whole episode, drawn by their weights: its memory is which one.

    Without a memory, as in `predict`, the last actor acts.
    """

    weights: Tensor

    def __init__(
        self, observation_space: Any, action_space: Any, members: int = 1, kind: str = "squashed-gaussian", **actor: Any
    ):
        super().__init__(observation_space, action_space)
        require(1 <= members <= MOST, f"an ensemble has 1 to {MOST} members, got {members}")
        require(kind in KINDS, f"an ensemble is of {' or '.join(KINDS)}, got {kind!r}")
        make = registry.policy_class(kind)
        self.actors = nn.ModuleList(make(observation_space, action_space, **actor) for _ in range(members))
        self.register_buffer("weights", torch.full((members,), 1 / members, dtype=torch.float64))

    @classmethod
    def of(cls, actors: Sequence[Policy], weights: Tensor) -> Ensemble:
        """The ensemble of these actors, not copied, with `weights` `(P,)`."""
        last = actors[-1]
        with torch.device("meta"):  # networks that are replaced at once need neither memory nor random numbers
            kind = registry.name_of(type(last))
            made = cls(last.observation_space, last.action_space, len(actors), kind, **last.settings())
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
            chosen = last.act(obs, generator=generator, greedy=greedy, action_mask=action_mask).action
            return Acted(chosen, None, None)
        rows, actions = [], []
        for learner in carry.unique().tolist():
            actor: Any = self.actors[learner]
            rows.append((carry == learner).nonzero().squeeze(1))
            seen, allowed = (tree_map(lambda x: x[rows[-1]], given) for given in (obs, action_mask))
            actions.append(actor.act(seen, generator=generator, greedy=greedy, action_mask=allowed).action)
        return Acted(torch.cat(actions)[torch.cat(rows).argsort()], None, carry)

    def env_action(self, action: Tensor) -> np.ndarray:
        return self.actors[-1].env_action(action)  # type: ignore[operator]

    def settings(self) -> dict[str, Any]:
        last: Any = self.actors[-1]
        return {"members": len(self.actors), "kind": registry.name_of(type(last)), **last.settings()}
