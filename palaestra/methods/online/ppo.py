"""Proximal policy optimisation (Schulman et al., arXiv 1707.06347)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from palaestra.core.errors import require
from palaestra.core.experience import Experience
from palaestra.core.method import Metrics, Paper
from palaestra.methods.online.on_policy import OnPolicy
from palaestra.objectives.policy import ppo_clip
from palaestra.objectives.returns import standardise
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

    def learn(self, batch: Experience) -> Metrics:
        if self.anneal:
            for group in self.optimiser.param_groups:
                group["lr"] = self.lr * self.remaining
        for part in self.minibatches(batch, self.minibatch, self.epochs):
            logp, entropy, value = self.actor_critic.score(part)
            advantage = standardise(part.advantage) if self.standardise_advantage else part.advantage
            policy_loss, metrics = ppo_clip(logp, part.logp, advantage, self.clip)
            if self.value_clip is None:
                value_loss = squared_error(value, part.target)
            else:
                value_loss = clipped_value(value, part.value, part.target, self.value_clip)
            bonus = entropy.mean()
            loss = policy_loss + self.value_weight * 2 * value_loss - self.entropy_weight * bonus
            norm = self.descend(loss, self.optimiser, self.max_grad_norm)
            self.counters.updates += 1
        return {
            "loss/policy": policy_loss.detach(),
            "loss/value": value_loss.detach(),
            "policy/entropy": bonus.detach(),
            "policy/gradient_norm": norm,
            **metrics,
        }
