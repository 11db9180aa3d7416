"""SALSA (Chegini et al., arXiv 2411.01798): PPO that is held to the average of two starts in place of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from palaestra.core.errors import require
from palaestra.core.method import Paper
from palaestra.methods.language.ppo_lm import PPOLM


@dataclass
class SALSA(PPOLM):
    """PPO whose reference is a soup: the average of the weights of `model`, where it begins, and of other starts."""

    paper: ClassVar[Paper] = Paper(
        "SALSA: Soup-based Alignment Learning for Stronger Adaptation in RLHF", 2024, "2411.01798"
    )
    summary: ClassVar[str] = "PPO with a soup of starts as the reference"
    family: ClassVar[str] = "preference"

    model: str = "sft:tiny-64x2"
    """The start, by a hub name, a folder (of a run, too), or sft:MODEL, which is fine-tuned on the task's answers first."""
    kl_weight: float = 0.2
    other: str = ""
    """The other start, fine-tuned from the same base model; or several, with commas between."""
    alpha: float = 0.5
    """The share of `model` in the soup; the others have the rest alike. 1 is PPO."""

    def check(self) -> None:
        super().check()
        require(bool(self.other), "salsa averages two starts or more; name another by other")
        require(0 <= self.alpha <= 1, f"alpha is a share between 0 and 1, got {self.alpha}")
        require(not self.reference, f"the reference is the soup; leave {self.reference} out")

    @property
    def refers_to(self) -> str:
        others = self.other.split(",")
        shares = [(1 - self.alpha) / len(others)] * len(others)
        parts = zip([self.model, *others], [self.alpha, *shares], strict=True)
        return "soup:" + ",".join(f"{model}*{share!r}" for model, share in parts)
