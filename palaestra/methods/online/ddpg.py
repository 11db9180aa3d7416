"""Deep deterministic policy gradient, DDPG (Lillicrap et al., arXiv 1509.02971): `td3` without its three changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from palaestra.core.method import Paper
from palaestra.methods.online.td3 import TD3


@dataclass
class DDPG(TD3):
    """Deep deterministic policy gradient."""

    paper: ClassVar[Paper] = Paper("Continuous control with deep reinforcement learning", 2015, "1509.02971")
    summary: ClassVar[str] = "off-policy deterministic actor-critic with one critic"

    critics_count: int = 1
    """Critics, of which the smallest value gives the target; two are TD3's first change."""
    target_noise: float = 0.0
    """Deviation of the noise on target actions; 0.2 is TD3's second change."""
    policy_delay: int = 1
    """Critic updates per update of actor and target networks; 2 is TD3's third change."""
