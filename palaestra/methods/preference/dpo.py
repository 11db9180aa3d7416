"""Direct preference optimisation (Rafailov et al., arXiv 2305.18290)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from palaestra.core.errors import require
from palaestra.core.hints import PositiveFloat
from palaestra.core.method import Paper
from palaestra.methods.preference.direct_alignment import DirectAlignment
from palaestra.objectives.answers import Answers
from palaestra.objectives.direct import dpo


@dataclass
class DPO(DirectAlignment):
    """Logistic loss of the difference in log-ratio to the reference between the chosen and the rejected answer, times beta."""

    paper: ClassVar[Paper] = Paper(
        "Direct Preference Optimization: Your Language Model is Secretly a Reward Model", 2023, "2305.18290"
    )
    summary: ClassVar[str] = "log-sigmoid of the lead that chosen answers have in log-ratio"
    criterion = dpo

    beta: PositiveFloat = 0.1
    """Weight of the divergence from the reference: the reward is beta times the log-ratio."""
    smoothing: float = 0.0
    """Label smoothing: share of the labels that is assumed to be wrong."""

    def check(self) -> None:
        super().check()
        require(0 <= self.smoothing < 0.5, f"smoothing must be at least 0 and below 0.5, got {self.smoothing}")

    def objective(self, *sides: Answers) -> Tensor:
        return dpo(*sides, beta=self.beta, smoothing=self.smoothing)
