"""Adversarial imitation learning via boosting, AILBoost (Chang et al., arXiv 2404.08513).

DAC holds the expert against whatever is in the replay buffer. Here past policies are the weak learners of an ensemble, whose
weights follow from functional gradient descent on the reverse KL divergence to the expert; the discriminator sees samples
of that ensemble, weighted so, and its opinion is the reward of the next weak learner.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from palaestra.core.errors import require
from palaestra.core.experience import Experience
from palaestra.core.hints import PositiveInt
from palaestra.core.method import Metrics, Paper
from palaestra.core.policy import Policy
from palaestra.core.seeding import Streams
from palaestra.core.task import Task
from palaestra.data.replay import Replay
from palaestra.envs.rollout import Rollout
from palaestra.methods.imitation.dac import DAC
from palaestra.nets.actors import SquashedGaussianActor
from palaestra.nets.ensemble import Ensemble
from palaestra.objectives.imitation import boosted_weights


@dataclass
class AILBoost(DAC):
    """DAC whose discriminator sees a weighted ensemble of past policies in place of the replay buffer."""

    paper: ClassVar[Paper] = Paper("Adversarial Imitation Learning via Boosting", 2024, "2404.08513")
    summary: ClassVar[str] = "adversarial imitation that boosts past policies into a weighted ensemble"

    lr: float = 1e-4
    """Adam's learning rate for actor, critics and temperature."""
    network: tuple[int, ...] = (1024, 1024)
    """Hidden sizes of actor and critics; in Python also a function (inputs, outputs) -> module."""
    batch_size: int = 1024
    """Steps per update, and per step of the discriminator, half of them the expert's."""
    warmup_steps: int = 5_000
    """Steps collected at random before the first weak learner."""
    steps_per_round: int = 2
    """Steps of every environment between rounds of updates."""
    divergence: Literal["js", "reverse_kl", "wasserstein"] = "reverse_kl"
    """What the discriminator estimates, between the expert's pairs and the ensemble's."""
    discriminator_lr: float = 1e-4
    """Adam's learning rate for the discriminator."""
    discriminator_network: tuple[int, ...] = (64, 64)
    """Its hidden sizes; in Python also a function (inputs, outputs) -> module, which must be twice differentiable."""
    discriminator_activation: str = "relu"
    """relu, tanh, gelu or silu."""
    bounded: bool = True
    """End the discriminator in a tanh, so that rewards stay within [-1, 1]."""
    boosting_rate: float = 0.05
    """Weight of a new weak learner; the paper's alpha. The first one keeps (1 - rate)^(T-1) after T of them."""
    boost_every: PositiveInt = 1_000
    """Training steps between weak learners."""
    learner_samples: PositiveInt = 1_000
    """Steps that each weak learner plays for the discriminator, counted as environment steps; best whole episodes."""
    discriminator_steps: PositiveInt = 100
    """Steps of the discriminator whenever a weak learner has joined."""
    max_learners: PositiveInt = 50
    """Weak learners that are kept; a further one replaces the oldest."""
    deploys: Literal["ensemble", "last"] = "ensemble"
    """What is evaluated and saved: the ensemble, a learner of which plays an episode, or the policy that is learning."""

    def check(self) -> None:
        super().check()
        require(0 < self.boosting_rate < 1, f"boosting_rate must be in (0, 1), got {self.boosting_rate}")
        needed = self.max_learners * self.learner_samples
        require(
            self.buffer_size >= needed,
            f"buffer_size ({self.buffer_size}) must hold {self.max_learners} learners' samples ({needed})",
        )
        require(self.deploys in ("ensemble", "last"), f"deploys must be ensemble or last, got {self.deploys!r}")

    def setup(self, task: Task) -> None:
        super().setup(task)
        self.learners: list[Tensor] = []  # parameters of the weak learners, oldest first
        self.weights = torch.zeros(0, dtype=torch.float64)
        self.samples = Replay(self.max_learners * self.learner_samples, self.streams, "ensemble")
        self.rounds, self.next_round = 0, self.warmup_steps

    def behaviour(self) -> SquashedGaussianActor:
        return self.actor

    def policy(self) -> Policy:  # type: ignore[override]
        if self.deploys == "last" or not self.learners:
            return self.actor
        return Ensemble.of([self.learner(parameters) for parameters in self.learners], self.weights)

    def learner(self, parameters: Tensor) -> SquashedGaussianActor:
        """An actor with these parameters."""
        actor = copy.deepcopy(self.actor)
        vector_to_parameters(parameters, actor.parameters())
        return actor

    def step(self) -> Metrics:
        metrics = self.boost() if self.counters.steps >= self.next_round else {}
        return {**metrics, **super().step()}

    def boost(self) -> Metrics:
        """One round: the present policy joins the ensemble, the discriminator learns the ensemble's ratio to the expert, and
        the next learner starts from the ensemble's samples."""
        self.samples.add(self.played())
        self.learners = [*self.learners, parameters_to_vector(self.actor.parameters()).detach()][-self.max_learners :]
        self.weights = boosted_weights(self.weights, self.boosting_rate, self.max_learners)
        self.rounds += 1
        metrics: Metrics = {"ensemble/first_weight": self.weights[0]}
        for i in range(self.discriminator_steps):
            noise = self.streams.generator("boost", self.rounds * self.discriminator_steps + i)
            metrics |= self.discriminate(noise)
        self.next_round = self.counters.steps + self.boost_every
        self.replay.clear()
        assert self.samples.storage is not None
        self.replay.add(self.samples.storage[: len(self.samples)])
        return metrics

    def played(self) -> Experience:
        """Fresh episodes of the present policy, `learner_samples` steps."""
        streams = Streams(self.streams.integer("learner", self.rounds))
        envs = self.task.envs(1, streams, "learner")
        rollout = Rollout(envs, streams, self.counters)
        steps = rollout.collect(self.actor, self.learner_samples).flatten().chosen()
        while (missing := self.learner_samples - len(steps)) > 0:  # where calls only reset a vector environment
            steps = Experience.cat([steps, rollout.collect(self.actor, missing).flatten().chosen()])
        envs.close()
        return steps

    def learner_pairs(self, count: int, noise: torch.Generator) -> Experience:
        """Steps of the ensemble: a learner by its weight, one of its samples uniformly."""
        learner = torch.multinomial(self.weights, count, replacement=True, generator=noise)
        # In the ring of samples each learner has a block, and the newest one replaces the oldest.
        block = (self.rounds - len(self.weights) + learner) % self.max_learners
        row = torch.randint(self.learner_samples, (count,), generator=noise)
        assert self.samples.storage is not None
        return self.samples.storage.take(block * self.learner_samples + row)

    def update(self, batch: Experience, noise: torch.Generator) -> Metrics:
        return self.improve(batch, noise)
