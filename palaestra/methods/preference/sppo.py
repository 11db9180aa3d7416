"""Self-play preference optimisation (Wu et al., arXiv 2405.00675)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from palaestra.core.errors import require
from palaestra.core.hints import PositiveFloat
from palaestra.core.method import Metrics, Paper
from palaestra.methods.language.batch import Batch
from palaestra.methods.preference.iterated import Contest, Iterated
from palaestra.methods.preference.preference_loss import Chosen
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
    pairs: Chosen = "all"
    """Which answers to a prompt are learnt from: all, or the best and the worst (extremes), as in the released code."""
    eta: PositiveFloat = 2.0
    """Step size of a round: the target of a log-ratio is eta times (win rate - 1/2); 1000 in the paper."""

    def check(self) -> None:
        super().check()
        require(self.kl_weight == 0, "sppo holds the policy to the round before alone; kl_weight must be 0")

    def align(self, batch: Batch) -> Metrics:
        if self.pairs == "extremes" and len(batch):
            batch = batch.take(torch.cat(self.paired(batch)).unique().tolist())
        return super().align(batch)

    def objective(self, *sides: Answers) -> Tensor:
        return sppo(*sides, eta=self.eta)
