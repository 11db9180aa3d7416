"""Proximal policy optimisation (Schulman et al., arXiv 1707.06347)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from palaestra.core.errors import require
from palaestra.core.experience import Experience
from palaestra.core.method import Metrics, Paper
from palaestra.methods.online.on_policy import OnPolicy
from palaestra.nets.adam import Adam
from palaestra.objectives.policy import ppo_clip, ratio_metrics
from palaestra.objectives.value import clipped_value, squared_error


@dataclass
class PPO(OnPolicy):
    """Clipped surrogate, several epochs of minibatches per rollout."""

    paper: ClassVar[Paper] = Paper("Proximal Policy Optimization Algorithms", 2017, "1707.06347")
    summary: ClassVar[str] = "on-policy, clipped surrogate objective"

    epochs: int = 10
    """Passes over each rollout."""
    minibatch: int = 64
    """Steps per gradient step."""
    clip: float = 0.2
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

    def check(self) -> None:
        super().check()
        require(self.epochs >= 1, f"epochs must be at least 1, got {self.epochs}")
        require(self.minibatch >= 1, f"minibatch must be at least 1, got {self.minibatch}")
        require(self.clip > 0, f"clip must be positive, got {self.clip}")

    def setup_optimisers(self) -> None:
        self.optimiser = Adam(self.actor_critic.parameters(), self.lr, eps=1e-5, max_grad_norm=self.max_grad_norm)

    def learn(self, batch: Experience) -> Metrics:
        if self.anneal:
            self.optimiser.lr = self.lr * self.remaining
        for part in self.minibatches(batch, self.minibatch, self.epochs, self.standardise_advantage):
            dist, value = self.actor_critic(part)
            policy_loss, ratio = ppo_clip(dist.logp(part.action), part.logp, part.advantage, self.clip)
            if self.value_clip is None:
                value_loss = squared_error(value, part.target)
            else:
                value_loss = clipped_value(value, part.value, part.target, self.value_clip)
            loss = policy_loss + (2 * self.value_weight) * value_loss
            if self.entropy_weight:
                loss = loss - self.entropy_weight * dist.entropy().mean()
            norm = self.optimiser.descend(loss)
            self.counters.updates += 1
        return {
            "loss/policy": policy_loss.detach(),
            "loss/value": value_loss.detach(),
            "policy/entropy": dist.entropy().detach().mean(),
            "policy/gradient_norm": norm,
            **ratio_metrics(ratio, self.clip),
        }
