"""Behaviour value estimation, BVE (Gulcehre et al., arXiv 2103.09575): the behaviour's own values, then one greedy step.

The target takes the action that the data took next, so that no value of an action outside the data is ever asked for. As in
the comparison of Schweighofer et al. (arXiv 2111.04714) there is no target network.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from palaestra.core.experience import Experience
from palaestra.core.method import Paper
from palaestra.data.dataset import Dataset
from palaestra.methods.offline.q_regression import QRegression
from palaestra.objectives.value import taken, td_target


@dataclass
class BVE(QRegression):
    """Behaviour value estimation."""

    paper: ClassVar[Paper] = Paper("Regularized Behavior Value Estimation", 2021, "2103.09575")
    summary: ClassVar[str] = "values of the policy that made the data, and the greedy policy by them"

    def prepared(self, dataset: Dataset) -> Dataset:
        """With the next action of every step. Where a time limit cut the episode nobody recorded one: such steps are left out."""
        steps = dataset.steps
        unknown = torch.zeros(len(dataset))
        unknown[dataset.stops - 1] = 1.0 - steps.terminated[dataset.stops - 1]
        known = 1.0 - unknown if steps.mask is None else steps.mask * (1.0 - unknown)
        return dataclasses.replace(dataset, steps=steps.replace(next_action=steps.action.roll(-1, 0), mask=known))

    @torch.no_grad()
    def goal(self, batch: Experience, *drawn: Tensor) -> Tensor:
        """r + gamma Q(s', a'), a' the recorded next action."""
        return td_target(batch.reward, taken(self.q(batch.next_obs), batch.next_action), batch.terminated, self.gamma)
