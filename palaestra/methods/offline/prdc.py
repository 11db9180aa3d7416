"""Policy regularisation with a dataset constraint, PRDC (Ran et al., arXiv 2306.06569).

TD3+BC pulls the policy's action to the one recorded at the same state. PRDC pulls it to the action of the nearest of all
recorded state-action pairs, so that the policy may take an action that was recorded at a similar state, and still no action
that was recorded nowhere near.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from palaestra.core.errors import Unsupported, require
from palaestra.core.experience import Experience
from palaestra.core.hints import NonNegativeFloat, PositiveInt
from palaestra.core.method import Paper
from palaestra.core.task import Task
from palaestra.data.dataset import Dataset
from palaestra.data.neighbours import NearestPairs
from palaestra.methods.offline.td3_bc import TD3BC


@dataclass
class PRDC(TD3BC):
    """TD3+BC towards the nearest recorded state-action pair, which is searched for anew at every update of the actor."""

    paper: ClassVar[Paper] = Paper(
        "Policy Regularization with Dataset Constraint for Offline Reinforcement Learning", 2023, "2306.06569"
    )
    summary: ClassVar[str] = "TD3+BC whose actor is pulled to the nearest of all recorded state-action pairs"

    beta: NonNegativeFloat = 2.0
    """Weight of (standardised) states against actions in the distance: large clones behaviour, 0 allows any recorded action."""
    neighbour: PositiveInt = 1
    """Which neighbour the actor is pulled to: 1 is the nearest, k the k-th nearest."""

    def setup(self, task: Task) -> None:
        super().setup(task)
        if any(True for _ in self.actor.encoder.parameters()):
            raise Unsupported(f"prdc measures distances between vectors, but {task.name} has images; use td3-bc")
        require(
            self.neighbour < len(self.data), f"neighbour must be less than {len(self.data)} steps, got {self.neighbour}"
        )
        recorded = self.data.dataset.steps
        self.pairs = NearestPairs(self.pair(recorded.obs, recorded.action), anchored=self.actor.encoder.size)

    def prepared(self, dataset: Dataset) -> Dataset:
        """The dataset with its rows numbered, by which the search knows whose state a query has."""
        return dataclasses.replace(dataset, steps=dataset.steps.replace(row=torch.arange(len(dataset))))

    def pair(self, obs: Any, action: Tensor) -> Tensor:
        """What distances are measured between, `(B, d + m)`: beta times the encoded, standardised state, and the action."""
        return torch.cat([self.beta * self.actor.encoder(obs), action], 1)

    def goal(self, batch: Experience) -> Tensor:
        """The actions of the recorded pairs nearest to (s, pi(s)), `(B, m)`, held constant."""
        with torch.no_grad():
            query = self.pair(batch.obs, self.actor(batch.obs))
        _, row = self.pairs.query(query, self.neighbour, batch.row)
        return self.data.dataset.steps.action[row]
