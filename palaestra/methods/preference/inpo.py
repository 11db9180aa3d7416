"""Iterative Nash policy optimisation (Zhang et al., arXiv 2407.00617)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from palaestra.core.errors import require
from palaestra.core.method import Paper
from palaestra.methods.preference.iterated import Iterated
from palaestra.objectives.answers import Answers
from palaestra.objectives.direct import inpo


@dataclass
class INPO(Iterated):
    """Mirror descent in self-play: each round regresses the lead of winners over losers on 1 / (2 eta), beside the policy of the
    round before and the reference."""

    paper: ClassVar[Paper] = Paper(
        "Iterative Nash Policy Optimization: Aligning LLMs with General Preferences via No-Regret Learning",
        2024,
        "2407.00617",
    )
    summary: ClassVar[str] = "no-regret self-play for the policy that no other beats"
    criterion = inpo

    eta: float = 0.5
    """Inverse size of a round's step: the lead aimed at is 1 / (2 eta) nats; 0.005 in the paper, for long answers."""
    kl_weight: float = 0.5 / 3
    """Weight of the divergence from the reference, called tau in the paper; from 0 to eta."""

    def check(self) -> None:
        super().check()
        require(self.eta > 0, f"eta must be positive, got {self.eta}")
        require(
            self.kl_weight <= self.eta, f"kl_weight (tau) must be at most eta = {self.eta:g}, got {self.kl_weight:g}"
        )

    def objective(self, *sides: Answers) -> Tensor:
        if not self.refers:  # tau = 0 leaves the reference out, and nothing is known of it
            sides = tuple(side.replace(ref_logp=side.prev_logp) for side in sides)
        return inpo(*sides, eta=self.eta, tau=self.kl_weight)
