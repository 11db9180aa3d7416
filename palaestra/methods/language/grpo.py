"""Group relative policy optimisation (Shao et al., arXiv 2402.03300), with every switch of "Tricks or Traps?" (2508.08221)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from palaestra.core.errors import require
from palaestra.core.experience import Experience
from palaestra.core.hints import NonNegativeInt, PositiveFloat
from palaestra.core.method import Metrics, Paper
from palaestra.core.task import Task
from palaestra.language.sample import Sample
from palaestra.language.verifiers.length import SoftOverlong
from palaestra.methods.language.batch import Batch
from palaestra.methods.language.clipped_surrogate import ClippedSurrogate, over_tokens
from palaestra.nets.gradient import Outputs
from palaestra.nets.normalise import RunningMoments
from palaestra.objectives.divergences import kl_estimate
from palaestra.objectives.policy import ppo_clip
from palaestra.objectives.returns import standardise
from palaestra.objectives.segments import (
    Average,
    Centre,
    Scale,
    group_advantages,
    group_mean,
    has_spread,
    step_weights,
)

RewardScale = Literal["none", "deviation", "standardise"]
"""Normalisation of rewards by the statistics of all so far: none, divided by their standard deviation, or standardised."""


@dataclass
class GRPO(ClippedSurrogate):
    """PPO's clipped surrogate without a critic: an answer's advantage is its reward compared with those of its group."""

    paper: ClassVar[Paper] = Paper(
        "DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open Language Models", 2024, "2402.03300"
    )
    summary: ClassVar[str] = "clipped surrogate, advantages relative to a group of answers"

    centre: Centre = "group"
    """Baseline of the rewards: the mean of the group, of the others in it (leave-one-out), of the batch, or none."""
    scale: Scale = "group"
    """What advantages are divided by: the deviation of the group's or of the whole batch's rewards, or nothing."""
    average: Average = "sequence-mean"
    """How the loss averages over tokens: over all of the batch (token-mean), over each answer first (sequence-mean), or as the
    sum over each answer (sequence-sum), divided by the limit on tokens (sequence-sum-norm)."""
    clip: float | None = 0.2
    """Epsilon of the clipped ratio; None clips nothing, upwards either."""
    clip_high: float | None = None
    """Epsilon upwards, where it differs."""
    dual_clip: float | None = None
    """Cap of the ratio where the advantage is negative (dual-clip PPO); None has none."""
    overlong: Literal["keep", "mask"] = "keep"
    """Learn from answers that the limit cut off, or mask them out."""
    soft_overlong: float = 0.0
    """The last share of the limit over which an answer loses up to 1 of its reward (0.2 in DAPO's paper); 0 for none."""
    difficulty: tuple[float, float] | None = None
    """Mask out groups whose mean reward does not lie between these two, such as 0.1 and 0.95; None masks none."""
    reward_scale: RewardScale = "none"
    """Normalisation of rewards by the statistics of all so far: none, divided by their standard deviation, or standardised."""
    reward_clip: PositiveFloat | None = None
    """Largest absolute value of a reward after that; None clips nothing."""
    standardise: bool = False
    """Standardise advantages over all tokens of a round."""
    advantage_clip: PositiveFloat | None = None
    """Largest absolute value of an advantage; None clips nothing."""
    resample: NonNegativeInt = 0
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
        require(self.group > 1 or not self.resample, "group = 1 has no spread to wait for; leave resample at 0")
        require(0 <= self.soft_overlong <= 1, f"soft_overlong is a share of the limit, got {self.soft_overlong}")
        if self.difficulty is not None:
            low, high = self.difficulty
            require(low < high, f"difficulty must rise, got {low} to {high}")
            require(self.group > 1, "group = 1 says nothing about how difficult a prompt is; leave difficulty out")
        undone = self.reward_scale != "none" and self.scale != "none" and self.reward_clip is None
        require(not undone, f"scale={self.scale} undoes reward_scale; give scale=none, or a reward_clip")

    def setup(self, task: Task) -> None:
        super().setup(task)
        self.moments = RunningMoments()

    @property
    def clips(self) -> tuple[float, float]:
        """How far below and above 1 a ratio may be."""
        if self.clip is None:
            return math.inf, math.inf
        return self.clip, self.clip if self.clip_high is None else self.clip_high

    def sample(self) -> tuple[list[Sample], Metrics]:
        samples, metrics = super().sample()
        if not self.resample or not samples:
            return samples, metrics
        again = 0
        while again < self.resample and (alike := self.prompts - len(spread := with_spread(samples))):
            kept = [s for s in samples if s.group in spread]
            samples = regrouped(kept, self.answers(self.next_rows(alike), f"round/{self.round}/again/{again}"))
            again += 1
        return samples, {**metrics, "groups/resampled": torch.tensor(float(again))}

    def usable(self, samples: list[Sample]) -> list[Tensor]:
        masked = torch.tensor([self.overlong == "mask" and s.truncated for s in samples])
        if self.difficulty is not None:
            mean = group_mean(torch.tensor([s.reward for s in samples]), torch.tensor([s.group for s in samples]))
            masked |= (mean <= self.difficulty[0]) | (mean >= self.difficulty[1])
        return [torch.zeros_like(s.mask) if out else s.mask for s, out in zip(samples, masked.tolist(), strict=True)]

    def learnable(self, samples: list[Sample], rewards: Tensor, group: Tensor) -> Batch:
        if self.soft_overlong:  # only here: which groups are resampled or masked, rewards alone decide
            limit = self.max_tokens or self.task.max_tokens
            punish = SoftOverlong(limit, max(1, round(self.soft_overlong * limit)))
            rewards = rewards + torch.tensor(punish([s.completion.tolist() for s in samples]))
        return super().learnable(samples, rewards, group)

    def advantages(self, rewards: Tensor, group: Tensor) -> Tensor:
        return group_advantages(self.on_scale(rewards), group, self.centre, self.scale)

    def on_scale(self, rewards: Tensor) -> Tensor:
        """Rewards `(n,)` normalised by the statistics of all so far, these among them, and clipped."""
        if self.reward_scale != "none":
            self.moments.update(rewards)
            centre = self.moments.mean if self.reward_scale == "standardise" else 0.0
            rewards = ((rewards - centre) / self.moments.deviation).to(rewards.dtype)
        return rewards if self.reward_clip is None else rewards.clamp(-self.reward_clip, self.reward_clip)

    def credited(self, batch: Batch, rewards: Tensor, group: Tensor) -> Batch:
        return self.whitened(super().credited(batch, rewards, group))

    def whitened(self, batch: Batch) -> Batch:
        """The answers with their advantages standardised over all tokens that count, and clipped, as far as that is asked for."""
        if not self.standardise and self.advantage_clip is None:
            return batch
        chosen = [part.mask.bool() for part in batch.parts]
        every = torch.cat([part.advantage[c] for part, c in zip(batch.parts, chosen, strict=True)])
        limit = math.inf if self.advantage_clip is None else self.advantage_clip
        every = (standardise(every) if self.standardise else every).clamp(-limit, limit)
        each = every.split([int(c.sum()) for c in chosen])
        return batch.replace(advantage=[at_chosen(a, c) for a, c in zip(each, chosen, strict=True)])

    def update(self, batch: Batch) -> Metrics:
        return self.descend(self.loss, self.passes(batch))

    def passes(self, batch: Batch) -> list[Experience]:
        """A minibatch in the parts that one gradient step takes through the loss."""
        limit = self.max_tokens or self.task.max_tokens
        weighed = batch.with_weights(lambda mask, segment: step_weights(mask, segment, self.average, limit))
        return weighed.micro(self.micro_tokens, None if self.holds_all else _teaches_nothing)

    def loss(self, batch: Experience) -> tuple[Tensor, Outputs]:
        """Clipped surrogate, and the divergence from the reference, of some packed answers."""
        scored = self.language_policy.score(batch, self.learning_temperature)
        chosen = batch.mask.bool()
        ids, logp, old_logp, advantage, weight, entropy = (
            x[chosen] for x in (batch.action, scored.logp, batch.logp, batch.advantage, batch.weight, scored.entropy)
        )
        loss, ratio = ppo_clip(logp, old_logp, advantage, self.clips, weight=weight, cap=self.dual_clip)
        outputs = {"loss/policy": loss, **over_tokens(ids, ratio, advantage, self.clips, entropy)}
        if batch.ref_logp is not None:
            kl = kl_estimate(logp, batch.ref_logp[chosen])
            outputs["policy/kl_reference"] = kl.sum()
            if self.kl_in == "loss":
                loss = loss + self.kl_weight * (kl * weight).sum()
        return loss + self.further(entropy, weight), outputs

    def further(self, entropy: Tensor, weight: Tensor) -> Tensor | float:
        """Further terms of the loss, given the entropies and weights of chosen tokens, `(N,)`; none here."""
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


def at_chosen(values: Tensor, chosen: Tensor) -> Tensor:
    """Values of chosen tokens at their places, 0 elsewhere."""
    return torch.zeros(len(chosen)).masked_scatter(chosen, values)


def _teaches_nothing(part: Experience) -> bool:
    """Whether an answer has no gradient: its advantage is 0, or none of its tokens counts."""
    return not bool((part.weight * part.advantage != 0).any())
