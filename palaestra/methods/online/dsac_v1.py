"""Distributional soft actor-critic, DSACv1 (Duan et al., arXiv 2001.02811): `dsac-t` without its three refinements.

One critic, the sampled return as the target of mean and deviation alike, and a fixed clipping bound, which has to suit the
task's reward scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from palaestra.core.method import Paper
from palaestra.methods.online.dsac_t import DSACT


@dataclass
class DSACV1(DSACT):
    """Distributional soft actor-critic, the first version."""

    paper: ClassVar[Paper] = Paper(
        "Distributional Soft Actor-Critic: Off-Policy Reinforcement Learning for Addressing Value Estimation Errors",
        2020,
        "2001.02811",
    )
    summary: ClassVar[str] = "soft actor-critic with one Gaussian return critic and a fixed clipping bound"

    expected_target: bool = False
    """Train the mean on the expected target instead of the sampled return (refinement 1 of DSAC-T)."""
    twin: bool = False
    """Two critics instead of one (refinement 2)."""
    td_bound: float | None = 1.0
    """Clipping bound of the sampled target, in units of return; None adapts bound and scale (refinement 3)."""
