"""Conservative Q-learning for discrete actions (Kumar et al., arXiv 2006.04779): values are low but where the data lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from palaestra.core.experience import Experience
from palaestra.core.hints import NonNegativeFloat
from palaestra.core.method import Paper
from palaestra.methods.offline.dqn_offline import DQNOffline
from palaestra.nets.gradient import Outputs
from palaestra.objectives.offline import conservative_gap
from palaestra.objectives.value import huber_error, taken


@dataclass
class CQLDiscrete(DQNOffline):
    """Conservative Q-learning, discrete."""

    paper: ClassVar[Paper] = Paper("Conservative Q-Learning for Offline Reinforcement Learning", 2020, "2006.04779")
    summary: ClassVar[str] = "double DQN with values pushed down, except those of recorded actions"

    alpha: NonNegativeFloat = 0.1
    """Weight of the gap between the soft maximum over actions and the recorded action's value."""

    def loss(self, batch: Experience, *drawn: Tensor) -> tuple[Tensor, Outputs]:
        """Double DQN's loss + alpha mean[ log sum_a exp Q(s, a) - Q(s, a_data) ] (eq. 4 with the entropy of the policy)."""
        values = self.q(batch.obs)
        q = taken(values, batch.action)
        error = huber_error(q, self.goal(batch), self.huber)
        gap = conservative_gap(q, values)
        metrics = {"loss/critic": error, "loss/gap": gap, "value/q": q.mean(-1)}
        return (error + self.alpha * gap).sum(), metrics
