"""Contrastive policy gradient (Flet-Berliac et al., arXiv 2406.19185)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from palaestra.core.hints import PositiveFloat
from palaestra.core.method import Metrics, Paper
from palaestra.methods.language.batch import Batch
from palaestra.methods.preference.direct_alignment import DirectAlignment
from palaestra.methods.preference.preference_loss import judged_in
from palaestra.objectives.answers import Answers
from palaestra.objectives.direct import copg


@dataclass
class CoPG(DirectAlignment):
    """Least squares between a pair's difference of log-ratios and its difference of scores over beta, on any answers."""

    paper: ClassVar[Paper] = Paper(
        "Contrastive Policy Gradient: Aligning LLMs on sequence-level scores in a supervised-friendly fashion",
        2024,
        "2406.19185",
    )
    summary: ClassVar[str] = "policy gradient from pairs of scored answers, of any source"
    criterion = copg
    pairs_ties: ClassVar[bool] = True

    beta: PositiveFloat = 0.06
    """Weight of the divergence from the reference: the target of a pair is its difference of scores over beta, in nats."""

    def learn(self, batch: Batch) -> Metrics:
        return self.aims(batch) | super().learn(batch)

    def aims(self, batch: Batch) -> Metrics:
        """The largest target of a pair, in nats."""
        better, worse = self.paired(batch)
        score, _ = judged_in(batch)
        return {"preference/aim": (score[better] - score[worse]).max() / self.beta} if len(better) else {}

    def objective(self, *sides: Answers) -> Tensor:
        return copg(*sides, beta=self.beta)
