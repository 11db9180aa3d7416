"""SPO for language models (Swamy et al., arXiv 2401.04056): the reward of an answer is its win rate in its group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from palaestra.core.errors import require
from palaestra.core.hints import NonNegativeFloat
from palaestra.language.sample import Sample
from palaestra.methods.language.rloo import RLOO
from palaestra.methods.language.rounds import KLIn
from palaestra.methods.preference.contested import Contested
from palaestra.methods.preference.spo import SelfPlay
from palaestra.objectives.segments import Centre


@dataclass
class SPOLM(Contested, RLOO):
    """REINFORCE on r(y) = mean over the group's other y' of P(y, y'), in [-1, 1], by a pair judge and no score.

    The rest of the group is the policy itself, so that this plays against it as it is now; nothing has to be remembered.
    """

    paper = SelfPlay.paper
    summary: ClassVar[str] = "self-play preference optimisation: REINFORCE on win rates among answers to a prompt"
    learns_scores: ClassVar[bool] = False
    kl_in: ClassVar[KLIn] = "loss"
    difficulty: ClassVar[tuple[float, float] | None] = None  # type: ignore[misc]  # groups' means are all 0

    model: str = "sft:tiny-64x2"
    centre: Centre = "none"
    """Baseline of the rewards; none, since those of a group have the mean 0."""
    kl_weight: NonNegativeFloat = 0.0
    """Weight of the divergence from the reference, a term of the loss: taken off win rates it would ask for a baseline."""

    def check(self) -> None:
        super().check()
        require(self.group >= 2, f"answers are compared with each other, so group must be at least 2, got {self.group}")

    def judged(self, samples: list[Sample]) -> list[Sample]:
        judge = self.pair_judge()
        for sample, won in zip(samples, self.won(judge, samples).tolist(), strict=True):
            sample.reward = 2 * won - 1
        self.count(judge)
        return samples
