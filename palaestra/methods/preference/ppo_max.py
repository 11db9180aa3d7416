"""PPO-max (Zheng et al., arXiv 2307.04964): what of PPO's details keeps learning from a reward model stable."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from palaestra.core.errors import require
from palaestra.core.method import Metrics, Paper
from palaestra.language.generation.sampling import Sampling
from palaestra.methods.language.batch import Batch
from palaestra.methods.language.grpo import RewardScale
from palaestra.methods.language.language import Schedule
from palaestra.methods.language.ppo_lm import PPOLM


@dataclass
class PPOMax(PPOLM):
    """PPO on rewards that are standardised and clipped, held by the divergence of tokens, with a clipped critic that learns
    first, and demonstrations that stay likely."""

    paper: ClassVar[Paper] = Paper("Secrets of RLHF in Large Language Models Part I: PPO", 2023, "2307.04964")
    summary: ClassVar[str] = "PPO with running reward scales, token divergence, a clipped critic and demonstrations"
    family: ClassVar[str] = "preference"

    model: str = "sft:tiny-64x2"
    """A hub name, a folder (of a run, too), tiny-WIDTHxLAYERS, or sft:MODEL, which is fine-tuned on the task's answers first."""
    repetition_penalty: float = 1.0
    """Makes tokens that the prompt or the answer already has less likely when answers are sampled; 1 for none."""
    minibatches: int = 4
    kl_weight: float = 0.05
    """Weight of the divergence from the reference, on the scale of the standardised rewards."""
    reward_scale: RewardScale = "standardise"
    reward_clip: float | None = 0.8
    value_clip: float | None = 0.2
    critic_rounds: int = 5
    standardise: bool = False
    ptx_weight: float = 0.1

    def check(self) -> None:
        super().check()
        require(self.repetition_penalty > 0, f"repetition_penalty must be positive, got {self.repetition_penalty}")

    @property
    def sampling(self) -> Sampling:
        return replace(super().sampling, repetition_penalty=self.repetition_penalty)

    @property
    def refers(self) -> bool:
        return True  # how far the policy has gone is watched in any case

    def looked_back(self, batch: Batch, rewards: Tensor) -> Metrics:
        """What tells of a collapse before rewards do: perplexities of answers, and what the critic made of them."""
        logp, ref_logp, value, target = (
            torch.cat([getattr(part, name)[part.mask.bool()] for part in batch.parts])
            for name in ("logp", "ref_logp", "value", "target")
        )
        return {
            "answers/perplexity": (-logp.mean()).exp(),
            "answers/perplexity_reference": (-ref_logp.mean()).exp(),
            "value/mean": value.mean(),
            "value/target": target.mean(),
        }


@dataclass
class PPOMaxReleased(PPOMax):
    """What the released scripts switch on of it: rewards divided by their deviation, and clips of values and of ratios.

    How answers are sampled is no part of what they teach: both sides of a ratio are the model's own at temperature 1.
    """

    summary: ClassVar[str] = "PPO-max as its released scripts have it: rewards divided by their deviation"
    ignores_sampling: ClassVar[bool] = True

    temperature: float = 0.8
    """Of sampling alone; log-probabilities that are learnt from are at 1."""
    top_p: float = 0.9
    repetition_penalty: float = 1.1
    warmup: int = 100
    schedule: Schedule = "inverse-sqrt"
    kl_weight: float = 0.01
    """Weight of the divergence from the reference, on the scale of the rewards as divided."""
    reward_scale: RewardScale = "deviation"
    reward_clip: float | None = None
    critic_rounds: int = 0
    ptx_weight: float = 0.0
