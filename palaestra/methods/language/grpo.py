"""Group relative policy optimisation (Shao et al., arXiv 2402.03300), with every switch of "Tricks or Traps?" (2508.08221)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from palaestra.core.errors import require
from palaestra.core.experience import Experience
from palaestra.core.method import Metrics, Paper
from palaestra.language.sample import Sample
from palaestra.methods.language.batch import Batch
from palaestra.methods.language.clipped import Clipped, over_tokens
from palaestra.nets.gradient import Outputs
from palaestra.objectives.divergences import kl_estimate
from palaestra.objectives.policy import ppo_clip
from palaestra.objectives.segments import Average, Centre, Scale, group_advantages, has_spread, step_weights


@dataclass
class GRPO(Clipped):
    """PPO's clipped surrogate without a critic: an answer's advantage is its reward compared with those of its group."""

    paper: ClassVar[Paper] = Paper(
        "DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open Language Models", 2024, "2402.03300"
    )
    summary: ClassVar[str] = "clipped surrogate, advantages relative to a group of answers"
    kl_in_loss: ClassVar[bool] = True
    """Whether the divergence from the reference is a term of the loss; else it is one of the rewards."""

    centre: Centre = "group"
    """What rewards are compared with: the mean of the group, of the others in it (leave-one-out), of the batch, or nothing."""
    scale: Scale = "group"
    """What advantages are divided by: the deviation of the group's or of the whole batch's rewards, or nothing."""
    average: Average = "sequence-mean"
    """How tokens are averaged: all alike (token-mean), or within each answer first; or summed in it, over its limit or not."""
    clip: float | None = 0.2
    """Epsilon of the clipped ratio; None clips nothing."""
    clip_high: float | None = None
    """Epsilon upwards, where it differs."""
    dual_clip: float | None = None
    """Cap of the ratio for answers that are worse than the baseline; None has none."""
    overlong: Literal["keep", "mask"] = "keep"
    """Learn from answers that the limit cut off, or mask them out."""
    resample: int = 0
    """Rounds of fresh prompts that may replace groups whose rewards are all alike (dynamic sampling); 0 keeps them."""

    def check(self) -> None:
        super().check()
        for name in ("centre", "scale"):
            grouped = getattr(self, name) in ("group", "leave-one-out")
            require(
                self.group > 1 or not grouped, f"group = 1 has nothing to compare with; {name} must be batch or none"
            )
        require(self.clip is None or 0 < self.clip < 1, f"clip must be between 0 and 1, got {self.clip}")
        require(self.clips[1] > 0, f"clip_high must be positive, got {self.clips[1]}")
        require(self.dual_clip is None or self.dual_clip > 1, f"dual_clip must be above 1, got {self.dual_clip}")
        require(self.resample >= 0, f"resample must not be negative, got {self.resample}")

    @property
    def clips(self) -> tuple[float, float]:
        """How far below and above 1 a ratio may be."""
        low = math.inf if self.clip is None else self.clip
        return low, low if self.clip_high is None else self.clip_high

    def sample(self) -> tuple[list[Sample], Metrics]:
        samples, metrics = super().sample()
        if not self.resample or not samples:
            return samples, metrics
        again = 0
        while again < self.resample and (alike := self.prompts - len(with_spread(samples))):
            kept = [s for s in samples if s.group in with_spread(samples)]
            samples = regrouped(kept, self.answers(self.next_rows(alike), f"round/{self.round}/again/{again}"))
            again += 1
        return samples, {**metrics, "groups/resampled": torch.tensor(float(again))}

    def usable(self, samples: list[Sample]) -> list[Tensor]:
        masked = self.overlong == "mask"
        return [torch.zeros_like(s.mask) if masked and s.truncated else s.mask for s in samples]

    def advantages(self, rewards: Tensor, group: Tensor) -> Tensor:
        return group_advantages(rewards, group, self.centre, self.scale)

    def update(self, batch: Batch) -> Metrics:
        return self.descend(self.loss, self.passes(batch))

    def passes(self, batch: Batch) -> list[Experience]:
        """A minibatch in the parts that one gradient step takes through the loss."""
        limit = self.max_tokens or self.task.max_tokens
        weighed = batch.with_weights(lambda mask, segment: step_weights(mask, segment, self.average, limit))
        return weighed.micro(self.micro_tokens, None if self.kl_weight and self.kl_in_loss else _teaches_nothing)

    def loss(self, batch: Experience) -> tuple[Tensor, Outputs]:
        """Clipped surrogate, and the divergence from the reference, of some packed answers."""
        scored = self.language_policy.score(batch, self.learning_temperature)
        chosen = batch.mask.bool()
        ids, logp, old_logp, advantage, weight, entropy = (
            x[chosen] for x in (batch.action, scored.logp, batch.logp, batch.advantage, batch.weight, scored.entropy)
        )
        loss, ratio = ppo_clip(logp, old_logp, advantage, self.clips, weight=weight, cap=self.dual_clip)
        outputs = {"loss/policy": loss, **over_tokens(ids, ratio, advantage, self.clips, entropy)}
        if batch.ref_logp is not None and self.kl_in_loss:
            kl = kl_estimate(logp, batch.ref_logp[chosen])
            loss = loss + self.kl_weight * (kl * weight).sum()
            outputs["policy/kl_reference"] = kl.sum()
        return loss + self.further(entropy, weight), outputs

    def further(self, entropy: Tensor, weight: Tensor) -> Tensor | float:
        """What else the loss of chosen tokens has, given their entropies and what they weigh, `(N,)`."""
        return 0.0


def with_spread(samples: list[Sample]) -> set[int]:
    """The groups whose rewards differ."""
    if not samples:
        return set()
    rewards, group = torch.tensor([s.reward for s in samples]), torch.tensor([s.group for s in samples])
    return set(group[has_spread(rewards, group)].tolist())


def regrouped(first: list[Sample], second: list[Sample]) -> list[Sample]:
    """Two lists of answers as one, their groups numbered from 0."""
    groups = {(part, s.group) for part, samples in enumerate((first, second)) for s in samples}
    number = {group: i for i, group in enumerate(sorted(groups))}
    for part, samples in enumerate((first, second)):
        for s in samples:
            s.group = number[part, s.group]
    return first + second


def _teaches_nothing(part: Experience) -> bool:
    """Whether an answer has no gradient: its advantage is 0, or none of its tokens counts."""
    return not bool((part.weight * part.advantage != 0).any())
