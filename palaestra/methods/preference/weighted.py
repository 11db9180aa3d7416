"""Likelihoods weighted by rewards: the baselines of A-LoL (Baheti et al., arXiv 2305.14718)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from palaestra.core.errors import require
from palaestra.core.method import Paper
from palaestra.methods.preference.leftover import PAPER, ImportanceWeighted, WeightedAnswers
from palaestra.objectives.answers import Answers
from palaestra.objectives.offline_text import r_gold, r_lol, wbc


@dataclass
class WeightedBC(WeightedAnswers):
    """Reward-weighted behaviour cloning: reward times log-likelihood."""

    paper: ClassVar[Paper] = PAPER
    summary: ClassVar[str] = "log-likelihood weighted by rewards"
    criterion = wbc


@dataclass
class GOLD(WeightedAnswers):
    """GOLD: log-likelihoods of tokens, weighted by their probability, at least `floor`, and by the reward of their answer."""

    paper: ClassVar[Paper] = Paper("Text Generation by Learning from Demonstrations", 2020, "2009.07839")
    summary: ClassVar[str] = "likelihood weighted by rewards and by how likely tokens are already"
    criterion = r_gold

    floor: float = 0.1
    """Lower bound of the probability that weighs a token."""

    def check(self) -> None:
        super().check()
        require(0 <= self.floor <= 1, f"floor is a probability, got {self.floor}")

    def objective(self, *sides: Answers) -> Tensor:
        return r_gold(*sides, floor=self.floor)


@dataclass
class RLoL(ImportanceWeighted):
    """R-LoL: A-LoL with rewards in place of advantages."""

    paper: ClassVar[Paper] = PAPER
    summary: ClassVar[str] = "offline policy gradient by rewards"
    criterion = r_lol

    def objective(self, *sides: Answers) -> Tensor:
        return r_lol(*sides, clip=self.clip)
