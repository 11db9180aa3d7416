"""SPO for language models (Swamy et al., arXiv 2401.04056): the reward of an answer is its win rate in its group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from palaestra.core.errors import require
from palaestra.language.sample import Sample
from palaestra.methods.language.rloo import RLOO
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
    difficulty: ClassVar[tuple[float, float] | None] = None  # type: ignore[misc]  # groups' means are all 0

    model: str = "sft:tiny-64x2"
    """A hub name, a folder (of a run, too), tiny-WIDTHxLAYERS, or sft:MODEL, which is fine-tuned on the task's answers first."""
    centre: Centre = "none"
    """Baseline of the rewards; none, since those of a group have the mean 0."""

    def check(self) -> None:
        super().check()
        require(self.group >= 2, f"answers are compared with each other, so group must be at least 2, got {self.group}")

    def judged(self, samples: list[Sample]) -> list[Sample]:
        judge = self.pair_judge()
        for sample, won in zip(samples, self.won(judge, samples).tolist(), strict=True):
            sample.reward = 2 * won - 1
        self.count(judge)
        return samples
