"""Rank responses to align with human feedback (Yuan et al., arXiv 2304.05302)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from palaestra.core.hints import NonNegativeFloat
from palaestra.core.method import Paper
from palaestra.methods.preference.direct_alignment import DirectAlignment
from palaestra.objectives.answers import Answers
from palaestra.objectives.lists import rrhf


@dataclass
class RRHF(DirectAlignment):
    """Ranking hinge losses on log-likelihoods per token, and supervised learning on the best answer."""

    paper: ClassVar[Paper] = Paper(
        "RRHF: Rank Responses to Align Language Models with Human Feedback without tears", 2023, "2304.05302"
    )
    summary: ClassVar[str] = "hinges on the order of log-likelihoods, with supervised learning on the best answer"
    criterion = rrhf

    ranking_weight: NonNegativeFloat = 1.0
    """Weight of the hinges; 0 is supervised learning on the best answer alone."""

    def objective(self, *sides: Answers) -> Tensor:
        return rrhf(*sides, weight=self.ranking_weight)
