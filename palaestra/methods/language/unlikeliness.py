"""Unlikeliness reward (He et al., arXiv 2506.02355): less likely right answers have larger rewards."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from palaestra.core.errors import require
from palaestra.core.hints import NonNegativeInt, PositiveFloat, UnitInterval
from palaestra.core.method import Metrics, Paper
from palaestra.core.task import Task
from palaestra.language.sample import Sample
from palaestra.methods.language.batch import Batch
from palaestra.methods.language.grpo import GRPO, regrouped, with_spread
from palaestra.objectives.segments import Average, group_mean, has_spread
from palaestra.objectives.unlikeliness import DiscountForm, unlikeliness_rewards, uplift

if TYPE_CHECKING:
    Host = GRPO
else:
    Host = object  # a dataclass that derived from GRPO would bring GRPO's defaults along, in place of its host's

MOST_SAMPLINGS = 16
"""Samplings after which an update makes do with the answers that there are."""


@dataclass
class RankDiscount(Host):
    """The unlikeliness reward as a mixin for any method of GRPO's family: `class Mine(RankDiscount, RLOO)`.

    Groups whose answers are all right or all wrong are left out first: a discount in an all-right group would only push against
    likely answers. The policy is sampled again, unchanged, until `answers_wanted` answers are left.
    """

    discount: UnitInterval = 0.25
    """Share of its reward that the most likely right answer loses, and less likely ones the less; 0 discounts nothing."""
    discount_form: DiscountForm = "code"
    """Ranks from 0 on, as in the released code, or from 1 on, as in the paper."""
    rank_by: Literal["mean", "sum"] = "mean"
    """What answers are ranked by: mean log-probability per token, or the sum, by which long answers are unlikely."""
    answers_wanted: NonNegativeInt = 256
    """How many answers, of groups with right and wrong ones, a round samples before its updates; 0 samples once."""
    skip_norm: PositiveFloat = 20.0
    """Updates whose gradient norm is this large or larger are skipped."""
    graded: bool = False
    """Accept rewards other than 0 and 1."""

    def check(self) -> None:
        super().check()
        require(self.group >= 2, f"ranks in a group need two answers or more, got group = {self.group}")
        require(not self.soft_overlong, "a discount is of rewards that are not negative; leave soft_overlong at 0")

    def setup(self, task: Task) -> None:
        super().setup(task)
        self.optimiser.skip_norm = self.skip_norm
        self.found = torch.zeros(0, dtype=torch.int64)
        """The right answers that were ever given, by their hashes."""

    # Before the updates.

    def sample(self) -> tuple[list[Sample], Metrics]:
        """Answers of groups with right and wrong ones, from as many samplings as it takes."""
        samples, metrics = super().sample()
        rewards, kept, samplings = self.noted(samples), _with_spread(samples), 1
        while len(kept) < self.answers_wanted and samplings < MOST_SAMPLINGS:
            fresh = self.answers(self.next_rows(self.prompts), f"round/{self.round}/sampling/{samplings}")
            rewards, kept = torch.cat([rewards, self.noted(fresh)]), regrouped(kept, _with_spread(fresh))
            samples = fresh or samples
            samplings += 1
        return kept or samples, {
            **metrics,
            "reward/sampled": rewards.mean(),
            "groups/samplings": torch.tensor(float(samplings)),
            "answers/distinct_right": torch.tensor(float(len(self.found))),
        }

    def noted(self, samples: list[Sample]) -> Tensor:
        """The rewards of some answers `(n,)`, of which the right ones are noted."""
        rewards = torch.tensor([s.reward for s in samples])
        require(bool((rewards >= 0).all()), "unlikeliness needs rewards that are not negative: right 1, wrong 0")
        require(
            self.graded or bool(((rewards == 0) | (rewards == 1)).all()),
            "unlikeliness needs rewards of 0 or 1; graded = true takes others that are not negative",
        )
        right = torch.tensor([_hash(s) for s in samples if s.reward > 0], dtype=torch.int64)
        self.found = torch.cat([self.found, right]).unique()
        return rewards

    def worth(self, batch: Batch, rewards: Tensor, group: Tensor) -> Tensor:
        worth = unlikeliness_rewards(rewards, self.likelihood(batch), group, self.discount, self.discount_form)
        # Where no group was left, what was sampled last is all right or all wrong.
        return super().worth(batch, torch.where(has_spread(rewards, group), worth, rewards), group)

    def likelihood(self, batch: Batch) -> Tensor:
        """How likely each answer was, `(n,)`; answers with the same tokens equally, whatever rounding says."""
        logp = batch.total("logp") / (batch.total("mask").clamp(min=1) if self.rank_by == "mean" else 1)
        same: dict[tuple[int, ...], int] = {}
        keys = [(int(part.group[0]), *part.action.tolist()) for part in batch.parts]
        return group_mean(logp, torch.tensor([same.setdefault(key, len(same)) for key in keys]))

    # The updates, and after.

    def update(self, batch: Batch) -> Metrics:
        metrics = super().update(batch)
        if not metrics:
            return {}
        norm = metrics["policy/gradient_norm"]
        taken = bool(norm < self.skip_norm)
        metrics = metrics if taken else {name: x for name, x in metrics.items() if bool(x.isfinite())}
        return {**metrics, "policy/skipped": torch.tensor(float(not taken))}

    def looked_back(self, batch: Batch, rewards: Tensor) -> Metrics:
        """Whether right answers became likelier: of each group's, the least likely quarter and the most likely one."""
        right = batch.take(((rewards > 0) & (batch.total("mask") > 0)).nonzero().squeeze(-1).tolist())
        if not len(right):
            return {}
        before = self.likelihood(right)
        after = self.likelihood(right.replace(logp=self.scored(self.language_policy, right)))
        rose = uplift(before, after, right.of_answers("group"))
        named = zip(("uplift/least_likely", "uplift/less_likely", "uplift/more_likely", "uplift/most_likely"), rose)
        return {name: share for name, share in named if bool(share.isfinite())}


@dataclass
class Unlikeliness(RankDiscount, GRPO):
    """GRPO that discounts the reward of right answers by the rank of their likelihood in the group."""

    paper: ClassVar[Paper] = Paper(
        "Rewarding the Unlikely: Lifting GRPO Beyond Distribution Sharpening", 2025, "2506.02355"
    )
    summary: ClassVar[str] = "GRPO that rewards unlikely right answers more than likely ones"

    group: int = 32
    average: Average = "token-mean"
    epochs: int = 2
    kl_weight: float = 0.1
    # What the method has in place of these.
    resample: ClassVar[int] = 0  # type: ignore[misc]
    reference: ClassVar[str] = ""  # type: ignore[misc]
    clip_high: ClassVar[float | None] = None  # type: ignore[misc]
    dual_clip: ClassVar[float | None] = None  # type: ignore[misc]
    overlong: ClassVar[Literal["keep", "mask"]] = "keep"  # type: ignore[misc]
    soft_overlong: ClassVar[float] = 0.0  # type: ignore[misc]
    difficulty: ClassVar[tuple[float, float] | None] = None  # type: ignore[misc]


def _with_spread(samples: list[Sample]) -> list[Sample]:
    """The answers of groups whose rewards differ."""
    groups = with_spread(samples)
    return [s for s in samples if s.group in groups]


def _hash(sample: Sample) -> int:
    text = f"{sample.row['prompt']!r} {sample.text}"
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)
