"""Sequence likelihood calibration (Zhao et al., arXiv 2305.10425)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from palaestra.core.hints import NonNegativeFloat
from palaestra.core.method import Paper
from palaestra.methods.preference.direct_alignment import DirectAlignment
from palaestra.objectives.answers import Answers
from palaestra.objectives.direct import slic


@dataclass
class SLiC(DirectAlignment):
    """A hinge loss of the difference in log-likelihood, and the log-likelihood of the chosen answer as a regulariser."""

    paper: ClassVar[Paper] = Paper("SLiC-HF: Sequence Likelihood Calibration with Human Feedback", 2023, "2305.10425")
    summary: ClassVar[str] = "hinge on the lead in log-likelihood, with supervised learning beside it"
    criterion = slic

    delta: NonNegativeFloat = 1.0
    """Margin of the hinge, in nats."""
    likelihood_weight: NonNegativeFloat = 0.1
    """Weight of the log-likelihood of chosen answers."""

    def objective(self, *sides: Answers) -> Tensor:
        return slic(*sides, delta=self.delta, weight=self.likelihood_weight)
