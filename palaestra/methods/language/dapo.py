"""DAPO (Yu et al., arXiv 2503.14476): GRPO with clip-higher, a token-level loss and dynamic sampling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from palaestra.core.method import Paper
from palaestra.methods.language.grpo import GRPO
from palaestra.objectives.segments import Average


@dataclass
class DAPO(GRPO):
    """GRPO with decoupled clip ranges and dynamic sampling: groups whose rewards are all equal are replaced by fresh prompts.

    `soft_overlong`, 0.2 in the paper, is off, since right answers to generated tasks may be as long as the limit.
    """

    paper: ClassVar[Paper] = Paper(
        "DAPO: An Open-Source LLM Reinforcement Learning System at Scale", 2025, "2503.14476"
    )
    summary: ClassVar[str] = "GRPO with clip-higher, token-level loss and dynamic sampling"

    average: Average = "token-mean"
    clip_high: float | None = 0.28
    resample: int = 3
