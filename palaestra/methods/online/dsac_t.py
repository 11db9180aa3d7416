"""Distributional soft actor-critic with three refinements, DSAC-T (Duan et al., arXiv 2310.05858).

The critic predicts a Gaussian over the soft return. The refinements: the mean regresses on the expected target
(`expected_target`), two critics of which the one with the smaller mean gives the targets (`twin`), and a clipping bound and
gradient scale that follow the critic's own deviation (`td_bound=None`). Each can be switched off; without all three the
method is its predecessor, `dsac-v1`. Where the released code's critic loss differs from the paper's gradient, both are
options and the paper's is the default.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from palaestra.core.errors import require
from palaestra.core.experience import Experience
from palaestra.core.hints import NonNegativeFloat, PositiveFloat, PositiveInt
from palaestra.core.method import Metrics, Paper
from palaestra.core.task import Task
from palaestra.methods.online.off_policy import OffPolicy
from palaestra.nets.actors import Critic, SquashedGaussianActor
from palaestra.nets.adam import Adam
from palaestra.nets.gradient import Outputs
from palaestra.nets.polyak import polyak, target_of
from palaestra.objectives.distributional import bounded_target, gaussian_return, gaussian_return_released
from palaestra.objectives.policy import entropy_regularised, log_temperature
from palaestra.objectives.value import soft_value, td_target

LOSSES = {"paper": gaussian_return, "released": gaussian_return_released}
LOG_STD_BOUNDS = (-20.0, 0.5)
SAMPLE_LIMIT = 3.0
"""Deviations at which a sampled return is cut off."""
LOOK_EVERY = 1000
"""Updates between looks at whether `epsilon` swamps the critic's variance, since a look waits for the device."""


@dataclass
class DSACT(OffPolicy):
    """Distributional soft actor-critic with three refinements."""

    paper: ClassVar[Paper] = Paper("Distributional Soft Actor-Critic with Three Refinements", 2023, "2310.05858")
    summary: ClassVar[str] = "soft actor-critic with twin Gaussian return critics that scale themselves"
    random_warmup: ClassVar[bool] = False

    steps_per_round: int = 20
    """Steps of every environment between rounds of updates: one of the paper's iterations."""
    lr: float = 1e-4
    """Adam's learning rate for actor and critics."""
    alpha_lr: float = 3e-4
    """Adam's learning rate for log alpha."""
    network: tuple[int, ...] = (256, 256, 256)
    """Hidden sizes of actor and critics; in Python also a function (inputs, outputs) -> module."""
    activation: str = "gelu"
    """relu, tanh, gelu, silu or selu."""
    tau: float = 0.005
    """Step of the target networks towards the online ones, and of the running deviations."""
    delay_update: PositiveInt = 2
    """Critic updates per update of actor, temperature and target networks."""
    alpha: NonNegativeFloat | None = None
    """A fixed temperature; None learns it."""
    alpha_init: PositiveFloat = math.e
    """Where the learned temperature starts."""
    target_entropy: float | None = None
    """Entropy the temperature aims at; None is -dim(A), for actions scaled to [-1, 1]."""
    loss: Literal["paper", "released"] = "paper"
    """The critics' gradient: the paper's, or that of the released code's Huber loss."""
    expected_target: bool = True
    """Refinement 1: train the mean on the expected target; False trains it on the sampled return."""
    twin: bool = True
    """Refinement 2: two critics, of which the smaller mean gives the targets; False keeps one."""
    td_bound: PositiveFloat | None = None
    """Refinement 3: None lets bound and scale follow the critic's deviation; a number fixes the bound, and the scale at 1."""
    xi: PositiveFloat = 3.0
    """Clipping bound in running deviations."""
    epsilon: NonNegativeFloat = 0.1
    """Added to the critic's variance in denominators, in squared units of return."""

    def check(self) -> None:
        super().check()
        require(self.batch_size >= 2, f"batch_size must be at least 2, got {self.batch_size}")
        require(0 < self.tau <= 1, f"tau must be in (0, 1], got {self.tau}")
        require(self.loss in LOSSES, f"loss must be one of {', '.join(LOSSES)}, got {self.loss!r}")

    def setup(self, task: Task) -> None:
        copies = 2 if self.twin else 1
        build = (self.network, self.activation)
        self.actor = SquashedGaussianActor(task.observation_space, task.action_space, *build, LOG_STD_BOUNDS)
        self.critics = Critic(task.observation_space, self.actor.box.size, *build, copies=copies, outputs=2)
        self.target_actor, self.target_critics = target_of(self.actor), target_of(self.critics)
        self.log_alpha = torch.tensor(self.alpha if self.alpha is not None else self.alpha_init).log().requires_grad_()
        self.entropy_goal = -float(self.actor.box.size) if self.target_entropy is None else self.target_entropy
        self.mean_std, self.mean_variance = torch.zeros(copies, 1), torch.zeros(copies, 1)
        self.critic_optimiser = Adam(self.critics.parameters(), self.lr)
        self.actor_optimiser = Adam(self.actor.parameters(), self.lr)
        self.alpha_optimiser = Adam([self.log_alpha], self.alpha_lr)
        self.setup_sources(task)

    def policy(self) -> SquashedGaussianActor:
        return self.actor

    def update(self, batch: Experience, noise: torch.Generator) -> Metrics:
        alpha = self.log_alpha.detach().exp()
        metrics: Metrics = {}
        due = self.counters.updates % self.delay_update == 0
        if due:
            # The actor ascends the critics as they were before this update. The critics' targets come from target networks
            # alone, so stepping the actor first changes nothing else.
            sample = self.actor.normal_noise(batch, noise)
            metrics |= self.actor_optimiser.descend(self.actor_loss, batch.obs, alpha, sample)
            if self.alpha is None:
                metrics |= self.alpha_optimiser.descend(self.alpha_loss, metrics["policy/entropy"])
            metrics["policy/alpha"] = alpha

        samples = self.actor.normal_noise(batch, noise), torch.randn(len(self.mean_std), len(batch), generator=noise)
        rate = 1.0 if self.counters.updates == 0 else self.tau
        deviations = self.mean_std, self.mean_variance
        metrics |= self.critic_optimiser.descend(self.critic_loss, batch, alpha, *samples, deviations, rate)
        self.mean_std, self.mean_variance = metrics.pop("mean_std"), metrics.pop("mean_variance")

        if due:
            polyak(self.target_critics, self.critics, self.tau)
            polyak(self.target_actor, self.actor, self.tau)
        self.warn_of_epsilon()
        return {**metrics, "value/std": self.mean_std.mean()}

    def actor_loss(self, obs: Any, alpha: Tensor, noise: Tensor) -> tuple[Tensor, Outputs]:
        """What the actor minimises."""
        action, logp = self.actor.sample(obs, noise)
        loss = entropy_regularised(logp, self.critics.q(obs, action, frozen=True).amin(0), alpha)
        return loss, {"loss/actor": loss, "policy/entropy": -logp.mean()}

    def alpha_loss(self, entropy: Tensor) -> tuple[Tensor, Outputs]:
        """What log alpha minimises, given the mean entropy of the actions that the actor was trained on."""
        return log_temperature(self.log_alpha, -entropy, self.entropy_goal), {}

    def critic_loss(
        self,
        batch: Experience,
        alpha: Tensor,
        action_noise: Tensor,
        return_noise: Tensor,
        deviations: tuple[Tensor, Tensor],
        rate: float,
    ) -> tuple[Tensor, Outputs]:
        """The return distributions' loss; also the running `deviations` after this batch's, which are in it already."""
        mean_target, sampled_target = self.targets(batch, alpha, action_noise, return_noise)
        q, std = gaussian(self.critics, batch.obs, batch.action)
        with torch.no_grad():
            mean_std = deviations[0].lerp(std.mean(1, keepdim=True), rate)
            mean_variance = deviations[1].lerp(std.square().mean(1, keepdim=True), rate)
        scale, bound = self.scale_and_bound(mean_std, mean_variance)
        std_target = bounded_target(sampled_target, q, bound)
        loss = LOSSES[self.loss](q, std, mean_target, std_target, scale, self.epsilon)
        return loss, {"loss/critic": loss, "value/q": q.mean(), "mean_std": mean_std, "mean_variance": mean_variance}

    @torch.no_grad()
    def targets(
        self, batch: Experience, alpha: Tensor, action_noise: Tensor, return_noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The targets of the mean and of the deviation, `(B,)` each, from the critic with the smaller *mean*."""
        action, logp = self.target_actor.sample(batch.next_obs, action_noise)
        q, std = gaussian(self.target_critics, batch.next_obs, action)
        z = q + std * return_noise.clamp(-SAMPLE_LIMIT, SAMPLE_LIMIT)
        smaller = q.argmin(0, keepdim=True)

        def target(value: Tensor) -> Tensor:
            value = value.gather(0, smaller).squeeze(0)
            return td_target(batch.reward, soft_value(value, logp, alpha), batch.terminated, self.gamma)

        sampled = target(z)
        return target(q) if self.expected_target else sampled, sampled

    def scale_and_bound(self, mean_std: Tensor, mean_variance: Tensor) -> tuple[Tensor | float, Tensor | float]:
        """The gradient's scale and the clipping bound of each critic, `(P, 1)`."""
        if self.td_bound is not None:
            return 1.0, self.td_bound
        scale = mean_variance if self.loss == "paper" else mean_std.square()
        return scale, self.xi * mean_std

    def warn_of_epsilon(self) -> None:
        """Say so when `epsilon` exceeds the critics' variance: deviations then no longer matter."""
        if self.counters.updates % LOOK_EVERY == LOOK_EVERY - 1 and bool((self.mean_std.square() < self.epsilon).any()):
            warnings.warn(
                f"{self.name}: the critic's variance ({float(self.mean_std.min()) ** 2:.2g}) is below epsilon "
                f"({self.epsilon:g}), so its deviation hardly matters and the method acts like plain SAC; "
                "raise reward_scale or lower epsilon",
                stacklevel=2,
            )


def gaussian(critics: Critic, obs: Any, action: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each critic's return distribution, `(P, B)` each."""
    q, raw = critics(obs, action).unbind(-1)
    return q, F.softplus(raw)
