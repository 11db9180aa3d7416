"""SALSA (Chegini et al., arXiv 2411.01798): PPO with a model soup as the reference."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

import torch

from palaestra.core.errors import require
from palaestra.core.hints import UnitInterval
from palaestra.core.method import Paper
from palaestra.core.task import Task
from palaestra.language.policy import LanguagePolicy
from palaestra.language.soups import loss_of, weights_of
from palaestra.methods.language.ppo_lm import PPOLM

TRIED = 32
"""Answers on which the loss of the soup is checked."""
RISE = 0.05
"""Warn where the loss of the soup is so many nats a token above the weighted mean of its models' losses."""


@dataclass
class SALSA(PPOLM):
    """PPO whose reference is a soup: the average of the weights of `model`, where it begins, and of other starts."""

    paper: ClassVar[Paper] = Paper(
        "SALSA: Soup-based Alignment Learning for Stronger Adaptation in RLHF", 2024, "2411.01798"
    )
    summary: ClassVar[str] = "PPO with a soup of starts as the reference"
    family: ClassVar[str] = "preference"
    watches_start: ClassVar[bool] = True

    model: str = "sft:tiny-64x2"
    """The start, by a hub name, a folder (of a run, too), or sft:MODEL, which is fine-tuned on the task's answers first."""
    kl_weight: float = 0.2
    other: str = ""
    """The other start, fine-tuned from the same base model; or several, with commas between."""
    alpha: UnitInterval = 0.5
    """The share of `model` in the soup; the others have the rest alike. 1 is PPO."""

    def check(self) -> None:
        super().check()
        require(bool(self.other), "salsa averages two starts or more; name another by other")
        names = [name for name, _ in self.others]
        trained = next((name for name in names if name.startswith("sft:")), "")
        require(not trained or len(names) == 1, f"of several starts, each is a folder or a hub name, got {trained}")
        require(not self.reference, f"the reference is the soup; leave {self.reference} out")
        require(self.kl_weight > 0, "the policy is held to the soup by kl_weight, which must be above 0")

    def setup(self, task: Task) -> None:
        super().setup(task)
        assert self.anchor is not None
        pairs = zip(weights_of(self.anchor.policy).values(), weights_of(self.language_policy).values(), strict=True)
        require(
            self.alpha == 1 or not all(torch.allclose(soup, own) for soup, own in pairs),
            f"the soup of {self.model} and {self.other} is the model itself; give another start, such as one of another seed",
        )
        rise = self.rise()
        if rise > RISE:
            warnings.warn(
                f"the soup's loss is {rise:.2g} nats a token above what lies between its models': they do the same in different "
                "ways, and their average is worse than they are; take starts that were fine-tuned from the same model",
                stacklevel=2,
            )

    def rise(self) -> float:
        """The loss of the soup less the weighted mean of its models' losses, on some answers that rows bring; 0 if none do."""
        assert self.anchor is not None
        rows = list(islice((row for row in self.task.rows("train") if isinstance(row.get("completion"), str)), TRIED))
        if not rows or self.alpha == 1:
            return 0.0
        loss = loss_of(self.anchor.policy, rows) - self.alpha * loss_of(self.language_policy, rows)
        for name, share in self.others:
            loss -= share * loss_of(LanguagePolicy.make(name, self.task), rows)
        return loss

    @property
    def others(self) -> list[tuple[str, float]]:
        """The other starts, with their shares in the soup."""
        names = [name.strip() for name in self.other.split(",")]
        return [(name, (1 - self.alpha) / len(names)) for name in names]

    @property
    def refers_to(self) -> str:
        parts = [(self.model, self.alpha), *self.others]
        return "soup:" + ",".join(f"{model}*{share!r}" for model, share in parts)
