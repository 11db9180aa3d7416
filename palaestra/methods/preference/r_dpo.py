"""DPO with length taken out (Park et al., arXiv 2403.19159)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from palaestra.core.hints import PositiveFloat
from palaestra.core.method import Paper
from palaestra.methods.preference.direct_alignment import DirectAlignment
from palaestra.objectives.answers import Answers
from palaestra.objectives.direct import r_dpo


@dataclass
class RDPO(DirectAlignment):
    """DPO with length regularisation: alpha times the difference in length, chosen less rejected, joins that of log-ratios."""

    paper: ClassVar[Paper] = Paper(
        "Disentangling Length from Quality in Direct Preference Optimization", 2024, "2403.19159"
    )
    summary: ClassVar[str] = "DPO for a reward that every token costs something"
    criterion = r_dpo

    beta: PositiveFloat = 0.1
    """Weight of the divergence from the reference."""
    alpha: float = 0.01
    """Weight of the difference in length, per token."""

    def objective(self, *sides: Answers) -> Tensor:
        return r_dpo(*sides, beta=self.beta, alpha=self.alpha)
