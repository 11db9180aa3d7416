"""Lite PPO (Liu et al., arXiv 2508.08221): the two techniques that "Tricks or Traps?" keeps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from palaestra.core.method import Paper
from palaestra.methods.language.grpo import GRPO
from palaestra.objectives.segments import Average, Scale


@dataclass
class LitePPO(GRPO):
    """Critic-free PPO: group mean as the baseline, advantages divided by the batch's standard deviation, token-level loss."""

    paper: ClassVar[Paper] = Paper("Part I: Tricks or Traps? A Deep Dive into RL for LLM Reasoning", 2025, "2508.08221")
    summary: ClassVar[str] = "group mean, batch deviation, token-level loss, and nothing else"

    scale: Scale = "batch"
    average: Average = "token-mean"
