"""Mirror descent policy optimisation, on-policy (Tomar et al., arXiv 2005.09814).

Where the released TensorFlow code differs from the paper, the paper is the default: for q other than 1 the divergence is the
Bregman divergence of Tsallis entropy, and `tsallis="code"` takes the code's log_q pi - log_q pi_k instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from palaestra.core.errors import require
from palaestra.core.experience import Experience
from palaestra.core.hints import PositiveInt
from palaestra.core.method import Metrics, Paper
from palaestra.methods.online.on_policy import OnPolicy
from palaestra.methods.online.value_fit import fit_values
from palaestra.nets.adam import Adam
from palaestra.nets.distributions import Distribution
from palaestra.nets.gradient import Outputs
from palaestra.objectives.divergences import tsallis_bregman, tsallis_difference
from palaestra.objectives.policy import mirror_descent
from palaestra.objectives.returns import standardise


@dataclass
class MDPO(OnPolicy):
    """A few full-batch gradient steps on advantage minus divergence from the previous policy, then a fresh rollout."""

    paper: ClassVar[Paper] = Paper("Mirror Descent Policy Optimization", 2020, "2005.09814")
    summary: ClassVar[str] = "on-policy mirror descent: a soft trust region by KL or Tsallis divergence"

    normalise_obs: bool = True
    """Standardise observations by running statistics, saved with the policy."""
    normalise_reward: bool = True
    """Divide rewards by the running deviation of the discounted return."""
    inner_steps: int = 10
    """m: full-batch gradient steps per rollout."""
    step_size: float = 1.0
    """t of the first iteration; the divergence is weighted by 1/t."""
    anneal_step_size: bool = True
    """Decrease t linearly over the budget's K iterations, from t to t/K; otherwise it is constant."""
    tsallis_q: float = 1.0
    """q of the Tsallis entropy that the divergence comes from; 1 is KL(new || old)."""
    tsallis: Literal["bregman", "code"] = "bregman"
    """For q other than 1: the Bregman divergence, or the released code's log_q pi - log_q pi_k."""
    max_grad_norm: float = 0.5
    """Clip of the policy's global gradient norm."""
    value_epochs: PositiveInt = 5
    """Passes over each rollout to fit the values."""
    value_minibatch: PositiveInt = 128
    """Steps per gradient step of the values."""
    value_clip: float | None = 0.2
    """Clip range of the value function; None does not clip it."""

    def check(self) -> None:
        super().check()
        check_mirror(self.step_size, self.tsallis_q)
        require(self.inner_steps >= 1, f"inner_steps (m) must be at least 1, got {self.inner_steps}")
        require(self.tsallis in ("bregman", "code"), f"tsallis must be 'bregman' or 'code', got {self.tsallis!r}")

    def setup_optimisers(self) -> None:
        policy = self.actor_critic
        self.policy_optimiser = Adam(policy.policy_parameters(), self.lr, eps=1e-5, max_grad_norm=self.max_grad_norm)
        self.value_optimiser = Adam(policy.critic.parameters(), self.lr, eps=1e-5)
        self.remaining_before = 1.0

    def step(self) -> Metrics:
        self.remaining_before = self.remaining  # t_k is that of the iteration's start
        return super().step()

    @property
    def present_step_size(self) -> float:
        """t_k of this iteration."""
        if not self.anneal_step_size:
            return self.step_size
        return annealed(self.step_size, self.remaining_before, self.iteration)

    def learn(self, batch: Experience) -> Metrics:
        policy = self.actor_critic
        with torch.no_grad():
            old = policy.distribution(policy.features(batch.obs), batch.action_mask).detach()
            steps = batch.replace(logp=old.logp(batch.action), advantage=standardise(batch.advantage))
        step_size = torch.tensor(self.present_step_size)
        for _ in range(self.inner_steps):
            metrics = self.policy_optimiser.descend(self.policy_loss, steps, old, step_size)
            self.counters.updates += 1
        assert self.policy_optimiser.norm is not None
        value_loss = fit_values(
            self, batch, self.value_optimiser, self.value_epochs, self.value_minibatch, self.value_clip
        )
        with torch.no_grad():
            new = policy.distribution(policy.features(batch.obs), batch.action_mask)
        return {
            **metrics,
            "loss/value": value_loss,
            "policy/kl": new.kl(old).mean(),
            "policy/entropy": new.entropy().mean(),
            "policy/gradient_norm": self.policy_optimiser.norm,
            "policy/step_size": step_size,
        }

    def policy_loss(self, batch: Experience, old: Distribution, step_size: Tensor) -> tuple[Tensor, Outputs]:
        """The mirror-descent objective at the present policy, `old` being pi_k."""
        policy = self.actor_critic
        new = policy.distribution(policy.features(batch.obs), batch.action_mask)
        logp = new.logp(batch.action)
        divergence = new.kl(old) if self.tsallis_q == 1 else self.divergence(logp, batch.logp)
        loss = mirror_descent(logp, batch.logp, batch.advantage, divergence, step_size)
        return loss, {"loss/policy": loss}

    def divergence(self, logp: Tensor, old_logp: Tensor) -> Tensor:
        """The Tsallis divergence from the previous policy at each action, `(B,)`."""
        form = tsallis_bregman if self.tsallis == "bregman" else tsallis_difference
        return form(logp, old_logp, self.tsallis_q)


def annealed(step_size: float, remaining: float, iteration: int) -> float:
    """t_k = t (1 - (k-1)/K) from the share of the budget that remains; `iteration` is k-1.

    Since K >= k, the bound 1/k changes nothing but a last, partial iteration, whose t stays at t/K or above.
    """
    return step_size * max(remaining, 1 / (iteration + 1))


def check_mirror(step_size: float, tsallis_q: float) -> None:
    """Refuse what neither variant can do."""
    require(step_size > 0, f"step_size (t) must be positive, got {step_size}")
    require(tsallis_q > 0, f"tsallis_q must be positive, got {tsallis_q}")
