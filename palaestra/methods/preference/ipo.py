"""Identity preference optimisation (Azar et al., arXiv 2310.12036)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from palaestra.core.hints import PositiveFloat
from palaestra.core.method import Paper
from palaestra.methods.preference.direct_alignment import DirectAlignment
from palaestra.objectives.answers import Answers
from palaestra.objectives.direct import ipo


@dataclass
class IPO(DirectAlignment):
    """Least squares between a pair's difference of log-ratios and 1 / (2 beta), where DPO's loss has no finite target."""

    paper: ClassVar[Paper] = Paper(
        "A General Theoretical Paradigm to Understand Learning from Human Preferences", 2023, "2310.12036"
    )
    summary: ClassVar[str] = "squared error of the lead that chosen answers have in log-ratio"
    criterion = ipo

    beta: PositiveFloat = 0.1
    """Weight of the divergence from the reference, called tau in the paper: the target of a pair is 1 / (2 beta) nats."""

    def objective(self, *sides: Answers) -> Tensor:
        return ipo(*sides, beta=self.beta)
