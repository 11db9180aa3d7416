"""TD3 with behaviour cloning, TD3+BC (Fujimoto and Gu, arXiv 2106.06860): TD3 whose actor stays near the data's actions."""

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
from palaestra.methods.offline.offline import Offline
from palaestra.nets.actors import Critic, DeterministicActor
from palaestra.nets.adam import Adam
from palaestra.nets.gradient import Outputs
from palaestra.nets.polyak import polyak, target_of
from palaestra.objectives.offline import normalised_value
from palaestra.objectives.value import squared_error, td_target


@dataclass
class TD3BC(Offline):
    """TD3 with behaviour cloning; a subclass that pulls the actor elsewhere defines `goal`."""

    paper: ClassVar[Paper] = Paper("A Minimalist Approach to Offline Reinforcement Learning", 2021, "2106.06860")
    summary: ClassVar[str] = "offline TD3 whose actor is pulled to the data's actions"

    normalise_obs: bool = True
    """Standardise float observations by the dataset's mean and deviation, saved with the policy."""
    lr: float = 3e-4
    """Adam's learning rate for actor and critics."""
    network: tuple[int, ...] = (256, 256)
    """Hidden sizes of actor and critics; in Python also a function (inputs, outputs) -> module."""
    critic_network: tuple[int, ...] | None = None
    """Hidden sizes of the critics, where they differ from the actor's."""
    activation: str = "relu"
    """relu, tanh, gelu, silu or selu."""
    tau: float = 0.005
    """Step of the target networks towards the online ones."""
    alpha: NonNegativeFloat = 2.5
    """Weight of the value, scaled by its own size, against the distance from the data's actions."""
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
        self.setup_data(task)
        observations, options = (
            task.observation_space,
            {"activation": self.activation, "standardise": self.normalise_obs},
        )
        self.actor = DeterministicActor(observations, task.action_space, self.network, noise=0.0, **options)
        self.critics = Critic(observations, self.actor.box.size, self.critic_network or self.network, **options)
        for net in (self.actor, self.critics):
            net.encoder.fit(self.data.dataset.steps.obs)
        self.target_actor, self.target_critics = target_of(self.actor), target_of(self.critics)
        self.critic_optimiser = Adam(self.critics.parameters(), self.lr)
        self.actor_optimiser = Adam(self.actor.parameters(), self.lr)

    def policy(self) -> DeterministicActor:
        return self.actor

    def update(self, batch: Experience, noise: torch.Generator) -> Metrics:
        metrics = self.critic_optimiser.descend(self.critic_loss, batch, self.actor.normal_noise(batch, noise))
        if (self.counters.updates + 1) % self.policy_delay == 0:
            metrics |= self.actor_optimiser.descend(self.actor_loss, batch.obs, self.goal(batch))
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

    def goal(self, batch: Experience) -> Tensor:
        """The actions that the actor is pulled to, `(B, m)`: the recorded ones."""
        return batch.action

    def actor_loss(self, obs: Any, goal: Tensor) -> tuple[Tensor, Outputs]:
        """Minus the first critic's value, in units of its own size, plus the squared distance from `goal`."""
        action = self.actor(obs)
        value = normalised_value(self.critics.q(obs, action, frozen=True)[0])
        distance = (action - goal).square().mean()
        loss = distance - self.alpha * value
        return loss, {"loss/actor": loss, "policy/distance": distance}
