"""REBEL (Gao et al., arXiv 2404.16767): differences of rewards regressed on differences of log-ratios."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from palaestra.core.errors import require
from palaestra.core.method import Paper
from palaestra.methods.language.regression import Regression
from palaestra.objectives.regression import rebel


@dataclass
class REBEL(Regression):
    """Of two answers to a prompt, one's lead in log-ratio is to be eta times its lead in reward; over all pairs of a group."""

    paper: ClassVar[Paper] = Paper("REBEL: Reinforcement Learning via Regressing Relative Rewards", 2024, "2404.16767")
    summary: ClassVar[str] = "differences of rewards regressed on differences of log-ratios"

    epochs: int = 4
    eta: float = 1.0
    """How far a reward of 1 moves an answer's log-probability, relative to another's, in one round."""

    def check(self) -> None:
        super().check()
        require(self.group > 1, "group = 1 has no pairs")
        require(self.eta > 0, f"eta must be positive, got {self.eta}")

    def regressed(self, ratio: Tensor, reward: Tensor, group: Tensor) -> Tensor:
        return rebel(ratio, reward, group, self.eta)
