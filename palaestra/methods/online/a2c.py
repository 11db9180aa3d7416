"""Advantage actor-critic (Mnih et al., arXiv 1602.01783), the synchronous form of A3C."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from palaestra.core.experience import Experience
from palaestra.core.hints import PositiveFloat
from palaestra.core.method import Metrics, Paper
from palaestra.methods.online.on_policy import OnPolicy
from palaestra.objectives.policy import policy_gradient
from palaestra.objectives.returns import standardise
from palaestra.objectives.value import squared_error


@dataclass
class A2C(OnPolicy):
    """One gradient step of policy and values together on each short rollout."""

    paper: ClassVar[Paper] = Paper("Asynchronous Methods for Deep Reinforcement Learning", 2016, "1602.01783")
    summary: ClassVar[str] = "on-policy actor-critic, one gradient step per short rollout"

    lr: float = 7e-4
    """RMSProp's learning rate."""
    lam: float = 1.0
    """Lambda of generalised advantage estimation; 1 is the paper's n-step return."""
    rollout_steps: int = 5
    """Steps of every environment per iteration: the paper's t_max."""
    value_weight: float = 0.5
    """Weight of the value loss."""
    entropy_weight: float = 0.0
    """Weight of the entropy bonus; the paper's Atari runs have 0.01."""
    max_grad_norm: PositiveFloat = 0.5
    """Clip of the global gradient norm."""
    standardise_advantage: bool = False
    """Standardise advantages over each rollout."""
    anneal: bool = False
    """Anneal the learning rate linearly to 0 over the budget."""

    def setup_optimisers(self) -> None:
        self.rmsprop = torch.optim.RMSprop(self.actor_critic.parameters(), self.lr, alpha=0.99, eps=1e-5)

    def learn(self, batch: Experience) -> Metrics:
        if self.anneal:
            for group in self.rmsprop.param_groups:
                group["lr"] = self.lr * self.remaining
        logp, entropy, value = self.actor_critic.score(batch)
        advantage = standardise(batch.advantage) if self.standardise_advantage else batch.advantage
        policy_loss = policy_gradient(logp, advantage)
        assert value is not None
        value_loss = squared_error(value, batch.target)
        bonus = entropy.mean()
        loss = policy_loss + self.value_weight * 2 * value_loss - self.entropy_weight * bonus
        self.rmsprop.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.actor_critic.parameters(), self.max_grad_norm)
        self.rmsprop.step()
        self.counters.updates += 1
        return {
            "loss/policy": policy_loss.detach(),
            "loss/value": value_loss.detach(),
            "policy/entropy": bonus.detach(),
            "policy/gradient_norm": norm,
        }
