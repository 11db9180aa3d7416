"""REINFORCE (Williams 1992), with a learned value as its baseline or without one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from palaestra.core.experience import Experience
from palaestra.core.hints import PositiveInt
from palaestra.core.method import Metrics, Paper
from palaestra.methods.online.on_policy import OnPolicy
from palaestra.methods.online.value_fit import fit_values
from palaestra.nets.adam import Adam
from palaestra.nets.gradient import Outputs
from palaestra.objectives.policy import policy_gradient
from palaestra.objectives.returns import discounted_returns, standardise


@dataclass
class REINFORCE(OnPolicy):
    """One gradient step per rollout along the log-likelihood of actions weighted by the returns that followed them."""

    paper: ClassVar[Paper] = Paper(
        "Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning", 1992
    )
    summary: ClassVar[str] = "Monte-Carlo policy gradient, with an optional value baseline"

    lr: float = 1e-2
    """Adam's learning rate for the policy."""
    lam: float = 1.0
    """With a baseline, lambda of generalised advantage estimation; 1 is the Monte-Carlo return."""
    baseline: bool = True
    """Subtract a learned value from the returns, and let it stand for what comes after the rollout or a time limit; without
    one, only episodes that ended inside the rollout teach, so rollouts must be longer than episodes."""
    value_lr: float = 1e-3
    """Adam's learning rate for the values."""
    value_epochs: PositiveInt = 10
    """Passes over each rollout to fit the values."""
    value_minibatch: PositiveInt = 128
    """Steps per gradient step of the values."""
    entropy_weight: float = 0.0
    """Weight of the entropy bonus."""
    max_grad_norm: float = 0.5
    """Clip of the policy's global gradient norm."""
    standardise_advantage: bool = True
    """Standardise returns minus baseline over each rollout."""

    def setup_optimisers(self) -> None:
        policy = self.actor_critic
        self.policy_optimiser = Adam(policy.policy_parameters(), self.lr, max_grad_norm=self.max_grad_norm)
        self.value_optimiser = Adam(policy.critic.parameters(), self.value_lr) if self.baseline else None

    def with_advantages(self, steps: Experience) -> Experience:
        if self.baseline:
            return super().with_advantages(steps)
        done = torch.maximum(steps.terminated, steps.truncated)
        reward = steps.reward if self.return_scale is None else self.return_scale(steps.reward, done)
        zeros = torch.zeros_like(reward)
        truncated = torch.maximum(steps.truncated, 1 - steps.mask)
        returns = discounted_returns(reward, zeros, steps.terminated, truncated, self.gamma)
        ended = done.flip(0).cummax(0).values.flip(0)  # 1 where the step's episode ends within the rollout
        batch = steps.replace(value=zeros, advantage=returns, target=returns, weight=ended)
        return batch.flatten().chosen()

    def learn(self, batch: Experience) -> Metrics:
        if self.value_optimiser is None:
            batch = batch[batch.weight > 0]
            if len(batch) == 0:
                return {}
        advantage = standardise(batch.advantage) if self.standardise_advantage else batch.advantage
        metrics = self.policy_optimiser.descend(self.policy_loss, batch.replace(advantage=advantage))
        assert self.policy_optimiser.norm is not None
        metrics["policy/gradient_norm"] = self.policy_optimiser.norm
        self.counters.updates += 1
        if self.value_optimiser is not None:
            metrics["loss/value"] = fit_values(
                self, batch, self.value_optimiser, self.value_epochs, self.value_minibatch
            )
        return metrics

    def policy_loss(self, batch: Experience) -> tuple[Tensor, Outputs]:
        """The policy gradient's loss with an entropy bonus."""
        logp, entropy, _ = self.actor_critic.score(batch)
        loss, bonus = policy_gradient(logp, batch.advantage), entropy.mean()
        return loss - self.entropy_weight * bonus, {"loss/policy": loss, "policy/entropy": bonus}
