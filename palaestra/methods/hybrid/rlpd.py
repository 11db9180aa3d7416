"""Reinforcement learning with prior data, RLPD (Ball et al., arXiv 2302.02948): soft actor-critic, half of every batch logged.

Three things let it learn from steps that its policy would not take: half of each batch is the dataset's, the critics are layer
normalised so that they cannot run away, and there are many of them, of which a few drawn at random give the target.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from palaestra.core.errors import require
from palaestra.core.experience import Experience
from palaestra.core.method import Metrics, Paper
from palaestra.core.task import Task
from palaestra.data.dataset import COLUMNS
from palaestra.data.sampling import Sampler
from palaestra.methods.online.sac import SAC
from palaestra.nets.polyak import polyak


@dataclass
class RLPD(SAC):
    """Soft actor-critic from logged and fresh steps, with an ensemble of normalised critics."""

    paper: ClassVar[Paper] = Paper("Efficient Online Reinforcement Learning with Offline Data", 2023, "2302.02948")
    summary: ClassVar[str] = "soft actor-critic from half logged, half fresh steps, with normalised critics"
    family: ClassVar[str] = "hybrid"
    learns_from: ClassVar[str] = "both"

    offline: Literal["half", "buffer"] = "half"
    """The logged steps are half of every batch, or the first in the replay buffer (as in SAC from demonstrations)."""
    critics_count: int = 10
    """E: critics."""
    target_critics: int = 2
    """Z: critics drawn at every update, of which the smallest value gives the target."""
    critic_layer_norm: bool = True
    """Normalise the hidden layers of the critics."""
    actor_q: Literal["min", "mean"] = "mean"
    """Which of the critics' values the actor ascends."""
    updates_per_round: int = 20
    """G: updates of the critics per round, of which the last one is the actor's too."""
    warmup_steps: int = 5_000
    """Steps collected at random before the first update."""
    target_entropy: float | None = None
    """Entropy the temperature aims at; None is -dim(A)/2, for actions scaled to [-1, 1]."""

    def check(self) -> None:
        super().check()
        require(self.offline in ("half", "buffer"), f"offline must be half or buffer, got {self.offline!r}")
        require(self.batch_size >= 2, f"batch_size must be at least 2, half of it logged, got {self.batch_size}")
        require(
            1 <= self.target_critics <= self.critics_count,
            f"target_critics must be 1 to critics_count ({self.critics_count}), got {self.target_critics}",
        )

    def setup(self, task: Task) -> None:
        super().setup(task)
        if self.target_entropy is None:
            self.entropy_goal = -self.actor.box.size / 2

    def setup_sources(self, task: Task) -> None:
        super().setup_sources(task)
        logged = task.dataset  # type: ignore[attr-defined]
        self.data = Sampler(logged, self.streams, name="logged")
        if self.offline == "buffer":
            require(
                len(logged) < self.buffer_size,
                f"buffer_size ({self.buffer_size}) must hold more than the {len(logged)} steps of {logged.name}",
            )
            self.replay.add(logged.steps)

    def minibatch(self) -> Experience:
        if self.offline == "buffer":
            return super().minibatch()
        half = self.batch_size // 2
        fresh, logged = self.replay.sample(self.batch_size - half), self.data.sample(half)
        return Experience.cat([fresh.only(*COLUMNS), logged.only(*COLUMNS)])

    def update(self, batch: Experience, noise: torch.Generator) -> Metrics:
        alpha = self.log_alpha.detach().exp()
        among = torch.randperm(self.critics_count, generator=noise)[: self.target_critics]
        drawn = self.actor.normal_noise(batch, noise)
        metrics = self.critic_optimiser.descend(self.critic_loss, batch, alpha, drawn, among)
        polyak(self.targets, self.critics, self.tau)
        if (self.counters.updates + 1) % self.updates_per_round == 0:
            drawn = self.actor.normal_noise(batch, noise)
            metrics |= self.actor_optimiser.descend(self.actor_loss, batch.obs, alpha, drawn)
        return {**metrics, "policy/alpha": alpha}
