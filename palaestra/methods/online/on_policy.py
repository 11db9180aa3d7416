"""What on-policy methods share: collect with the current policy, estimate advantages, learn, forget."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch

from palaestra.core.experience import Experience
from palaestra.core.hints import PositiveInt, UnitInterval
from palaestra.core.method import Method, Metrics
from palaestra.core.task import Task
from palaestra.envs.rollout import Rollout
from palaestra.nets.actor_critic import ActorCritic
from palaestra.nets.normalise import ReturnScale
from palaestra.objectives.returns import gae, standardise


@dataclass
class OnPolicy(Method):
    """A method that learns from what its current policy has just done; a subclass defines `learn`."""

    action_kinds: ClassVar[tuple[str, ...]] = ("box", "discrete", "multi_discrete")
    masks_actions: ClassVar[bool] = True

    lr: float = 3e-4
    """Adam's learning rate."""
    gamma: UnitInterval = 0.99
    """Discount factor."""
    lam: UnitInterval = 0.95
    """Lambda of generalised advantage estimation."""
    num_envs: PositiveInt = 8
    """Environments stepped together."""
    rollout_steps: PositiveInt = 256
    """Steps of every environment per iteration."""
    network: tuple[int, ...] = (64, 64)
    """Hidden sizes of actor and critic; in Python also a function (inputs, outputs) -> module."""
    activation: str = "tanh"
    """relu, tanh, gelu, silu or selu."""
    normalise_obs: bool = False
    """Standardise observations by running statistics, saved with the policy."""
    normalise_reward: bool = False
    """Divide rewards by the running deviation of the discounted return."""

    def setup(self, task: Task) -> None:
        self.actor_critic = ActorCritic(
            task.observation_space, task.action_space, self.network, self.activation, self.normalise_obs
        )
        self.rollout = Rollout(task.envs(self.num_envs, self.streams, "train"), self.streams, self.counters)
        self.return_scale = ReturnScale(self.num_envs, self.gamma) if self.normalise_reward else None
        self.iteration = 0
        self.setup_optimisers()

    def setup_optimisers(self) -> None:
        """Make whatever `learn` steps."""
        raise NotImplementedError

    def policy(self) -> ActorCritic:
        return self.actor_critic

    def step(self) -> Metrics:
        steps = self.rollout.collect(self.actor_critic, self.rollout_steps)
        batch = self.with_advantages(steps)
        metrics = self.learn(batch)
        self.actor_critic.observe(batch)  # after learning, so that act and score saw the same statistics
        self.iteration += 1
        error, spread = (x.var(correction=0) for x in (batch.target - batch.value, batch.target))
        explained = 1 - error / spread.clamp(min=1e-8)
        return {**metrics, "value/explained_variance": explained, **self.rollout.metrics}

    @torch.no_grad()
    def with_advantages(self, steps: Experience) -> Experience:
        """Values, advantages and value targets for a `(T, N)` rollout; the chosen steps, flat `(B,)`."""
        policy = self.actor_critic
        shape = steps.reward.shape
        flat = steps.flatten()
        value = policy.value(flat.obs).view(shape)
        next_value = policy.value(flat.next_obs).view(shape)
        done = torch.maximum(steps.terminated, steps.truncated)
        reward = steps.reward if self.return_scale is None else self.return_scale(steps.reward, done)
        # A row that was a reset carries no reward of its own and no value into the step before it.
        truncated = torch.maximum(steps.truncated, 1 - steps.mask)
        advantage = gae(reward, value, next_value, steps.terminated, truncated, self.gamma, self.lam)
        return steps.replace(value=value, advantage=advantage, target=advantage + value).flatten().chosen()

    def learn(self, batch: Experience) -> Metrics:
        """Improve policy and values from one flat batch with `advantage`, `target`, `value` and `logp`."""
        raise NotImplementedError

    def minibatches(
        self, batch: Experience, size: int, epochs: int, standardised: bool = False
    ) -> Iterator[Experience]:
        """Every step once per epoch, in a fresh order each time; advantages `standardised` within each minibatch or as given."""
        generator = self.streams.generator("minibatches", self.iteration)
        learnt_from = batch.only("obs", "action", "action_mask", "logp", "value", "advantage", "target")
        for _ in range(epochs):
            shuffled = learnt_from.take(torch.randperm(len(batch), generator=generator))
            if standardised:
                whole = len(batch) // size * size
                rows = [shuffled.advantage[:whole].view(-1, size), shuffled.advantage[whole:].view(1, -1)]
                shuffled.advantage = torch.cat([standardise(part).flatten() for part in rows if part.numel()])
            yield from shuffled.split(size)
