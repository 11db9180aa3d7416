"""Direct Nash optimisation (Rosset et al., arXiv 2404.03715)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from palaestra.core.errors import require
from palaestra.core.method import Paper
from palaestra.methods.preference.iterated import Contest, Iterated
from palaestra.objectives.answers import Answers
from palaestra.objectives.direct import dno


@dataclass
class DNO(Iterated):
    """Soft policy iteration: each round regresses gaps in win rate against the policy of the round before, by cross-entropy."""

    paper: ClassVar[Paper] = Paper(
        "Direct Nash Optimization: Teaching Language Models to Self-Improve with General Preferences",
        2024,
        "2404.03715",
    )
    summary: ClassVar[str] = "rounds of regression on win rates against the policy of the round before"
    criterion = dno

    group: int = 5
    contest: Contest = "win-rate"
    eta: float = 0.5
    """Inverse size of a round's step."""

    def check(self) -> None:
        super().check()
        require(self.eta > 0, f"eta must be positive, got {self.eta}")
        require(self.contest == "win-rate", "dno regresses win rates; contest must be win-rate")
        require(self.kl_weight == 0, "dno holds the policy to the round before alone; kl_weight must be 0")

    def objective(self, *sides: Answers) -> Tensor:
        return dno(*sides, eta=self.eta)
