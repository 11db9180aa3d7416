"""Twin delayed deep deterministic policy gradient, TD3 (Fujimoto et al., arXiv 1802.09477).

DDPG with three changes, each a setting: the smaller of two critics gives the target (`critics_count`), the target policy is
smoothed by clipped noise (`target_noise`), and actor and targets are updated less often (`policy_delay`). Without them the
method is `ddpg`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from palaestra.core.errors import require
from palaestra.core.experience import Experience
from palaestra.core.hints import NonNegativeFloat, PositiveInt
from palaestra.core.method import Metrics, Paper
from palaestra.core.task import Task
from palaestra.methods.online.off_policy import OffPolicy
from palaestra.nets.actors import Critic, DeterministicActor
from palaestra.nets.adam import Adam
from palaestra.nets.gradient import Outputs
from palaestra.nets.polyak import polyak, target_of
from palaestra.objectives.value import squared_error, td_target


@dataclass
class TD3(OffPolicy):
    """Twin delayed deep deterministic policy gradient."""

    paper: ClassVar[Paper] = Paper(
        "Addressing Function Approximation Error in Actor-Critic Methods", 2018, "1802.09477"
    )
    summary: ClassVar[str] = (
        "off-policy deterministic actor-critic with twin critics, smoothed targets and a delayed actor"
    )

    lr: float = 3e-4
    """Adam's learning rate for actor and critics."""
    network: tuple[int, ...] = (256, 256)
    """Hidden sizes of actor and critics; in Python also a function (inputs, outputs) -> module."""
    activation: str = "relu"
    """relu, tanh, gelu, silu or selu."""
    tau: float = 0.005
    """Step of the target networks towards the online ones."""
    exploration_noise: NonNegativeFloat = 0.1
    """Deviation of the Gaussian noise on actions while collecting, for actions scaled to [-1, 1]."""
    critics_count: PositiveInt = 2
    """Critics, of which the smallest value gives the target."""
    target_noise: NonNegativeFloat = 0.2
    """Deviation of the noise on target actions."""
    target_noise_clip: NonNegativeFloat = 0.5
    """Limit of the noise on target actions."""
    policy_delay: PositiveInt = 2
    """Critic updates per update of actor and target networks."""

    def check(self) -> None:
        super().check()
        require(0 < self.tau <= 1, f"tau must be in (0, 1], got {self.tau}")

    def setup(self, task: Task) -> None:
        observations, build = task.observation_space, (self.network, self.activation)
        self.actor = DeterministicActor(observations, task.action_space, *build, noise=self.exploration_noise)
        self.critics = Critic(observations, self.actor.box.size, *build, copies=self.critics_count)
        self.target_actor, self.target_critics = target_of(self.actor), target_of(self.critics)
        self.critic_optimiser = Adam(self.critics.parameters(), self.lr)
        self.actor_optimiser = Adam(self.actor.parameters(), self.lr)
        self.setup_sources(task)

    def policy(self) -> DeterministicActor:
        return self.actor

    def update(self, batch: Experience, noise: torch.Generator) -> Metrics:  # Algorithm 1
        metrics = self.critic_optimiser.descend(self.critic_loss, batch, self.actor.normal_noise(batch, noise))
        if (self.counters.updates + 1) % self.policy_delay == 0:
            metrics |= self.actor_optimiser.descend(self.actor_loss, batch.obs)
            polyak(self.target_critics, self.critics, self.tau)
            polyak(self.target_actor, self.actor, self.tau)
        return metrics

    def critic_loss(self, batch: Experience, noise: Tensor) -> tuple[Tensor, Outputs]:
        """Squared Bellman error, the target's action smoothed by `noise`."""
        with torch.no_grad():
            smoothing = (self.target_noise, self.target_noise_clip)
            next_action = self.target_actor.smoothed(batch.next_obs, noise, *smoothing)
            next_q = self.target_critics.q(batch.next_obs, next_action).amin(0)
            y = td_target(batch.reward, next_q, batch.terminated, self.gamma)
        q = self.critics.q(batch.obs, batch.action)
        loss = squared_error(q, y)
        return loss, {"loss/critic": loss, "value/q": q.mean()}

    def actor_loss(self, obs: Any) -> tuple[Tensor, Outputs]:
        """Minus the first critic's value of the actor's own actions."""
        loss = -self.critics.q(obs, self.actor(obs), frozen=True)[0].mean()
        return loss, {"loss/actor": loss}
