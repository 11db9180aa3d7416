"""Preference ranking optimisation (Song et al., arXiv 2306.17492)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from palaestra.core.errors import require
from palaestra.core.method import Paper
from palaestra.methods.preference.alignment import Alignment
from palaestra.objectives.answers import Answers
from palaestra.objectives.lists import Ties, pro


@dataclass
class PRO(Alignment):
    """The best answer is contrasted with all others, then the second with those behind it, as hard as scores differ."""

    paper: ClassVar[Paper] = Paper("Preference Ranking Optimization for Human Alignment", 2023, "2306.17492")
    summary: ClassVar[str] = "contrasts along a ranked list of answers, without a reference"
    criterion = pro

    likelihood_weight: float = 0.05
    """Weight of the log-likelihood of the best answer, times (n - 1)^2 for n answers."""
    graded: bool = True
    """Contrast answers as hard as their scores differ; else all alike."""
    ties: Ties = "drop"
    """Whether an answer is contrasted with others of the same score: with a gap of 0, as in the released code, or not."""

    def check(self) -> None:
        super().check()
        require(self.likelihood_weight >= 0, f"likelihood_weight must not be negative, got {self.likelihood_weight}")

    def objective(self, *sides: Answers) -> Tensor:
        return pro(*sides, weight=self.likelihood_weight, graded=self.graded, ties=self.ties)
