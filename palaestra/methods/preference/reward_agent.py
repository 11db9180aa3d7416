"""Reinforcement learning from a reward model that is trained alongside: the baseline of SPO (Swamy et al., arXiv 2401.04056).

A judge compares the agent's trajectories; a network that gives each step a reward is fitted to the answers by Bradley and
Terry's model on sums over trajectories (Christiano et al., arXiv 1706.03741), and the agent learns from its rewards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from palaestra.core.errors import require
from palaestra.core.experience import Experience, tree_map
from palaestra.core.hints import PositiveInt
from palaestra.core.method import Metrics, Paper
from palaestra.core.task import Task
from palaestra.methods.online.ppo import PPO
from palaestra.methods.online.sac import SAC
from palaestra.methods.preference.judged import Judged
from palaestra.methods.preference.trajectories import Memory, stacked
from palaestra.nets.adam import Adam
from palaestra.nets.gradient import Outputs
from palaestra.nets.step_reward import StepReward
from palaestra.objectives.preference import bradley_terry

PAIRS = 64
"""Pairs in each step of the reward model."""


@dataclass
class ModelledReward(Judged):
    """Iterative reward modelling, as a mixin for any agent."""

    paper: ClassVar[Paper] = Paper("Deep Reinforcement Learning from Human Preferences", 2017, "1706.03741")

    comparisons: PositiveInt = 10
    """Trajectories that each new one is compared with, drawn from those remembered."""
    memory: int = 1_000
    """Trajectories that are remembered with the answers about them."""
    refit_every: PositiveInt = 50
    """New trajectories between fits of the reward model."""
    refit_updates: PositiveInt = 100
    """Gradient steps of a fit, from where the last one ended."""
    model_lr: float = 1e-3
    """Adam's learning rate for the reward model, whose network has the agent's hidden sizes and activation."""

    def check(self) -> None:
        super().check()
        require(self.memory >= 2, f"memory must hold at least 2 trajectories, got {self.memory}")

    def setup(self, task: Task) -> None:
        super().setup(task)
        build = (self.network, self.activation)  # type: ignore[attr-defined]
        self.model = StepReward(task.observation_space, task.action_space, *build)
        self.model_optimiser = Adam(self.model.parameters(), self.model_lr)
        self.remembered = Memory(self.memory)
        # Answered pairs: the numbers of two trajectories, and the probability that the first is preferred.
        self.first, self.second = torch.zeros(2, 0, dtype=torch.int64)
        self.answers = torch.zeros(0)
        self.next_fit, self.fits = 0, 0
        self.said = torch.zeros(2)  # loss and agreement when last fitted

    def score(self, found: list[Experience]) -> Experience:
        new, steps = self.seen(found), stacked(found)
        self.compare(new)
        if self.remembered.added >= self.next_fit:
            self.fit()
            self.next_fit = self.remembered.added + self.refit_every
        reward = self.rewards(new)[: len(steps)] * steps.mask
        return steps.replace(reward=reward)

    def step(self) -> Metrics:
        return {**super().step(), "loss/reward_model": self.said[0], "preference/agreement": self.said[1]}

    def compare(self, new: Experience) -> None:
        """Ask about each new trajectory `(H, n)` and some that are remembered, among them the other new ones."""
        memory = self.remembered
        memory.add(new)
        held = memory.held
        assert held is not None
        count = len(memory)
        mine = torch.arange(count - min(new.mask.shape[1], count), count)
        noise = self.streams.generator("opponents", memory.added)
        for _ in range(self.comparisons):
            other = (mine + 1 + torch.randint(count - 1, mine.shape, generator=noise)) % count
            answer = self.ask(held[:, mine], held[:, other])
            self.first = torch.cat([self.first, memory.oldest + mine])
            self.second = torch.cat([self.second, memory.oldest + other])
            self.answers = torch.cat([self.answers, (1 + answer) / 2])
        there = torch.minimum(self.first, self.second) >= memory.oldest
        self.first, self.second, self.answers = (x[there] for x in (self.first, self.second, self.answers))

    def fit(self) -> None:
        """Go on fitting the reward model to the answers there are."""
        held, oldest = self.remembered.held, self.remembered.oldest
        assert held is not None
        pairs = held.only("obs", "action", "mask")
        noise = self.streams.generator("fit", self.fits)
        for _ in range(self.refit_updates):
            drawn = torch.randint(len(self.answers), (PAIRS,), generator=noise)
            first, second = (pairs[:, (numbers[drawn] - oldest)] for numbers in (self.first, self.second))
            found = self.model_optimiser.descend(self.model_loss, first, second, self.answers[drawn])
        self.said = torch.stack([found["loss"], found["agreement"]])
        self.fits += 1

    def model_loss(self, first: Experience, second: Experience, label: Tensor) -> tuple[Tensor, Outputs]:
        """Bradley-Terry's cross-entropy on sums of rewards of pairs `(H, B)`."""
        gap = self.modelled(first).sum(0) - self.modelled(second).sum(0)
        loss = bradley_terry(gap, label).mean()
        side = 2 * label - 1
        agrees = (side * gap > 0).sum() / (side != 0).sum().clamp(min=1)
        return loss, {"loss": loss, "agreement": agrees}

    def modelled(self, steps: Experience) -> Tensor:
        """The model's rewards `(H, B)`, 0 after an end."""
        obs = tree_map(lambda x: x.flatten(0, 1), steps.obs)
        reward = self.model(obs, steps.action.flatten(0, 1)).unflatten(0, steps.mask.shape)
        return reward * steps.mask

    @torch.no_grad()
    def rewards(self, steps: Experience) -> Tensor:
        """The model's rewards of steps `(H, B)`, without a gradient."""
        return self.modelled(steps)


@dataclass
class RewardAgent(ModelledReward, PPO):
    """Proximal policy optimisation on a reward model that is trained alongside."""

    summary: ClassVar[str] = "PPO on a reward model that learns from comparisons of its trajectories"


@dataclass
class RewardAgentSAC(ModelledReward, SAC):
    """Soft actor-critic on a reward model that is trained alongside; replayed steps are scored anew at every update."""

    summary: ClassVar[str] = "soft actor-critic on a reward model that learns from comparisons of its trajectories"

    def minibatch(self) -> Experience:
        batch = super().minibatch()
        with torch.no_grad():
            return batch.replace(reward=self.model(batch.obs, batch.action))
