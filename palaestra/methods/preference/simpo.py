"""Simple preference optimisation (Meng et al., arXiv 2405.14734)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from palaestra.core.hints import NonNegativeFloat, PositiveFloat
from palaestra.core.method import Paper
from palaestra.methods.preference.direct_alignment import DirectAlignment
from palaestra.objectives.answers import Answers
from palaestra.objectives.direct import simpo


@dataclass
class SimPO(DirectAlignment):
    """Logistic loss of the difference in log-likelihood per token, times beta, less a margin; there is no reference."""

    paper: ClassVar[Paper] = Paper(
        "SimPO: Simple Preference Optimization with a Reference-Free Reward", 2024, "2405.14734"
    )
    summary: ClassVar[str] = "lead in log-likelihood per token, beyond a margin, without a reference"
    criterion = simpo

    beta: PositiveFloat = 2.0
    """Scale of the reward, beta times the log-likelihood per token."""
    margin: NonNegativeFloat = 0.5
    """Margin by which the chosen answer's reward is to be larger, called gamma in the paper."""

    def objective(self, *sides: Answers) -> Tensor:
        return simpo(*sides, beta=self.beta, gamma=self.margin)
