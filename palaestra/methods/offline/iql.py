"""Implicit Q-learning, IQL (Kostrikov, Nair and Levine, arXiv 2110.06169): no action outside the data is ever valued.

V is an upper expectile of Q over the recorded actions, so that Q can bootstrap from it, and the policy is a regression on
the recorded actions weighted by how much better than V they are. Equation numbers are the paper's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from palaestra.core.errors import require
from palaestra.core.experience import Experience
from palaestra.core.hints import NonNegativeFloat, PositiveFloat
from palaestra.core.method import Metrics, Paper
from palaestra.core.task import Task
from palaestra.methods.offline.offline import Offline
from palaestra.nets.actors import Critic, GaussianActor, StateValue
from palaestra.nets.adam import Adam
from palaestra.nets.gradient import Outputs
from palaestra.nets.polyak import polyak, target_of
from palaestra.objectives.offline import expectile_loss, exponential_weights, weighted_likelihood
from palaestra.objectives.value import squared_error, td_target


@dataclass
class IQL(Offline):
    """Implicit Q-learning."""

    paper: ClassVar[Paper] = Paper("Offline Reinforcement Learning with Implicit Q-Learning", 2021, "2110.06169")
    summary: ClassVar[str] = "values by expectile regression on the data alone, policy by weighted regression"

    lr: float = 3e-4
    """Adam's learning rate for values, critics and, at first, the actor."""
    actor_cosine: bool = True
    """Lower the actor's learning rate to 0 over the budget, along a cosine."""
    network: tuple[int, ...] = (256, 256)
    """Hidden sizes of actor, values and critics; in Python also a function (inputs, outputs) -> module."""
    activation: str = "relu"
    """relu, tanh, gelu or silu."""
    tau: float = 0.005
    """Step of the target critics towards the online ones."""
    expectile: float = 0.7
    """Of Q over recorded actions that V estimates: 0.5 is their mean, towards 1 their best (0.9 on AntMaze)."""
    beta: NonNegativeFloat = 3.0
    """Inverse temperature of the weights exp(beta A): 0 clones all actions alike (10 on AntMaze, 0.5 on Kitchen and Adroit)."""
    weight_limit: PositiveFloat = 100.0
    """The largest weight of an action."""

    def check(self) -> None:
        super().check()
        require(0 < self.tau <= 1, f"tau must be in (0, 1], got {self.tau}")
        require(0 < self.expectile < 1, f"expectile must be in (0, 1), got {self.expectile}")

    def setup(self, task: Task) -> None:
        self.setup_data(task)
        observations, build = task.observation_space, (self.network, self.activation)
        self.actor = GaussianActor(observations, task.action_space, *build, standardise=self.normalise_obs)
        self.value = StateValue(observations, *build, standardise=self.normalise_obs)
        self.critics = Critic(observations, self.actor.box.size, *build, standardise=self.normalise_obs)
        for net in (self.actor, self.value, self.critics):
            net.encoder.fit(self.data.dataset.steps.obs)
        self.target_critics = target_of(self.critics)
        self.value_optimiser = Adam(self.value.parameters(), self.lr)
        self.actor_optimiser = Adam(self.actor.parameters(), self.lr)
        self.critic_optimiser = Adam(self.critics.parameters(), self.lr)

    def policy(self) -> GaussianActor:
        return self.actor

    def update(self, batch: Experience, noise: torch.Generator) -> Metrics:
        metrics = self.value_optimiser.descend(self.value_loss, batch.obs, batch.action)
        q = metrics.pop("q")
        if self.actor_cosine:
            self.actor_optimiser.lr = self.lr * 0.5 * (1 - math.cos(math.pi * self.remaining))
        metrics |= self.actor_optimiser.descend(self.actor_loss, batch.obs, batch.action, q)
        metrics |= self.critic_optimiser.descend(self.critic_loss, batch)
        polyak(self.target_critics, self.critics, self.tau)
        return metrics

    def value_loss(self, obs: Any, action: Tensor) -> tuple[Tensor, Outputs]:
        """Expectile regression of V on the target critics' smaller Q, which is an output, `(B,)`."""
        with torch.no_grad():
            q = self.target_critics.q(obs, action).amin(0)
        value = self.value(obs)
        loss = expectile_loss(q - value, self.expectile)  # eq. 5
        return loss, {"loss/value": loss, "value/v": value.mean(), "q": q}

    def actor_loss(self, obs: Any, action: Tensor, q: Tensor) -> tuple[Tensor, Outputs]:
        """Advantage-weighted regression on the recorded actions."""
        with torch.no_grad():
            weight = exponential_weights(q - self.value(obs), self.beta, self.weight_limit)
        loss = weighted_likelihood(self.actor.distribution(obs).logp(action), weight)  # eq. 7
        return loss, {"loss/actor": loss, "policy/weight": weight.mean()}

    def critic_loss(self, batch: Experience) -> tuple[Tensor, Outputs]:
        """Squared error to the reward plus the discounted value of the next state."""
        with torch.no_grad():
            y = td_target(batch.reward, self.value(batch.next_obs), batch.terminated, self.gamma)
        q = self.critics.q(batch.obs, batch.action)
        loss = squared_error(q, y)  # eq. 6
        return loss, {"loss/critic": loss, "value/q": q.mean()}
