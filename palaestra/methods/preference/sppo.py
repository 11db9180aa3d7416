"""Self-play preference optimisation (Wu et al., arXiv 2405.00675)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from palaestra.core.errors import require
from palaestra.core.method import Paper
from palaestra.methods.preference.iterated import Contest, Iterated
from palaestra.objectives.answers import Answers
from palaestra.objectives.direct import sppo


@dataclass
class SPPO(Iterated):
    """Multiplicative weights: each round regresses every answer's log-ratio on its win rate."""

    paper: ClassVar[Paper] = Paper("Self-Play Preference Optimization for Language Model Alignment", 2024, "2405.00675")
    summary: ClassVar[str] = "rounds of regression of log-ratios on win rates"
    criterion = sppo

    group: int = 5
    contest: Contest = "win-rate"
    eta: float = 2.0
    """Step size of a round: the target of a log-ratio is eta times (win rate - 1/2); 1000 in the paper."""

    def check(self) -> None:
        super().check()
        require(self.eta > 0, f"eta must be positive, got {self.eta}")
        require(self.kl_weight == 0, "sppo holds the policy to the round before alone; kl_weight must be 0")

    def objective(self, *sides: Answers) -> Tensor:
        return sppo(*sides, eta=self.eta)
