"""Regressive GRPO with difficulty-aware augmentation (Park et al., arXiv 2506.07464: DeepVideo-R1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from palaestra.core.errors import require
from palaestra.core.method import Paper
from palaestra.methods.language.difficulty import Augmented
from palaestra.methods.language.grpo import GRPO
from palaestra.methods.language.regression import Regression
from palaestra.objectives.regression import LEAST, reg_grpo


@dataclass
class RegGRPO(Augmented, Regression):
    """The standardised log-ratios of a group are regressed on its standardised rewards; nothing is clipped.

    With one update per round the gradient has the direction of GRPO's, with tokens summed within an answer, or averaged where
    `length` is "mean". The loss is least where a group's log-ratios have the order and spacing of its rewards, whatever their
    size. With `hints` or `noise`, prompts are made easier or harder first.
    """

    paper: ClassVar[Paper] = Paper(
        "DeepVideo-R1: Video Reinforcement Fine-Tuning via Difficulty-aware Regressive GRPO", 2025, "2506.07464"
    )
    summary: ClassVar[str] = "standardised log-ratios regressed on standardised rewards, without a clip"

    epochs: int = 4
    epsilon: float = 0.01
    """Log-ratios are divided by sqrt(var + epsilon^2), since their variance in a group is 0 at its first step."""
    detach: bool = False
    """Stop the gradient through the standard deviation of log-ratios."""

    def check(self) -> None:
        super().check()
        require(
            self.group >= LEAST,
            f"group must be at least {LEAST}, got {self.group}: two standardised answers fit as they are, up to the sign",
        )
        require(self.epsilon > 0, f"epsilon must be positive, got {self.epsilon}: the first step divides by it")

    def regressed(self, ratio: Tensor, reward: Tensor, group: Tensor) -> Tensor:
        return reg_grpo(ratio, reward, group, self.epsilon, detach=self.detach)


@dataclass
class AugmentedGRPO(GRPO, Augmented):
    """GRPO with difficulty-aware augmentation, without the regression: a baseline of the paper.

    Prompts that `resample` puts in place of others are asked as they are.
    """

    paper: ClassVar[Paper] = RegGRPO.paper
    summary: ClassVar[str] = "GRPO on prompts made easier or harder by their difficulty"

    hints: float = 1.0
    noise: float = 1.0
