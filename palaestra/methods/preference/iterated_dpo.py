"""DPO in rounds (Dong et al., arXiv 2405.07863; Rosset et al., arXiv 2404.03715, DNO-Prct)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from palaestra.core.hints import PositiveFloat
from palaestra.core.method import Paper
from palaestra.methods.preference.iterated import Iterated
from palaestra.objectives.answers import Answers
from palaestra.objectives.direct import dno_prct, dpo


@dataclass
class IteratedDPO(Iterated):
    """In each round, DPO on pairs of the policy's own answers, labelled by a judge."""

    paper: ClassVar[Paper] = Paper("RLHF Workflow: From Reward Modeling to Online RLHF", 2024, "2405.07863")
    summary: ClassVar[str] = "DPO on fresh answers in every round"
    criterion = dpo

    beta: PositiveFloat = 0.1
    """Weight of the divergence from the reference."""
    against: Literal["reference", "previous"] = "reference"
    """The reference of log-ratios: the model that training began with, or the policy of the round before."""

    @property
    def refers(self) -> bool:
        return self.against == "reference"

    def objective(self, *sides: Answers) -> Tensor:
        return dpo(*sides, beta=self.beta) if self.refers else dno_prct(*sides, beta=self.beta)
