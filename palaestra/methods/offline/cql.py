"""Conservative Q-learning, CQL(H) (Kumar et al., arXiv 2006.04779), on soft actor-critic.

The critics' Bellman error has a penalty added: the soft maximum of Q over all actions, estimated from proposed ones, minus Q
of the recorded action, so that what the data do not contain is not overestimated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from palaestra.core.errors import require
from palaestra.core.experience import Experience
from palaestra.core.hints import NonNegativeFloat, PositiveInt
from palaestra.core.method import Metrics, Paper
from palaestra.core.task import Task
from palaestra.methods.offline.offline import Offline
from palaestra.nets.actors import Critic, SquashedGaussianActor
from palaestra.nets.adam import Adam
from palaestra.nets.distributions import SquashedGaussian
from palaestra.nets.gradient import Outputs
from palaestra.nets.polyak import polyak, target_of
from palaestra.objectives.offline import conservative_gap, constrained
from palaestra.objectives.policy import entropy_regularised, log_temperature
from palaestra.objectives.value import squared_error, td_target

LOG_STD_BOUNDS = (-20.0, 2.0)


@dataclass
class CQL(Offline):
    """Conservative Q-learning for continuous actions."""

    paper: ClassVar[Paper] = Paper("Conservative Q-Learning for Offline Reinforcement Learning", 2020, "2006.04779")
    summary: ClassVar[str] = "offline SAC whose critics are pushed down where the data have no actions"

    lr: float = 3e-4
    """Adam's learning rate for actor, critics and temperatures."""
    network: tuple[int, ...] = (256, 256)
    """Hidden sizes of actor and critics; in Python also a function (inputs, outputs) -> module."""
    activation: str = "relu"
    """relu, tanh, gelu or silu."""
    tau: float = 0.005
    """Step of the target networks towards the online ones."""
    alpha: NonNegativeFloat | None = None
    """A fixed temperature; None learns it."""
    target_entropy: float | None = None
    """Entropy the temperature aims at; None is -dim(A), for actions scaled to [-1, 1]."""
    conservative_weight: NonNegativeFloat = 5.0
    """Weight of the penalty."""
    proposals: PositiveInt = 10
    """Actions proposed at every state by each of the uniform distribution, the policy, and the policy at the next state."""
    gap: float | None = None
    """Penalty above which its weight grows, and below which it shrinks, by a learned factor; None keeps the weight."""

    def check(self) -> None:
        super().check()
        require(0 < self.tau <= 1, f"tau must be in (0, 1], got {self.tau}")

    def setup(self, task: Task) -> None:
        self.setup_data(task)
        spaces, build = (task.observation_space, task.action_space), (self.network, self.activation)
        self.actor = SquashedGaussianActor(*spaces, *build, LOG_STD_BOUNDS, standardise=self.normalise_obs)
        self.critics = Critic(task.observation_space, self.actor.box.size, *build, standardise=self.normalise_obs)
        for net in (self.actor, self.critics):
            net.encoder.fit(self.data.dataset.steps.obs)
        self.targets = target_of(self.critics)
        self.log_alpha = torch.tensor(1.0 if self.alpha is None else self.alpha).log().requires_grad_()
        self.log_factor = torch.ones((), requires_grad=True)
        self.entropy_goal = -float(self.actor.box.size) if self.target_entropy is None else self.target_entropy
        learnt = [self.log_alpha] if self.alpha is None else []
        self.actor_optimiser = Adam([*self.actor.parameters(), *learnt], self.lr)
        learnt = [self.log_factor] if self.gap is not None else []
        self.critic_optimiser = Adam([*self.critics.parameters(), *learnt], self.lr)

    def policy(self) -> SquashedGaussianActor:
        return self.actor

    def update(self, batch: Experience, noise: torch.Generator) -> Metrics:
        alpha, count, size = self.log_alpha.detach().exp(), self.proposals, self.actor.box.size
        uniform = torch.rand(len(batch), count, size, generator=noise) * 2 - 1
        normal = torch.randn(len(batch), 2 * count + 1, size, generator=noise)
        metrics = self.critic_optimiser.descend(self.critic_loss, batch, uniform, normal)
        drawn = self.actor.normal_noise(batch, noise)
        metrics |= self.actor_optimiser.descend(self.actor_loss, batch.obs, alpha, drawn)
        polyak(self.targets, self.critics, self.tau)
        return {**metrics, "policy/alpha": alpha}

    @torch.no_grad()
    def propose(self, batch: Experience, uniform: Tensor, normal: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """An action of the policy at the next states, `(B, m)`; actions proposed at the present ones, `(B, 3K, m)`; and the
        log-densities that those were drawn from, `(B, 3K)`."""
        here, there = (self.actor.distribution(obs) for obs in (batch.obs, batch.next_obs))
        own_noise, later_noise, next_noise = normal.split([self.proposals, self.proposals, 1], 1)
        own, own_logp = _spread(here, own_noise)
        later, later_logp = _spread(there, later_noise)
        density = torch.full_like(own_logp, -uniform.shape[-1] * math.log(2))
        next_action = _spread(there, next_noise)[0].squeeze(1)
        return next_action, torch.cat([uniform, later, own], 1), torch.cat([density, later_logp, own_logp], 1)

    def critic_loss(self, batch: Experience, uniform: Tensor, normal: Tensor) -> tuple[Tensor, Outputs]:
        """Squared Bellman error, without entropy in the target, plus the penalty of either critic; from uniform actions
        `(B, K, m)` and noise `(B, 2K + 1, m)` for those of the policy."""
        next_action, proposed, log_density = self.propose(batch, uniform, normal)
        with torch.no_grad():
            next_q = self.targets.q(batch.next_obs, next_action).amin(0)
            y = td_target(batch.reward, next_q, batch.terminated, self.gamma)
        actions = torch.cat([batch.action.unsqueeze(1), proposed], 1)  # all in one product
        q, q_proposed = self.critics.q_each(batch.obs, actions).split([1, proposed.shape[1]], -1)
        q = q.squeeze(-1)
        bellman = 2 * squared_error(q, y)  # the weight of the penalty is relative to the whole square, not to its half
        gap = conservative_gap(q, q_proposed, log_density)
        metrics = {"loss/critic": bellman, "value/q": q.mean(), "value/gap": gap.mean()}
        if self.gap is None:
            return bellman + self.conservative_weight * gap.sum(), metrics
        penalty = constrained(self.conservative_weight * (gap - self.gap), self.log_factor)
        return bellman + penalty, {**metrics, "value/factor": self.log_factor.exp()}

    def actor_loss(self, obs: Any, alpha: Tensor, noise: Tensor) -> tuple[Tensor, Outputs]:
        """Soft actor-critic's policy loss, and that of its temperature."""
        action, logp = self.actor.sample(obs, noise)
        q = self.critics.q(obs, action, frozen=True).amin(0)
        loss = entropy_regularised(logp, q, alpha)
        metrics = {"loss/actor": loss, "policy/entropy": -logp.mean()}
        if self.alpha is None:
            loss = loss + log_temperature(self.log_alpha, logp, self.entropy_goal)
        return loss, metrics


def _spread(dist: SquashedGaussian, noise: Tensor) -> tuple[Tensor, Tensor]:
    """`K` actions of a distribution at every state from noise `(B, K, m)`, and their log-densities `(B, K)`."""
    return SquashedGaussian(dist.mean.unsqueeze(1), dist.std.unsqueeze(1)).rsample(noise)
