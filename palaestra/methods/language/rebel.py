"""REBEL (Gao et al., arXiv 2404.16767): differences of rewards regressed on differences of log-ratios."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from palaestra.core.errors import require
from palaestra.core.hints import NonNegativeFloat, PositiveFloat
from palaestra.core.method import Paper
from palaestra.methods.language.regression import Regression
from palaestra.methods.language.rounds import KLIn
from palaestra.objectives.regression import rebel


@dataclass
class REBEL(Regression):
    """Least squares between differences of log-ratios over eta and differences of rewards, of all pairs of answers in a group."""

    paper: ClassVar[Paper] = Paper("REBEL: Reinforcement Learning via Regressing Relative Rewards", 2024, "2404.16767")
    summary: ClassVar[str] = "differences of rewards regressed on differences of log-ratios"
    kl_in: ClassVar[KLIn] = "answers"

    epochs: int = 4
    eta: PositiveFloat = 1.0
    """Step size of a round: how much a reward that is larger by 1 raises an answer's log-probability beside another's."""
    kl_weight: NonNegativeFloat = 0.0
    """Weight of an answer's log-ratio to the reference, which is subtracted from its reward."""

    def check(self) -> None:
        super().check()
        require(self.group > 1, "group = 1 has no pairs")

    def regressed(self, ratio: Tensor, reward: Tensor, group: Tensor) -> Tensor:
        return rebel(ratio, reward, group, self.eta)
