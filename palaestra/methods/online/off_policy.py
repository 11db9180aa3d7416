"""What off-policy methods share: collect into a replay buffer, then update from it at a fixed ratio."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from palaestra.core.errors import require
from palaestra.core.experience import Experience
from palaestra.core.hints import NonNegativeInt, PositiveInt, UnitInterval
from palaestra.core.method import Method, Metrics
from palaestra.core.policy import Policy
from palaestra.core.task import Task
from palaestra.data.replay import Replay
from palaestra.envs.rollout import Rollout


@dataclass
class OffPolicy(Method):
    """A method that learns from a replay buffer; a subclass defines `update` for one batch."""

    random_warmup: ClassVar[bool] = True
    """Whether the warm-up acts uniformly at random or with the untrained policy."""

    gamma: UnitInterval = 0.99
    """Discount factor."""
    batch_size: PositiveInt = 256
    """Steps per update."""
    buffer_size: int = 1_000_000
    """Replay capacity in steps."""
    warmup_steps: PositiveInt = 10_000
    """Steps collected at random before the first update."""
    num_envs: PositiveInt = 1
    """Environments stepped together."""
    steps_per_round: PositiveInt = 1
    """Steps of every environment between rounds of updates."""
    reward_scale: float = 1.0
    """Factor on rewards as they are learnt from; returns are reported unscaled."""
    updates_per_round: NonNegativeInt = 1
    """Updates per round; with num_envs = steps_per_round = 1, the updates per environment step."""

    def check(self) -> None:
        super().check()
        require(
            self.buffer_size >= self.batch_size,
            f"buffer_size ({self.buffer_size}) must hold a batch ({self.batch_size})",
        )

    def setup_sources(self, task: Task) -> None:
        """The rollout and the replay buffer."""
        self.rollout = Rollout(task.envs(self.num_envs, self.streams, "train"), self.streams, self.counters)
        self.replay = Replay(self.buffer_size, self.streams)

    def step(self) -> Metrics:
        warming_up = self.counters.steps < self.warmup_steps
        random = warming_up and self.random_warmup
        self.replay.add(self.rollout.collect(self.behaviour(), self.steps_per_round, random))
        metrics: Metrics = {}
        if not warming_up:
            for _ in range(self.updates_per_round):
                noise = self.streams.generator("update", self.counters.updates)
                metrics |= self.update(self.scaled(self.minibatch()), noise)
                self.counters.updates += 1
        return {**metrics, **self.rollout.metrics}

    def behaviour(self) -> Policy:
        """The policy that collects."""
        return self.policy()

    def minibatch(self) -> Experience:
        """The steps of the next update."""
        return self.replay.sample(self.batch_size)

    def scaled(self, batch: Experience) -> Experience:
        """`batch` with its rewards as they are learnt from."""
        return batch.replace(reward=self.reward_scale * batch.reward)

    def update(self, batch: Experience, noise: torch.Generator) -> Metrics:
        """One update from one batch of scaled rewards; all its randomness comes from `noise`."""
        raise NotImplementedError
