"""Double DQN (van Hasselt et al., arXiv 1509.06461) on logged data: nothing keeps it to actions that the data have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from palaestra.core.experience import Experience
from palaestra.core.hints import PositiveInt
from palaestra.core.method import Metrics, Paper
from palaestra.core.task import Task
from palaestra.methods.offline.q_regression import QRegression
from palaestra.nets.polyak import polyak, target_of
from palaestra.objectives.value import greedy_value, td_target


@dataclass
class DQNOffline(QRegression):
    """Double DQN on logged data, and the base of agents that bootstrap from a target network."""

    paper: ClassVar[Paper] = Paper("Deep Reinforcement Learning with Double Q-learning", 2015, "1509.06461")
    summary: ClassVar[str] = "double DQN on logged data, the unconstrained baseline"

    target_every: PositiveInt = 100
    """Updates between copies to the target network."""

    def setup(self, task: Task) -> None:
        super().setup(task)
        self.target = target_of(self.q)

    def learn(self, batch: Experience, *drawn: Tensor) -> Metrics:
        metrics = super().learn(batch, *drawn)
        if (self.counters.updates + 1) % self.target_every == 0:
            self.copy_targets()
        return metrics

    def copy_targets(self) -> None:
        """Let the target network follow."""
        polyak(self.target, self.q, 1.0)

    @torch.no_grad()
    def goal(self, batch: Experience, *drawn: Tensor) -> Tensor:
        """r + gamma Q'(s', a'), a' the online network's choice."""
        price = self.values(self.target, batch.next_obs, *drawn)
        chooser = self.preferences(batch, *drawn)
        return td_target(batch.reward, greedy_value(price, chooser), batch.terminated, self.gamma)

    def preferences(self, batch: Experience, *drawn: Tensor) -> Tensor:
        """What the next action maximises, `(B, n)`."""
        return self.values(self.q, batch.next_obs, *drawn)
