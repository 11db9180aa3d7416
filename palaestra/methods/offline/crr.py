"""Critic-regularised regression, CRR (Wang et al., arXiv 2006.15134), binary and discrete: clone what is better than the policy.

The form that Schweighofer et al. (arXiv 2111.04714) compare: the policy's value of a state is the mean over a few of its actions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from palaestra.core.experience import Experience
from palaestra.core.hints import PositiveInt
from palaestra.core.method import Paper
from palaestra.core.task import Task
from palaestra.methods.offline.dqn_offline import DQNOffline
from palaestra.nets.adam import Adam
from palaestra.nets.categorical_actor import CategoricalActor
from palaestra.nets.distributions import gumbel
from palaestra.nets.gradient import Outputs
from palaestra.nets.polyak import polyak, target_of
from palaestra.objectives.offline import weighted_likelihood
from palaestra.objectives.value import huber_error, taken, td_target


@dataclass
class CRR(DQNOffline):
    """Critic-regularised regression with binary weights. It acts by sampling, in evaluation too."""

    paper: ClassVar[Paper] = Paper("Critic Regularized Regression", 2020, "2006.15134")
    summary: ClassVar[str] = "clones the recorded actions that its critic finds better than its policy"

    samples: PositiveInt = 4
    """Actions of the policy whose mean value a recorded action must exceed."""

    def setup(self, task: Task) -> None:
        super().setup(task)
        build = (task.observation_space, task.action_space, self.network, self.activation)
        self.actor = CategoricalActor(*build, samples=True, standardise=self.normalise_obs)
        self.actor.encoder.fit(self.data.dataset.steps.obs)
        self.target_actor = target_of(self.actor)
        # One optimiser for two separate problems: neither loss reads what the other one changes.
        self.optimiser = Adam([*self.q.parameters(), *self.actor.parameters()], self.lr)

    def policy(self) -> CategoricalActor:
        return self.actor

    def copy_targets(self) -> None:
        super().copy_targets()
        polyak(self.target_actor, self.actor, 1.0)

    def draw(self, noise: torch.Generator) -> tuple[Tensor, ...]:
        """Gumbel noise for the actions of the policy and for the target policy's, `(B, samples + 1, n)`."""
        shape = self.batch_size, self.samples + 1, self.q.count
        return (gumbel(shape, noise),)

    def goal(self, batch: Experience, *drawn: Tensor) -> Tensor:
        """r + gamma Q'(s', a'), a' drawn from the target policy."""
        (noise,) = drawn
        with torch.no_grad():
            action = self.target_actor.distribution(batch.next_obs).drawn(noise[..., -1, :])
            return td_target(batch.reward, taken(self.target(batch.next_obs), action), batch.terminated, self.gamma)

    def loss(self, batch: Experience, *drawn: Tensor) -> tuple[Tensor, Outputs]:
        """The critic's Huber error, and minus the log-likelihood of recorded actions with Q(s, a) - mean_j Q(s, a_j) > 0."""
        (noise,) = drawn
        values, dist = self.q(batch.obs), self.actor.distribution(batch.obs)
        q = taken(values, batch.action)
        error = huber_error(q, self.goal(batch, noise), self.huber)
        with torch.no_grad():
            proposed = dist.drawn(noise[..., :-1, :])  # (B, samples)
            better = (q > values.gather(-1, proposed).mean(-1)).float()
        imitation = weighted_likelihood(dist.logp(batch.action), better)
        metrics = {
            "loss/critic": error,
            "loss/actor": imitation,
            "value/q": q.mean(-1),
            "policy/better": better.mean(-1),
        }
        return (error + imitation).sum(), metrics
