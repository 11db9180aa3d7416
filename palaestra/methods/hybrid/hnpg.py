"""Hybrid natural policy gradient, HNPG (Zhou et al., arXiv 2311.08384): on-policy, with logged data beside it.

The finite-horizon version of appendix E: policy and critic of every step h of an episode, no discount. The critics are fitted to
the returns of the policy's own episodes and to Bellman targets on logged steps at once; the natural gradient sees the states of
both. Without the logged half, `hybrid=False`, it is trust region policy optimisation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from palaestra.core.errors import BadDataset, Unsupported, require
from palaestra.core.experience import Experience, tree_map
from palaestra.core.hints import NonNegativeFloat, PositiveFloat, PositiveInt, UnitInterval
from palaestra.core.method import Method, Metrics, Paper
from palaestra.core.task import Task
from palaestra.data.dataset import Dataset
from palaestra.envs.rollout import Rollout
from palaestra.nets import trust_region
from palaestra.nets.actors import Critic
from palaestra.nets.adam import Adam
from palaestra.nets.gradient import Outputs
from palaestra.nets.stepwise import StepwiseGaussian, quieten, rows_of
from palaestra.nets.trust_region import TrustRegion
from palaestra.objectives.hybrid import hybrid_squared_error
from palaestra.objectives.returns import discounted_returns, gae
from palaestra.objectives.value import squared_error


@dataclass
class HNPG(Method):
    """On-policy natural gradient whose critics and trust region also see logged data, for episodes of one length H."""

    paper: ClassVar[Paper] = Paper(
        "Offline Data Enhanced On-Policy Policy Gradient with Provable Guarantees", 2023, "2311.08384"
    )
    summary: ClassVar[str] = "on-policy natural gradient whose critics and trust region also see logged data"
    family: ClassVar[str] = "hybrid"
    learns_from: ClassVar[str] = "both"

    hybrid: bool = True
    """Learn from the logged steps too; without them it is trust region policy optimisation."""
    online_weight: float = 1.0
    """lambda: weight of the policy's own steps beside the logged ones."""
    batch_steps: PositiveInt = 1000
    """Fewest environment steps per iteration, in whole episodes."""
    lam: UnitInterval = 0.97
    """Lambda of generalised advantage estimation."""
    value_samples: PositiveInt = 10
    """Actions that a state's value is the mean of."""
    lr: float = 3e-4
    """Adam's learning rate for the critics; the policy has none."""
    critic_steps: PositiveInt = 30
    """Gradient steps of every critic per iteration, each on the whole batch; Adam starts anew every time."""
    network: tuple[int, ...] = (16, 16)
    """Hidden sizes of the policy at every step."""
    critic_network: tuple[int, ...] = (64, 64)
    """Hidden sizes of the critic at every step."""
    activation: str = "tanh"
    """relu, tanh, gelu, silu or selu."""
    max_kl: PositiveFloat = 0.01
    """delta: bound of the mean KL(old || new) per iteration and step, by its second-order model."""
    cg_steps: PositiveInt = 10
    """Most conjugate-gradient steps."""
    cg_damping: NonNegativeFloat = 0.1
    """Multiple of the identity added to the Fisher matrix."""
    line_search_steps: PositiveInt = 10
    """Most step sizes tried before the step is given up."""
    line_search_shrink: float = 0.5
    """Factor between step sizes tried."""
    least_gain: float = 0.1
    """Least improvement that is taken, as a share of what the gradient promises."""

    def check(self) -> None:
        super().check()
        require(self.online_weight >= 0, f"online_weight (lambda) must be >= 0, got {self.online_weight}")
        require(0 < self.line_search_shrink < 1, f"line_search_shrink must be in (0, 1), got {self.line_search_shrink}")
        require(0 <= self.least_gain < 1, f"least_gain must be in [0, 1), got {self.least_gain}")
        for name in ("network", "critic_network"):
            sizes = not callable(getattr(self, name))
            require(sizes, f"{name} must be hidden sizes: the networks of all steps are one batched perceptron")

    def setup(self, task: Task) -> None:
        spaces = task.observation_space, task.action_space
        dataset: Dataset = task.dataset  # type: ignore[attr-defined]
        self.horizon = common_length(dataset)
        self.actor = StepwiseGaussian(*spaces, self.horizon, self.network, self.activation)
        self.critics = self.make_critics(task, self.horizon)
        # Critics are fitted one after the other, each in the same place, so that one compiled loss serves them all.
        self.critic = self.make_critics(task, 1)
        self.optimiser = Adam(self.critic.parameters(), self.lr)
        episodes = math.ceil(self.batch_steps / self.horizon)
        self.rollout = Rollout(task.envs(episodes, self.streams, "train"), self.streams, self.counters)  # type: ignore[attr-defined]
        self.iteration = 0

    def make_critics(self, task: Task, copies: int) -> Critic:
        """Action values of `copies` steps."""
        critics = Critic(
            task.observation_space, self.actor.box.size, self.critic_network, self.activation, copies=copies
        )
        critics.encoder = rows_of(task.observation_space)
        quieten(critics.net)
        return critics

    def policy(self) -> StepwiseGaussian:
        return self.actor

    def step(self) -> Metrics:
        noise = self.streams.generator("update", self.iteration)
        on = self.collect()
        off = self.logged(on.reward.shape[1], noise)
        metrics = self.evaluate(on, off, noise)
        metrics |= self.improve(on, off, noise)
        self.counters.updates += self.critic_steps * self.horizon + 1
        self.iteration += 1
        return {**metrics, **self.rollout.metrics}

    def collect(self) -> Experience:
        """Whole episodes of the present policy, `(H, N)`, with their returns to go as `target`."""
        on = self.rollout.collect(self.actor, self.horizon)
        ends = on.terminated + on.truncated
        if not bool((ends[-1] > 0).all() & (ends[:-1] == 0).all() & (on.mask > 0).all()):
            raise Unsupported(
                f"{self.task.name}: {self.name} needs episodes that all last {self.horizon} steps, as in the data, and that "
                "start again in the step that ends them"
            )
        zeros = torch.zeros_like(on.reward)
        return on.replace(target=discounted_returns(on.reward, zeros, on.terminated, on.truncated, gamma=1.0))

    def logged(self, count: int, noise: torch.Generator) -> Experience:
        """`count` logged steps of every h, drawn with replacement, `(H, count)`."""
        dataset = self.task.dataset
        episodes = torch.randint(len(dataset.starts), (self.horizon, count), generator=noise)
        rows = dataset.starts[episodes] + torch.arange(self.horizon).unsqueeze(1)
        steps = dataset.steps.only("obs", "action", "reward", "next_obs").take(rows.flatten())
        return steps.map(lambda x: x.unflatten(0, rows.shape))

    def evaluate(self, on: Experience, off: Experience, noise: torch.Generator) -> Metrics:
        """Fit the critics from the last step to the first: Q_h's targets are r + Q_h+1(s', a'), a' of the present policy."""
        with torch.no_grad():
            # What step h - 1 leads to is where step h begins.
            arrived = tree_map(lambda x: x.roll(1, 0), off.next_obs)
            begun = Experience(obs=arrived, action=self.actor.distribution(arrived).sample(noise))
        fresh, logged = on.only("obs", "action", "target"), off.only("obs", "action")
        future, found = torch.zeros_like(off.reward[:1]), []
        for h in reversed(range(self.horizon)):
            place = slice(h, h + 1)
            found.append(self.fit(place, fresh[place], logged[place].replace(target=off.reward[place] + future)))
            with torch.no_grad():
                start = begun[place]
                future = self.critic.q(start.obs, start.action)
        return {name: torch.stack([losses[name] for losses in found]).mean() for name in found[0]}

    def fit(self, place: slice, on: Experience, off: Experience) -> Metrics:
        """Take the critic of one step on from where it stands."""
        stacked = [p[place] for p in self.critics.parameters()]
        with torch.no_grad():
            torch._foreach_copy_(self.optimiser.params, stacked)
        self.optimiser.restart()
        for _ in range(self.critic_steps):
            metrics = self.optimiser.descend(self.critic_loss, on, off)
        with torch.no_grad():
            torch._foreach_copy_(stacked, self.optimiser.params)
        return metrics

    def critic_loss(self, on: Experience, off: Experience) -> tuple[Tensor, Outputs]:
        """The error of the policy's own returns and that of the Bellman targets."""
        q = self.critic.q(on.obs, on.action)
        if not self.hybrid:
            online = squared_error(q, on.target)
            return online, {"loss/online": online}
        logged = self.critic.q(off.obs, off.action)
        loss, offline, online = hybrid_squared_error(logged, off.target, q, on.target, self.online_weight)
        return loss, {"loss/online": online, "loss/offline": offline}

    def improve(self, on: Experience, off: Experience, noise: torch.Generator) -> Metrics:
        """One trust-region step of every pi_h, from its own states and from the logged ones."""
        batch = self.with_advantages(on, noise)
        if self.hybrid:
            batch = Experience.cat([batch, self.imagined(off, noise)], dim=1)
        region = TrustRegion(
            self.max_kl,
            self.cg_steps,
            self.cg_damping,
            self.line_search_steps,
            self.line_search_shrink,
            self.least_gain,
        )
        taken = trust_region.step(
            list(self.actor.parameters()),
            lambda: self.actor.distribution(batch.obs, twice=True),
            batch.action,
            batch.advantage,
            region,
            batch.weight,
        )
        return {
            "loss/policy": taken.loss.mean(),
            "policy/kl": taken.kl.mean(),
            "policy/entropy": taken.entropy.mean(),
            "policy/gradient_norm": taken.gradient_norm.mean(),
        }

    @torch.no_grad()
    def with_advantages(self, on: Experience, noise: torch.Generator) -> Experience:
        """The policy's own steps with the advantages of what it did, from the new critics."""
        value = self.values(on.obs, noise)
        next_value = torch.cat([value[1:], torch.zeros_like(value[:1])])
        advantage = gae(on.reward, value, next_value, on.terminated, on.truncated, gamma=1.0, lam=self.lam)
        weight = torch.full_like(advantage, self.online_weight if self.hybrid else 1.0)
        return Experience(obs=on.obs, action=on.action, advantage=advantage, weight=weight)

    @torch.no_grad()
    def imagined(self, off: Experience, noise: torch.Generator) -> Experience:
        """The logged states with actions of the present policy: those that were logged would blow up its probability ratios."""
        action = self.actor.distribution(off.obs).sample(noise)
        advantage = self.critics.q(off.obs, action) - self.values(off.obs, noise)
        return Experience(obs=off.obs, action=action, advantage=advantage, weight=torch.ones_like(advantage))

    def values(self, obs: object, noise: torch.Generator) -> Tensor:
        """The mean of Q_h over actions of pi_h, `(H, B)`."""
        dist = self.actor.distribution(obs)
        drawn = [self.critics.q(obs, dist.sample(noise)) for _ in range(self.value_samples)]
        return torch.stack(drawn).mean(0)


def common_length(dataset: Dataset) -> int:
    """The number of steps that every episode of a dataset has.

    Raises:
        BadDataset: they differ, so that a row's place in its episode does not say how much of it is left.
    """
    shortest, longest = int(dataset.lengths.min()), int(dataset.lengths.max())
    if shortest != longest:
        raise BadDataset(
            f"{dataset.name} has episodes of {shortest} to {longest} steps; a policy for every step needs them all alike"
        )
    return longest
