"""Adaptive advantage-guided policy regularisation, A2PR (Liu et al., arXiv 2405.19909).

TD3+BC pulls the policy to every recorded action alike. Here a conditional autoencoder learns the recorded actions that
are better than the state's value, proposes an action of that kind, and the better of proposed and recorded one guides
the policy, where it is better than the state's value at all.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from palaestra.core.experience import Experience
from palaestra.core.hints import NonNegativeFloat
from palaestra.core.method import Metrics, Paper
from palaestra.core.task import Task
from palaestra.data.dataset import Dataset
from palaestra.methods.offline.td3_bc import TD3BC
from palaestra.nets.actors import StateValue
from palaestra.nets.adam import Adam
from palaestra.nets.cvae import ConditionalVAE
from palaestra.nets.gradient import Outputs
from palaestra.nets.polyak import polyak
from palaestra.objectives.offline import kl_to_standard_normal, normalised_value, where_positive
from palaestra.objectives.returns import rewards_to_go
from palaestra.objectives.value import squared_error, td_target


@dataclass
class A2PR(TD3BC):
    """TD3+BC towards the better of a proposed and the recorded action, where that is better than the state's value."""

    paper: ClassVar[Paper] = Paper(
        "Adaptive Advantage-Guided Policy Regularization for Offline Reinforcement Learning", 2024, "2405.19909"
    )
    summary: ClassVar[str] = "TD3+BC whose actor is pulled to good actions only, recorded or proposed by an autoencoder"

    network: tuple[int, ...] = (256, 256, 256)
    """Hidden sizes of the actor; in Python also a function (inputs, outputs) -> module."""
    critic_network: tuple[int, ...] | None = (256, 256, 256, 256)
    """Hidden sizes of critics and state value; None takes those of the actor."""
    vae_network: tuple[int, ...] = (750, 750)
    """Hidden sizes of the autoencoder's two halves."""
    vae_lr: float = 1e-3
    """Adam's learning rate for the autoencoder."""
    vae_weight: NonNegativeFloat = 1.0
    """Weight of the autoencoder's reconstruction against its divergence from the standard normal code."""
    mask: NonNegativeFloat = 1.0
    """Weight of the distance from the guiding action."""
    move_guide: bool = False
    """Let the actor's gradient through the proposed action too, which depends on the policy's own: the released code does."""

    def prepared(self, dataset: Dataset) -> Dataset:
        """With the discounted rewards from every step to the end of its episode, which critics are compared with in the log."""
        reward = self.scaled(dataset.steps.only("reward")).reward
        target = rewards_to_go(reward, dataset.starts, self.gamma)
        return dataclasses.replace(dataset, steps=dataset.steps.replace(target=target))

    def setup(self, task: Task) -> None:
        super().setup(task)
        space, standardise = task.observation_space, self.normalise_obs
        self.value = StateValue(space, self.critic_network or self.network, self.activation, standardise)
        self.vae = ConditionalVAE(space, self.actor.box.size, self.vae_network, self.activation, standardise)
        for net in (self.value, self.vae):
            net.encoder.fit(self.data.dataset.steps.obs)
        self.value_optimiser = Adam(self.value.parameters(), self.lr)
        self.vae_optimiser = Adam(self.vae.parameters(), self.vae_lr)

    def update(self, batch: Experience, noise: torch.Generator) -> Metrics:
        smoothing = self.actor.normal_noise(batch, noise)
        metrics = self.critic_optimiser.descend(self.critic_loss, batch, smoothing)
        metrics |= self.value_optimiser.descend(self.value_loss, batch, smoothing)
        value = metrics.pop("value")  # as it was before this step, for the autoencoder and the actor
        drawn = self.vae.normal_noise(len(batch), noise)
        metrics |= self.vae_optimiser.descend(self.vae_loss, batch.obs, batch.action, value, drawn)
        if (self.counters.updates + 1) % self.policy_delay == 0:
            drawn = self.vae.normal_noise(len(batch), noise)
            metrics |= self.actor_optimiser.descend(self.guided_loss, batch.obs, batch.action, value, drawn)
            if batch.target is not None:  # synthetic steps have none
                metrics["value/recorded"] = batch.target.mean()
            polyak(self.target_critics, self.critics, self.tau)
            polyak(self.target_actor, self.actor, self.tau)
        return metrics

    def value_loss(self, batch: Experience, noise: Tensor) -> tuple[Tensor, Outputs]:
        """Squared distance of V from the smaller of two targets, by the target critics and by the critics just updated."""
        with torch.no_grad():
            smoothing = (self.target_noise, self.target_noise_clip)
            next_action = self.target_actor.smoothed(batch.next_obs, noise, *smoothing)
            both = (self.target_critics.q(batch.next_obs, next_action), self.critics.q(batch.next_obs, next_action))
            y = td_target(batch.reward, torch.cat(both).amin(0), batch.terminated, self.gamma)
        value = self.value(batch.obs)
        loss = squared_error(value, y)
        return loss, {"loss/value": loss, "value/v": value.mean(), "value": value}

    def vae_loss(self, obs: Any, action: Tensor, value: Tensor, noise: Tensor) -> tuple[Tensor, Outputs]:
        """Reconstruction of the recorded actions whose advantage is positive, and the code's divergence over all of them."""
        with torch.no_grad():
            advantage = self.critics.q(obs, action)[0] - value
        reconstruction, mean, log_std = self.vae(obs, action, noise)
        distance = where_positive(advantage, (reconstruction - action).square())
        divergence = kl_to_standard_normal(mean, log_std)
        loss = self.vae_weight * distance + 0.5 * divergence
        return loss, {"loss/vae": loss, "vae/reconstruction": distance, "vae/divergence": divergence}

    def guided_loss(self, obs: Any, action: Tensor, value: Tensor, noise: Tensor) -> tuple[Tensor, Outputs]:
        """TD3+BC's loss with the guiding action in place of the recorded one, and no distance where that has no advantage."""
        chosen = self.actor(obs)
        q = self.critics.q(obs, chosen, frozen=True)[0]
        proposed, _, _ = self.vae(obs, chosen if self.move_guide else chosen.detach(), noise, frozen=True)
        with torch.no_grad():
            q_proposed, q_recorded = (self.critics.q(obs, a)[0] for a in (proposed, action))
            advantage = torch.maximum(q_proposed, q_recorded) - value
            won = q_proposed >= q_recorded
        guide = proposed.where(won.unsqueeze(-1), action)
        distance = where_positive(advantage, (chosen - guide).square())
        loss = self.mask * distance - self.alpha * normalised_value(q)
        return loss, {
            "loss/actor": loss,
            "policy/distance": distance,
            "guide/gated": (advantage > 0).float().mean(),
            "guide/proposed": won.float().mean(),
            "guide/advantage": advantage.mean(),
            "value/policy": q.mean(),
        }
