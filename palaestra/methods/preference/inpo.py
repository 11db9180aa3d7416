"""Iterative Nash policy optimisation (Zhang et al., arXiv 2407.00617)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from palaestra.core.errors import require
from palaestra.core.method import Paper
from palaestra.methods.preference.iterated import Iterated
from palaestra.objectives.answers import Answers
from palaestra.objectives.direct import inpo


@dataclass
class INPO(Iterated):
    """Online mirror descent in self-play: each round is least squares between 1 / (2 eta) and the difference, between winner and
    loser, of log-ratios to the policy of the round before and to the reference."""

    paper: ClassVar[Paper] = Paper(
        "Iterative Nash Policy Optimization: Aligning LLMs with General Preferences via No-Regret Learning",
        2024,
        "2407.00617",
    )
    summary: ClassVar[str] = "no-regret self-play for the policy that no other beats"
    criterion = inpo

    eta: float = 0.5
    """Inverse step size of a round: the target of a pair is 1 / (2 eta) nats; 0.005 in the paper, for long answers."""
    kl_weight: float | None = None  # type: ignore[assignment]
    """Weight of the divergence from the reference, called tau in the paper, from 0 to eta; by default eta / 3."""

    @property
    def tau(self) -> float:
        return self.eta / 3 if self.kl_weight is None else self.kl_weight

    @property
    def refers(self) -> bool:
        return self.tau > 0

    def check(self) -> None:
        require(self.eta > 0, f"eta must be positive, got {self.eta}")
        Iterated.check(dataclasses.replace(self, kl_weight=self.tau))
        require(self.tau <= self.eta, f"kl_weight (tau) must be at most eta = {self.eta:g}, got {self.tau:g}")

    @classmethod
    def as_now(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The third of eta was once written out."""
        found = dict(settings)
        if found.get("kl_weight") == found.get("eta", cls.eta) / 3:
            found["kl_weight"] = None
        return found

    def objective(self, *sides: Answers) -> Tensor:
        if not self.refers:  # tau = 0 leaves the reference out, and nothing is known of it
            sides = tuple(side.replace(ref_logp=side.prev_logp) for side in sides)
        return inpo(*sides, eta=self.eta, tau=self.tau)
