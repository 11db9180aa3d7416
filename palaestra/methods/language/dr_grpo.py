"""Dr. GRPO (Liu et al., arXiv 2503.20783): GRPO without the two divisions that bias it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from palaestra.core.method import Paper
from palaestra.methods.language.grpo import GRPO
from palaestra.objectives.segments import Average, Scale


@dataclass
class DrGRPO(GRPO):
    """GRPO whose advantages are not divided by the group's standard deviation, nor answers' losses by their length."""

    paper: ClassVar[Paper] = Paper("Understanding R1-Zero-Like Training: A Critical Perspective", 2025, "2503.20783")
    summary: ClassVar[str] = "GRPO without division by deviation or length"

    scale: Scale = "none"
    average: Average = "sequence-sum-norm"
