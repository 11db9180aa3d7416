"""Reinforced token optimisation (Zhong et al., arXiv 2404.18922): PPO with token rewards from a DPO policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from palaestra.core.errors import require
from palaestra.core.hints import NonNegativeFloat, PositiveFloat
from palaestra.core.method import Metrics, Paper
from palaestra.core.task import Task
from palaestra.language.anchors import Anchor
from palaestra.language.judges.implicit import ImplicitRewards
from palaestra.methods.language.batch import Batch
from palaestra.methods.language.ppo_lm import PPOLM
from palaestra.objectives.calibration import correlation
from palaestra.objectives.segments import Average


@dataclass
class RTO(PPOLM):
    """PPO with the log-ratio of a policy that DPO trained to the reference as the reward of each token."""

    paper: ClassVar[Paper] = Paper("DPO Meets PPO: Reinforced Token Optimization for RLHF", 2024, "2404.18922")
    summary: ClassVar[str] = "PPO with rewards of tokens from a DPO policy"
    family: ClassVar[str] = "preference"

    model: str = "sft:tiny-64x2"
    kl_weight: float = 0.01
    value_clip: float | None = 0.2
    average: Average = "sequence-mean"
    dpo_model: str = ""
    """The policy that DPO trained from the reference, by its name or folder."""
    beta1: NonNegativeFloat = 0.05
    """Weight of its log-ratio to the reference in the reward of a token; 0 is PPO."""
    token_clip: PositiveFloat | None = 0.05
    """The largest size of a token's weighted log-ratio; None clips nothing."""
    beta3: NonNegativeFloat = 1.0
    """Weight of the answer's own reward; 0 leaves those of tokens alone."""
    dense: bool = True
    """Reward each token when it is chosen; else their sum comes with the last one."""

    def check(self) -> None:
        super().check()
        require(bool(self.dpo_model), "rto takes rewards from a policy that DPO trained; name it by dpo_model")

    @property
    def refers(self) -> bool:
        return True

    def setup(self, task: Task) -> None:
        super().setup(task)
        self.dpo = Anchor.beside(self.language_policy, self.dpo_model, self.task)

    def credited(self, batch: Batch, rewards: Tensor, group: Tensor) -> Batch:
        assert self.anchor is not None
        judge = ImplicitRewards(self.dpo.policy, self.anchor.policy, self.beta1)
        parts = batch.parts
        if self.learning_temperature != 1:  # what DPO fitted are log-ratios at temperature 1
            parts = [part.replace(ref_logp=None) for part in parts]
        given = [self.clamped(reward) for reward in judge.of(parts, self.micro_tokens)]
        if not self.dense:
            given = [_at_the_end(reward, part.mask) for reward, part in zip(given, batch.parts, strict=True)]
        return super().credited(batch.replace(reward=given), rewards, group)

    def on_scale(self, rewards: Tensor) -> Tensor:
        return self.beta3 * super().on_scale(rewards)

    def clamped(self, reward: Tensor) -> Tensor:
        """beta1 log pi_dpo / pi_ref of tokens, weighted first and then clipped, as the released code does."""
        return reward if self.token_clip is None else reward.clamp(-self.token_clip, self.token_clip)

    def looked_back(self, batch: Batch, rewards: Tensor) -> Metrics:
        """How large the rewards of tokens are, how much of them is the end's, and whether they go with the answers' own."""
        given = [part.reward[part.mask.bool()] for part in batch.parts]
        size = torch.cat(given).abs()
        end = torch.cat([r[-1:] for r in given]).abs().sum()
        return {
            "dpo/size": size.mean(),
            "dpo/end_share": end / size.sum().clamp(min=1e-12),
            "dpo/correlation": correlation(torch.stack([r.sum() for r in given]), rewards),
        }


def _at_the_end(reward: Tensor, mask: Tensor) -> Tensor:
    """The sum of rewards `(L,)` at the last token with mask 1, if there is one, 0 elsewhere."""
    return torch.zeros_like(reward).index_fill(0, mask.nonzero()[-1:, 0], float(reward.sum()))
