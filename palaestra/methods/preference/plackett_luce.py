"""DPO for whole rankings (Rafailov et al., arXiv 2305.18290, appendix A.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from palaestra.core.hints import PositiveFloat
from palaestra.core.method import Paper
from palaestra.methods.preference.direct_alignment import DirectAlignment
from palaestra.objectives.answers import Answers
from palaestra.objectives.lists import plackett_luce


@dataclass
class PlackettLuce(DirectAlignment):
    """DPO with the Plackett-Luce likelihood of a ranking: the best of all answers, then the best of the rest, and so on."""

    paper: ClassVar[Paper] = Paper(
        "Direct Preference Optimization: Your Language Model is Secretly a Reward Model", 2023, "2305.18290"
    )
    summary: ClassVar[str] = "DPO for ranked lists of answers"
    criterion = plackett_luce

    beta: PositiveFloat = 0.1
    """Weight of the divergence from the reference."""

    def objective(self, *sides: Answers) -> Tensor:
        return plackett_luce(*sides, beta=self.beta)
