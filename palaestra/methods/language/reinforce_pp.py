"""REINFORCE++ (Hu et al., arXiv 2501.03262): advantages of tokens, standardised over the whole batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from palaestra.core.method import Paper
from palaestra.methods.language.batch import Batch
from palaestra.methods.language.grpo import GRPO
from palaestra.methods.language.rounds import KLIn
from palaestra.objectives.segments import Average, Centre, Scale


@dataclass
class ReinforcePP(GRPO):
    """REINFORCE with a clip and no critic: a token's advantage is its return, the answer's reward less the weighted log-ratios to
    the reference from that token on, standardised over the batch."""

    paper: ClassVar[Paper] = Paper("REINFORCE++: Stabilizing Critic-Free Policy Optimization", 2025, "2501.03262")
    summary: ClassVar[str] = "token returns with the divergence in the reward, standardised over the batch"
    kl_in: ClassVar[KLIn] = "tokens"

    group: int = 1
    prompts: int = 128
    centre: Centre = "batch"
    """Baseline of the rewards: the mean of the group, of the others in it (leave-one-out), of the batch, or none."""
    scale: Scale = "none"
    """What rewards are divided by before the returns of tokens are standardised."""
    average: Average = "token-mean"
    standardise: bool = True
    kl_weight: float = 0.001
    """Weight of the log-ratio to the reference, which is subtracted from the rewards of tokens."""

    def credited(self, batch: Batch, rewards: Tensor, group: Tensor) -> Batch:
        returns = []
        for part, reward in zip(batch.parts, self.advantages(rewards, group), strict=True):
            penalty = torch.zeros(len(part)) if part.ref_logp is None else self.kl_weight * (part.logp - part.ref_logp)
            returns.append(reward - (penalty * part.mask).flip(0).cumsum(0).flip(0))
        return self.whitened(batch.replace(advantage=returns))
