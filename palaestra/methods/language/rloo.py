"""REINFORCE with a leave-one-out baseline (Ahmadian et al., arXiv 2402.14740)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from palaestra.core.hints import NonNegativeFloat
from palaestra.core.method import Paper
from palaestra.methods.language.grpo import GRPO
from palaestra.methods.language.rounds import KLIn
from palaestra.objectives.segments import Average, Centre, Scale


@dataclass
class RLOO(GRPO):
    """REINFORCE with whole answers as actions; the baseline is the mean reward of the other answers in the group.

    With one update per round the clip never binds and this is REINFORCE; with more, it is its clipped form.
    """

    paper: ClassVar[Paper] = Paper(
        "Back to Basics: Revisiting REINFORCE Style Optimization for Learning from Human Feedback in LLMs",
        2024,
        "2402.14740",
    )
    summary: ClassVar[str] = "REINFORCE with a leave-one-out baseline"
    kl_in: ClassVar[KLIn] = "answers"

    centre: Centre = "leave-one-out"
    scale: Scale = "none"
    average: Average = "sequence-sum"
    kl_weight: NonNegativeFloat = 0.0
    """Weight of an answer's log-ratio to the reference, which is subtracted from its reward."""
