"""Soft actor-critic with automatic temperature (Haarnoja et al., arXiv 1812.05905).

Equation numbers are the paper's. Where the released TensorFlow code differs, both are options and the paper is the
default: the actor loss takes the minimum of the two critics (the code takes their mean, `actor_q="mean"`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from palaestra.core.errors import require
from palaestra.core.experience import Experience
from palaestra.core.hints import NonNegativeFloat, PositiveInt
from palaestra.core.method import Metrics, Paper
from palaestra.core.task import Task
from palaestra.methods.online.off_policy import OffPolicy
from palaestra.nets.actors import Critic, SquashedGaussianActor
from palaestra.nets.adam import Adam
from palaestra.nets.gradient import Outputs
from palaestra.nets.polyak import polyak, target_of
from palaestra.objectives.policy import entropy_regularised, temperature
from palaestra.objectives.value import soft_value, squared_error, td_target


@dataclass
class SAC(OffPolicy):
    """Soft actor-critic."""

    paper: ClassVar[Paper] = Paper("Soft Actor-Critic Algorithms and Applications", 2018, "1812.05905")
    summary: ClassVar[str] = "off-policy maximum-entropy actor-critic with a learned temperature"

    lr: float = 3e-4
    """Adam's learning rate for actor, critics and temperature."""
    network: tuple[int, ...] = (256, 256)
    """Hidden sizes of actor and critics; in Python also a function (inputs, outputs) -> module."""
    activation: str = "relu"
    """relu, tanh, gelu, silu or selu."""
    tau: float = 0.005
    """Step of the target networks towards the online ones."""
    alpha: NonNegativeFloat | None = None
    """A fixed temperature; None learns it."""
    alpha_init: float = 1.0
    """Where the learned temperature starts."""
    target_entropy: float | None = None
    """Entropy the temperature aims at; None is -dim(A), for actions scaled to [-1, 1]."""
    actor_q: Literal["min", "mean"] = "min"
    """Which of the critics' values the actor ascends: the paper's minimum or the released code's mean."""
    critics_count: PositiveInt = 2
    """Critics, of which the smallest value gives the target."""
    critic_layer_norm: bool = False
    """Normalise the hidden layers of the critics."""

    def check(self) -> None:
        super().check()
        require(0 < self.tau <= 1, f"tau must be in (0, 1], got {self.tau}")

    def setup(self, task: Task) -> None:
        build = (self.network, self.activation)
        self.actor = SquashedGaussianActor(task.observation_space, task.action_space, *build)
        critics = {"copies": self.critics_count, "layer_norm": self.critic_layer_norm}
        self.critics = Critic(task.observation_space, self.actor.box.size, *build, **critics)
        self.targets = target_of(self.critics)
        self.log_alpha = torch.tensor(self.alpha if self.alpha is not None else self.alpha_init).log().requires_grad_()
        self.entropy_goal = -float(self.actor.box.size) if self.target_entropy is None else self.target_entropy
        self.critic_optimiser = Adam(self.critics.parameters(), self.lr)
        learnt = [self.log_alpha] if self.alpha is None else []
        self.actor_optimiser = Adam([*self.actor.parameters(), *learnt], self.lr)
        self.setup_sources(task)

    def policy(self) -> SquashedGaussianActor:
        return self.actor

    def update(self, batch: Experience, noise: torch.Generator) -> Metrics:
        alpha = self.log_alpha.detach().exp()
        metrics = self.critic_optimiser.descend(self.critic_loss, batch, alpha, self.actor.normal_noise(batch, noise))
        metrics |= self.actor_optimiser.descend(
            self.actor_loss, batch.obs, alpha, self.actor.normal_noise(batch, noise)
        )
        polyak(self.targets, self.critics, self.tau)
        return {**metrics, "policy/alpha": alpha}

    def critic_loss(
        self, batch: Experience, alpha: Tensor, noise: Tensor, among: Tensor | None = None
    ) -> tuple[Tensor, Outputs]:
        """Squared soft Bellman error; the targets' minimum is over all critics, or over those that `among` `(K,)` names."""
        with torch.no_grad():
            next_action, next_logp = self.actor.sample(batch.next_obs, noise)
            next_qs = self.targets.q(batch.next_obs, next_action)
            next_q = (next_qs if among is None else next_qs[among]).amin(0)
            y = td_target(batch.reward, soft_value(next_q, next_logp, alpha), batch.terminated, self.gamma)  # eq. 3
        q = self.critics.q(batch.obs, batch.action)
        loss = squared_error(q, y)  # eq. 5
        return loss, {"loss/critic": loss, "value/q": q.mean()}

    def actor_loss(self, obs: Any, alpha: Tensor, noise: Tensor) -> tuple[Tensor, Outputs]:
        """What the actor minimises, and the temperature: one sum of two separate problems."""
        action, logp = self.actor.sample(obs, noise)
        qs = self.critics.q(obs, action, frozen=True).unbind()
        q = reduce(torch.minimum, qs) if self.actor_q == "min" else sum(qs) / len(qs)
        loss = entropy_regularised(logp, q, alpha)  # eq. 9
        metrics = {"loss/actor": loss, "policy/entropy": -logp.mean()}
        if self.alpha is None:  # alpha is a constant in the first problem, log pi in the second
            loss = loss + temperature(self.log_alpha, logp, self.entropy_goal)  # eq. 18
        return loss, metrics
