"""Monte Carlo estimation, MCE (in the comparison of Schweighofer et al., arXiv 2111.04714): values regress on returns."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from palaestra.core.experience import Experience
from palaestra.core.method import Paper
from palaestra.data.dataset import Dataset
from palaestra.methods.offline.q_regression import QRegression
from palaestra.objectives.returns import rewards_to_go


@dataclass
class MCE(QRegression):
    """Monte Carlo estimation."""

    paper: ClassVar[Paper] = Paper("A Dataset Perspective on Offline Reinforcement Learning", 2022, "2111.04714")
    summary: ClassVar[str] = "values regress on the returns in the data, and the greedy policy by them"

    def prepared(self, dataset: Dataset) -> Dataset:
        """With the discounted sum of scaled rewards from every step to the end of its episode."""
        reward = self.scaled(dataset.steps.only("reward")).reward
        target = rewards_to_go(reward, dataset.starts, self.gamma)
        return dataclasses.replace(dataset, steps=dataset.steps.replace(target=target))

    def goal(self, batch: Experience, *drawn: Tensor) -> Tensor:
        """sum_k gamma^k r_{t+k}."""
        return batch.target
