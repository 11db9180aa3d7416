"""Random ensemble mixture, REM (Agarwal et al., arXiv 1907.04543): every random mixture of Q-heads obeys Bellman's equation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from palaestra.core.hints import PositiveInt
from palaestra.core.method import Paper
from palaestra.core.task import Task
from palaestra.methods.offline.dqn_offline import DQNOffline
from palaestra.nets.q_network import QNetwork


@dataclass
class REM(DQNOffline):
    """Random ensemble mixture."""

    paper: ClassVar[Paper] = Paper("An Optimistic Perspective on Offline Reinforcement Learning", 2020, "1907.04543")
    summary: ClassVar[str] = "double DQN on a random convex mixture of heads, one per update"

    heads: PositiveInt = 200
    """Q-functions, which share all but the last layer; their mean acts."""

    def build(self, task: Task, **options: Any) -> QNetwork:
        return super().build(task, estimates=self.heads, **options)

    def draw(self, noise: torch.Generator) -> tuple[Tensor, ...]:
        """alpha_k = u_k / sum u, the same for online and target heads."""
        u = torch.rand(self.heads, generator=noise)
        return (u / u.sum(),)

    def values(self, net: QNetwork, obs: Any, *drawn: Tensor) -> Tensor:
        """sum_k alpha_k Q_k."""
        (mix,) = drawn
        return net.mixed(obs, mix)
