"""Preference ranking optimisation (Song et al., arXiv 2306.17492)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from palaestra.core.hints import NonNegativeFloat
from palaestra.core.method import Paper
from palaestra.methods.preference.direct_alignment import DirectAlignment
from palaestra.objectives.answers import Answers
from palaestra.objectives.lists import Ties, pro


@dataclass
class PRO(DirectAlignment):
    """Softmax contrasts of the best answer with all others, of the second with those behind it, and so on, by log-likelihood per
    token; temperatures depend on the gaps in score."""

    paper: ClassVar[Paper] = Paper("Preference Ranking Optimization for Human Alignment", 2023, "2306.17492")
    summary: ClassVar[str] = "contrasts along a ranked list of answers, without a reference"
    criterion = pro

    likelihood_weight: NonNegativeFloat = 0.05
    """Weight of the log-likelihood of the best answer, times (n - 1)^2 for n answers."""
    graded: bool = True
    """Let the gaps in score set the temperatures of contrasts; else all are 1."""
    ties: Ties = "drop"
    """Whether an answer is contrasted with others of the same score: with a gap of 0, as in the released code, or not."""

    def objective(self, *sides: Answers) -> Tensor:
        return pro(*sides, weight=self.likelihood_weight, graded=self.graded, ties=self.ties)
