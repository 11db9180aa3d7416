"""Trust region preference approximation (Su et al., arXiv 2504.04524): DPO's loss on pairs of answers of different levels."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from palaestra.core.errors import BadSetting, Diverged, require
from palaestra.core.experience import Experience
from palaestra.core.hints import NonNegativeFloat, PositiveFloat
from palaestra.core.method import Metrics, Paper
from palaestra.core.task import Task
from palaestra.language.sample import Sample
from palaestra.methods.language.batch import Batch
from palaestra.methods.language.rounds import Rounds
from palaestra.nets.gradient import Outputs
from palaestra.objectives.divergences import kl_estimate
from palaestra.objectives.group_preference import Alone, levels_of, preference_loss

FLOOR = 0.25
"""Added to the divergence under the root."""
FEW, AWHILE = 0.1, 20
"""Warn where less than this share of the prompts had a pair in that many rounds."""


@dataclass
class TRPA(Rounds):
    """Online DPO on all pairs of answers to a prompt that are on different levels, with a KL penalty towards the sampling policy.

    Levels are the task's own, `level(text, row)` with 1 for the best, or come from thresholds on the reward.
    """

    paper: ClassVar[Paper] = Paper(
        "Trust Region Preference Approximation: A Simple and Stable Reinforcement Learning Algorithm for LLM Reasoning",
        2025,
        "2504.04524",
    )
    summary: ClassVar[str] = "pairs of answers on different levels, and a trust region"
    whole_groups: ClassVar[bool] = True

    prompts: int = 4
    group: int = 16
    kl_weight: float = 0.001
    """Weight of the divergence from the policy that gave the answers: the trust region."""
    kl_root: bool = False
    """Penalise the square root of that divergence plus 0.25 instead."""
    beta: PositiveFloat = 0.1
    """DPO's beta: scale of log-ratios to the reference in the loss."""
    kappa: PositiveFloat = 2.5
    """Factor of beta for pairs whose better answer is of level 1."""
    thresholds: tuple[float, ...] | None = None
    """Rewards from which on an answer has level 1, 2 and so on, falling; by default the task's levels, or 1 where it has none."""
    length: Literal["mean", "sum"] = "mean"
    """Whether log-ratios are means over tokens or sums over answers; sums saturate the loss of long ones."""
    alone: Alone = "skip"
    """What prompts teach whose answers are all on one level: nothing, or absolute log-ratios: of each, or as upstream (batch)."""
    per_prompt: bool = False
    """Average within prompts first, so that one with many pairs weighs no more."""
    entropy_weight: NonNegativeFloat = 0.0
    """Weight of a bonus for the policy's entropy."""

    def check(self) -> None:
        super().check()
        require(self.group >= 2, f"pairs need two answers or more to a prompt, got group = {self.group}")
        if self.thresholds is not None:
            levels_of(torch.zeros(0), self.thresholds)

    def setup(self, task: Task) -> None:
        super().setup(task)
        self.few_pairs = 0
        """Rounds in a row in which hardly a prompt had a pair."""

    @property
    def refers(self) -> bool:
        return True  # pairs do

    def levels(self, samples: list[Sample]) -> Tensor:
        """The level of each answer `(n,)`, 1 for the best."""
        own: Callable[[str, Mapping[str, Any]], int] | None = getattr(self.task, "level", None)
        if self.thresholds is None and own is not None:
            found = [own(s.said, s.row) for s in samples]
            if not all(isinstance(level, int) and level >= 1 for level in found):
                raise BadSetting(f"levels of {self.task.name} must be whole numbers from 1 on")
            return torch.tensor(found)
        return levels_of(torch.tensor([s.reward for s in samples]), self.thresholds or (1.0,))

    def learnable(self, samples: list[Sample], rewards: Tensor, group: Tensor) -> Batch:
        level = self.levels(samples)
        return super().learnable(samples, rewards, group).spread(target=level)

    def credited(self, batch: Batch, rewards: Tensor, group: Tensor) -> Batch:
        return batch  # there are no advantages

    def update(self, batch: Batch) -> Metrics:
        level, group = batch.of_answers("target"), batch.of_answers("group")
        count, reference = batch.total("mask"), batch.total("ref_logp")

        def pairs(logp: Tensor) -> tuple[Tensor, Outputs]:
            q = (logp - reference) / (count.clamp(min=1) if self.length == "mean" else 1)
            if not bool(q.isfinite().all()):
                raise Diverged("the log-probabilities of answers are no longer finite")
            found = preference_loss(q, level, group, self.beta, self.kappa, self.alone, self.per_prompt)
            return found.loss, {
                "loss/pairs": found.loss,
                "preference/better": found.better,
                "preference/worse": found.worse,
                "preference/accuracy": found.accuracy,
                "groups/without_pair": found.alone,
            }

        weighed, outputs = self.through_answers(batch, pairs)
        tokens = count.sum().clamp(min=1)
        loss = partial(self.loss, trust=self.trust(batch) / tokens, curiosity=self.entropy_weight / tokens)
        still = self.kl_weight == 0 == self.entropy_weight
        parts = weighed.micro(self.micro_tokens, (lambda part: not bool(part.weight.any())) if still else None)
        metrics = self.descend(loss, parts)
        self.watch_pairs(float(outputs["groups/without_pair"]))
        shares = {f"levels/{k}": (level == k).float().mean() for k in range(1, 5)}
        return {**outputs, **metrics, **shares}

    def loss(self, batch: Experience, trust: Tensor, curiosity: Tensor) -> tuple[Tensor, Outputs]:
        """The pairs' share of some packed answers, the divergence from the sampling policy, and entropy."""
        scored = self.language_policy.score(batch, self.learning_temperature)
        chosen = batch.mask.bool()
        logp, weight, entropy = scored.logp[chosen], batch.weight[chosen], scored.entropy[chosen]
        kl = kl_estimate(logp, batch.logp[chosen])
        loss = (weight * logp).sum() + trust * kl.sum() - curiosity * entropy.sum()
        return loss, {
            "tokens": chosen.sum().float(),
            "policy/entropy": entropy.sum(),
            "policy/kl": kl.sum(),
            "policy/kl_reference": kl_estimate(logp, batch.ref_logp[chosen]).sum(),
        }

    def trust(self, batch: Batch) -> Tensor:
        """The derivative of the trust region's penalty by the mean divergence."""
        slope = torch.tensor(self.kl_weight)
        if not (self.kl_root and self.kl_weight):
            return slope
        logp = torch.cat(self.scored(self.language_policy, batch))
        mask = torch.cat([part.mask for part in batch.parts]).bool()
        kl = kl_estimate(logp[mask], torch.cat([part.logp for part in batch.parts])[mask]).mean()
        return slope / (2 * (kl + FLOOR).sqrt())

    def watch_pairs(self, alone: float) -> None:
        """Warn, once, where for a while hardly a prompt had answers on different levels."""
        if self.few_pairs < AWHILE:
            self.few_pairs = self.few_pairs + 1 if alone > 1 - FEW else 0
            if self.few_pairs == AWHILE:
                warnings.warn(
                    f"in {AWHILE} updates in a row more than {1 - FEW:.0%} of the prompts had all answers on one level, which "
                    "teaches nothing; give more answers to a prompt, other prompts, or finer levels",
                    stacklevel=2,
                )


@dataclass
class ODPO(TRPA):
    """Online DPO (Guo et al., arXiv 2402.04792) on the same pairs: one beta for all of them, and no trust region."""

    paper: ClassVar[Paper] = Paper("Direct Language Model Alignment from Online AI Feedback", 2024, "2402.04792")
    summary: ClassVar[str] = "online DPO on all pairs of answers on different levels"

    kappa: float = 1.0
    kl_weight: float = 0.0
