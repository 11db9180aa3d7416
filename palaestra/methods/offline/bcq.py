"""Batch-constrained Q-learning for discrete actions, BCQ (Fujimoto et al., arXiv 1910.01708): only actions that the data have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from palaestra.core.errors import require
from palaestra.core.experience import Experience
from palaestra.core.hints import NonNegativeFloat
from palaestra.core.method import Paper
from palaestra.core.task import Task
from palaestra.methods.offline.dqn_offline import DQNOffline
from palaestra.nets.distributions import Categorical
from palaestra.nets.gradient import Outputs
from palaestra.nets.q_network import QNetwork


@dataclass
class BCQ(DQNOffline):
    """Batch-constrained Q-learning, discrete."""

    paper: ClassVar[Paper] = Paper("Benchmarking Batch Deep Reinforcement Learning Algorithms", 2019, "1910.01708")
    summary: ClassVar[str] = "double DQN that never considers actions which the data hardly have"

    threshold: float = 0.3
    """An action is considered if its modelled probability, relative to the likeliest action's, is higher."""
    logit_penalty: NonNegativeFloat = 0.01
    """Weight of the squared logits of the model of the data's actions."""

    def check(self) -> None:
        super().check()
        require(0 <= self.threshold < 1, f"threshold must be in [0, 1), got {self.threshold}")

    def build(self, task: Task, **options: Any) -> QNetwork:
        return super().build(task, threshold=self.threshold, **options)

    def preferences(self, batch: Experience, *drawn: Tensor) -> Tensor:
        """The values of likely actions, minus infinity elsewhere."""
        return self.q.preferences(batch.next_obs)

    def loss(self, batch: Experience, *drawn: Tensor) -> tuple[Tensor, Outputs]:
        """Double DQN's loss, plus minus the log-likelihood of the recorded actions and the size of the logits."""
        loss, metrics = super().loss(batch)
        logits = self.q.behaviour(batch.obs)
        likelihood = Categorical(logits).logp(batch.action).mean(-1)
        size = logits.square().mean((-2, -1))
        return loss + (self.logit_penalty * size - likelihood).sum(), {**metrics, "loss/actor": -likelihood}
