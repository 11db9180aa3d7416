"""Mirror descent policy optimisation, off-policy (Tomar et al., arXiv 2005.09814).

The released TensorFlow code adds small penalties on the policy's mean and log deviation, which the paper's loss has not:
here they are an option (`gaussian_penalty=1e-3` is the code's), off by default.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from palaestra.core.errors import require
from palaestra.core.experience import Experience
from palaestra.core.hints import NonNegativeFloat
from palaestra.core.method import Metrics, Paper
from palaestra.core.task import Task
from palaestra.methods.online.mdpo import annealed, check_mirror
from palaestra.methods.online.off_policy import OffPolicy
from palaestra.nets.actors import Critic, SquashedGaussianActor, StateValue
from palaestra.nets.adam import Adam
from palaestra.nets.gradient import Outputs
from palaestra.nets.polyak import polyak, target_of
from palaestra.objectives.divergences import log_q
from palaestra.objectives.policy import mirror_descent_off_policy
from palaestra.objectives.value import soft_value, squared_error, td_target

LOG_STD_BOUNDS = (-20.0, 2.0)


@dataclass
class MDPOOff(OffPolicy):
    """Soft actor-critic with a divergence from a previous policy, which is refreshed every m environment steps."""

    paper: ClassVar[Paper] = Paper("Mirror Descent Policy Optimization", 2020, "2005.09814")
    summary: ClassVar[str] = "off-policy mirror descent; soft actor-critic is a special case"

    lr: float = 3e-4
    """Adam's learning rate for policy and values."""
    network: tuple[int, ...] = (256, 256)
    """Hidden sizes of policy and values; in Python also a function (inputs, outputs) -> module."""
    activation: str = "relu"
    """relu, tanh, gelu, silu or selu."""
    tau: float = 0.005
    """Step of the target value network towards the online one."""
    alpha: NonNegativeFloat = 0.2
    """lambda: weight of the entropy bonus."""
    refresh_steps: int = 1000
    """m: environment steps between refreshes of the previous policy; every environment step makes one gradient step."""
    step_size: float = 1.0
    """t of the first iteration; the divergence is weighted by 1/t, and 1/t = alpha is soft actor-critic."""
    anneal_step_size: bool = False
    """Decrease t linearly over the budget's K refreshes, from t to t/K; otherwise it is constant."""
    tsallis_q: float = 1.0
    """q of the Tsallis entropy behind divergence and bonus; 1 is KL and Shannon entropy."""
    gaussian_penalty: NonNegativeFloat = 0.0
    """Weight of mean(mu^2) + mean(log_std^2) in the policy's loss; the released code has 1e-3."""

    def check(self) -> None:
        super().check()
        check_mirror(self.step_size, self.tsallis_q)
        require(0 < self.tau <= 1, f"tau must be in (0, 1], got {self.tau}")
        require(self.refresh_steps >= 1, f"refresh_steps (m) must be at least 1, got {self.refresh_steps}")

    def setup(self, task: Task) -> None:
        obs, shape = task.observation_space, (self.network, self.activation)
        self.actor = SquashedGaussianActor(obs, task.action_space, *shape, LOG_STD_BOUNDS)
        self.critics = Critic(obs, self.actor.box.size, *shape)
        self.values = StateValue(obs, *shape)
        self.target = target_of(self.values)
        self.previous = target_of(self.actor)  # pi_k
        self.refreshes = 0
        self.present_step_size = self.step_size
        learnt = (self.actor, self.critics, self.values)
        self.optimiser = Adam([p for part in learnt for p in part.parameters()], self.lr)
        self.setup_sources(task)

    def policy(self) -> SquashedGaussianActor:
        return self.actor

    def step(self) -> Metrics:
        metrics = super().step()
        if self.counters.steps // self.refresh_steps > self.refreshes:
            self.refreshes = self.counters.steps // self.refresh_steps
            self.previous.load_state_dict(self.actor.state_dict())
            if self.anneal_step_size:
                self.present_step_size = annealed(self.step_size, self.remaining, self.refreshes)
        return metrics

    def update(self, batch: Experience, noise: torch.Generator) -> Metrics:
        step_size = torch.tensor(self.present_step_size)
        metrics = self.optimiser.descend(self.loss, batch, step_size, self.actor.normal_noise(batch, noise))
        polyak(self.target, self.values, self.tau)
        return metrics

    def loss(self, batch: Experience, step_size: Tensor, noise: Tensor) -> tuple[Tensor, Outputs]:
        """The policy's loss and the values', whose gradients have no parameter in common."""
        q, alpha = self.tsallis_q, self.alpha
        dist = self.actor.distribution(batch.obs)
        action, logp, u = dist.rsample_unsquashed(noise)
        with torch.no_grad():
            previous = self.previous.distribution(batch.obs)
        previous_logp = previous.logp_unsquashed(u)  # of u itself, with the gradient through it
        log_new, log_old = log_q(logp, q), log_q(previous_logp, q)
        q_new = self.critics.q(batch.obs, action, frozen=True)
        actor_loss = mirror_descent_off_policy(log_new, log_old, q_new[0], step_size, alpha, q)
        if self.gaussian_penalty > 0:
            spread = dist.mean.square().mean() + dist.std.log().square().mean()
            actor_loss = actor_loss + self.gaussian_penalty * spread

        with torch.no_grad():
            v_target = soft_value(q_new.amin(0), log_new, alpha)
            q_target = td_target(batch.reward, self.target(batch.next_obs), batch.terminated, self.gamma)
        q_now = self.critics.q(batch.obs, batch.action)
        value_loss = squared_error(q_now, q_target) + squared_error(self.values(batch.obs), v_target)
        return actor_loss + value_loss, {
            "loss/actor": actor_loss,
            "loss/value": value_loss,
            "policy/entropy": -logp.mean(),
            "policy/kl": (logp - previous_logp).mean(),
            "value/q": q_now.mean(),
        }
