"""Proximal policy optimisation (Schulman et al., arXiv 1707.06347)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from palaestra.core.experience import Experience
from palaestra.core.hints import PositiveFloat, PositiveInt
from palaestra.core.method import Metrics, Paper
from palaestra.methods.online.on_policy import OnPolicy
from palaestra.nets.adam import Adam
from palaestra.nets.gradient import Outputs
from palaestra.objectives.policy import ppo_clip, ratio_metrics
from palaestra.objectives.value import clipped_value, squared_error


@dataclass
class PPO(OnPolicy):
    """Clipped surrogate, several epochs of minibatches per rollout."""

    paper: ClassVar[Paper] = Paper("Proximal Policy Optimization Algorithms", 2017, "1707.06347")
    summary: ClassVar[str] = "on-policy, clipped surrogate objective"

    epochs: PositiveInt = 10
    """Passes over each rollout."""
    minibatch: PositiveInt = 64
    """Steps per gradient step."""
    clip: PositiveFloat = 0.2
    """Epsilon of the clipped ratio."""
    value_clip: float | None = None
    """Clip range of the value function; None does not clip it."""
    value_weight: float = 0.5
    """Weight of the value loss."""
    entropy_weight: float = 0.0
    """Weight of the entropy bonus."""
    max_grad_norm: float = 0.5
    """Clip of the global gradient norm."""
    standardise_advantage: bool = True
    """Standardise advantages within each minibatch."""
    anneal: bool = False
    """Anneal the learning rate linearly to 0 over the budget."""

    def setup_optimisers(self) -> None:
        self.optimiser = Adam(self.actor_critic.parameters(), self.lr, eps=1e-5, max_grad_norm=self.max_grad_norm)

    def learn(self, batch: Experience) -> Metrics:
        if self.anneal:
            self.optimiser.lr = self.lr * self.remaining
        for part in self.minibatches(batch, self.minibatch, self.epochs, self.standardise_advantage):
            found = self.optimiser.descend(self.loss, part)
            self.counters.updates += 1
        assert self.optimiser.norm is not None
        return {
            **ratio_metrics(found.pop("ratio"), self.clip),
            **found,
            "policy/entropy": self.actor_critic.entropy(part),
            "policy/gradient_norm": self.optimiser.norm,
        }

    def loss(self, batch: Experience) -> tuple[Tensor, Outputs]:
        """Clipped surrogate, value error and entropy bonus of one minibatch."""
        dist, value = self.actor_critic(batch)
        policy_loss, ratio = self.surrogate(dist.logp(batch.action), batch.logp, batch.advantage)
        if self.value_clip is None:
            value_loss = squared_error(value, batch.target)
        else:
            value_loss = clipped_value(value, batch.value, batch.target, self.value_clip)
        loss = policy_loss + (2 * self.value_weight) * value_loss
        if self.entropy_weight:
            loss = loss - self.entropy_weight * dist.entropy().mean()
        return loss, {"loss/policy": policy_loss, "loss/value": value_loss, "ratio": ratio}

    def surrogate(self, logp: Tensor, old_logp: Tensor, advantage: Tensor) -> tuple[Tensor, Tensor]:
        """The policy's loss, and the ratio pi/pi_old `(B,)`: what a variant of PPO puts in place of the clip."""
        return ppo_clip(logp, old_logp, advantage, self.clip)
