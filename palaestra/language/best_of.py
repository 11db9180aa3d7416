"""The best of several answers, as a reward model sees it: what it can select, before anything learns from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from palaestra.core.errors import require
from palaestra.language.anchors import Anchor
from palaestra.language.policy import LanguagePolicy
from palaestra.language.reward_policy import RewardPolicy
from palaestra.language.task import TextTask


@dataclass(frozen=True)
class BestOf:
    """What answers are worth of which each is the best of `samples` in a reward model's eyes."""

    samples: int
    gold: float
    """Their mean score in evaluations of the task."""
    proxy: float
    """Their mean score by the reward model."""

    @property
    def kl(self) -> float:
        """How far such answers are from a sample, log n - (n - 1) / n nats where no two answers tie (Stiennon et al., arXiv
        2009.01325), and at most so far where some do."""
        return math.log(self.samples) - (self.samples - 1) / self.samples


def best_of(
    policy: LanguagePolicy | Anchor,
    reward_model: RewardPolicy,
    task: TextTask,
    samples: Sequence[int] = (1, 2, 4, 8, 16),
    prompts: int = 100,
    seed: int = 0,
    **how: Any,
) -> list[BestOf]:
    """The best of n answers for each n in `samples`, among the same answers to held-out prompts: n = 1 is plain sampling.

    `how` goes to `LanguagePolicy.answer`. What an anchor answers can be kept for the next reward model (`language.kept`).
    """
    require(bool(samples) and min(samples) >= 1, f"samples are numbers of answers, at least 1, got {list(samples)}")
    most = max(samples)
    answers, gold = task.answered(policy, prompts, seed, copies=most, **how)
    proxy = reward_model.judge(answers, policy.tokeniser)
    gold, proxy = gold.view(-1, most), proxy.view(-1, most)
    found = []
    for n in samples:
        # The best of the first n, of the next n, and so on: all answers have a part.
        groups = most // n
        of_n = proxy[:, : groups * n].reshape(-1, groups, n)
        best = of_n.argmax(-1, keepdim=True)
        truth = gold[:, : groups * n].reshape(-1, groups, n).gather(-1, best)
        found.append(BestOf(n, float(truth.nanmean()), float(of_n.gather(-1, best).mean())))
    return found
