"""Quantile-regression DQN, QR-DQN (Dabney et al., arXiv 1710.10044): the distribution of the return, as quantiles.

The code of arXiv 2111.04714 lays tau along the targets' quantiles and ends it at 1; `released` reproduces that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from palaestra.core.experience import Experience
from palaestra.core.hints import PositiveInt
from palaestra.core.method import Paper
from palaestra.core.task import Task
from palaestra.methods.offline.dqn_offline import DQNOffline
from palaestra.nets.gradient import Outputs
from palaestra.nets.q_network import QNetwork
from palaestra.objectives.distributional import quantile_huber
from palaestra.objectives.value import taken, td_target


@dataclass
class QRDQN(DQNOffline):
    """Quantile-regression DQN."""

    paper: ClassVar[Paper] = Paper("Distributional Reinforcement Learning with Quantile Regression", 2018, "1710.10044")
    summary: ClassVar[str] = "double DQN that learns quantiles of the return and acts by their mean"

    quantiles: PositiveInt = 50
    """Quantiles per action."""
    released: bool = False
    """The loss of the code of arXiv 2111.04714, whose quantiles are not where they should be."""

    def build(self, task: Task, **options: Any) -> QNetwork:
        return super().build(task, estimates=self.quantiles, **options)

    def loss(self, batch: Experience, *drawn: Tensor) -> tuple[Tensor, Outputs]:
        """Quantile Huber error of the quantiles of the recorded actions."""
        quantiles = self.quantiles_of(self.q, batch.obs, batch.action)
        error = quantile_huber(quantiles, self.goal(batch), self.huber, self.released)
        return error.sum(), {"loss/critic": error, "value/q": quantiles.mean((-2, -1))}

    @torch.no_grad()
    def goal(self, batch: Experience, *drawn: Tensor) -> Tensor:
        """r + gamma Z'(s', a'), `(B, N)`, a' the action with the highest mean online."""
        future = self.quantiles_of(self.target, batch.next_obs, self.q(batch.next_obs).argmax(-1))
        return td_target(batch.reward.unsqueeze(-1), future, batch.terminated.unsqueeze(-1), self.gamma)

    @staticmethod
    def quantiles_of(net: QNetwork, obs: Any, action: Tensor) -> Tensor:
        """The quantiles `(B, N)` of the return of `action` `(B,)`."""
        each = net.each(obs)
        return taken(each, action.unsqueeze(-1).expand(each.shape[:-1]))
