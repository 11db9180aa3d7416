"""Discriminator-actor-critic, DAC (Kostrikov et al., arXiv 1809.02925): off-policy adversarial imitation.

A discriminator learns to tell the expert's state-action pairs from those in the replay buffer; soft actor-critic learns from
that buffer with the discriminator's opinion as its reward, asked anew at every update.

Where episodes end early, the paper lets them go on in an absorbing state that the discriminator judges too. Nothing changes
there, so that its value is known: r / (1 - gamma), and it comes in as part of the last step's reward.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor

from palaestra.core.errors import require
from palaestra.core.experience import Experience
from palaestra.core.hints import NonNegativeFloat, PositiveInt
from palaestra.core.method import Metrics, Paper
from palaestra.core.task import Task
from palaestra.data.sampling import Sampler
from palaestra.methods.online.sac import SAC
from palaestra.nets.adam import Adam
from palaestra.nets.discriminator import Discriminator
from palaestra.nets.gradient import Outputs
from palaestra.objectives.imitation import DIVERGENCES, REWARDS, gradient_penalty


@dataclass
class DAC(SAC):
    """Soft actor-critic on a discriminator's rewards; a subclass that lets it see other pairs overrides `learner_pairs`."""

    paper: ClassVar[Paper] = Paper(
        "Discriminator-Actor-Critic: Addressing Sample Inefficiency and Reward Bias in Adversarial Imitation Learning",
        2018,
        "1809.02925",
    )
    summary: ClassVar[str] = "off-policy adversarial imitation: soft actor-critic on a discriminator's reward"
    family: ClassVar[str] = "imitation"
    learns_from: ClassVar[str] = "both"

    demonstrations: PositiveInt = 1
    """Episodes of the dataset that are imitated, the first ones."""
    divergence: Literal["js", "reverse_kl", "wasserstein"] = "js"
    """What the discriminator estimates, between the expert's pairs and the learner's; js is its cross-entropy."""
    reward: Literal["airl", "gail"] = "airl"
    """The discriminator's output D, or log(1 + exp D), which is positive."""
    absorbing: bool = False
    """Judge also the state that episodes which ended stay in, for tasks that end early."""
    penalty: NonNegativeFloat = 10.0
    """Weight of the discriminator's gradient penalty."""
    discriminator_lr: float = 1e-3
    """Adam's learning rate for the discriminator."""
    discriminator_network: tuple[int, ...] = (256, 256)
    """Its hidden sizes; in Python also a function (inputs, outputs) -> module, which must be twice differentiable."""
    discriminator_activation: str = "tanh"
    """relu, tanh, gelu or silu."""
    normalise_obs: bool = False
    """Standardise float observations by the demonstrations' mean and deviation before they are judged."""
    bounded: bool = False
    """End the discriminator in a tanh, so that rewards stay within [-1, 1]."""

    def check(self) -> None:
        super().check()
        require(self.batch_size >= 2, f"batch_size must be at least 2, half of it the expert's, got {self.batch_size}")
        for name, known in (("divergence", DIVERGENCES), ("reward", REWARDS)):
            chosen = getattr(self, name)
            require(chosen in known, f"{name} must be {' or '.join(known)}, got {chosen!r}")
        require(not self.absorbing or self.gamma < 1, "absorbing states need gamma < 1, or their value is infinite")

    def setup(self, task: Task) -> None:
        super().setup(task)
        shown = task.dataset.first(self.demonstrations)  # type: ignore[attr-defined]
        self.expert = Sampler(shown, self.streams, name="demonstrations")
        self.discriminator = Discriminator(
            task.observation_space,
            self.actor.box.size,
            self.discriminator_network,
            self.discriminator_activation,
            bounded=self.bounded,
            absorbing=self.absorbing,
            standardise=self.normalise_obs,
        )
        self.discriminator.encoder.fit(shown.steps.obs)
        self.discriminator_optimiser = Adam(self.discriminator.parameters(), self.discriminator_lr)

    def update(self, batch: Experience, noise: torch.Generator) -> Metrics:
        return {**self.discriminate(noise), **self.improve(batch, noise)}

    def improve(self, batch: Experience, noise: torch.Generator) -> Metrics:
        """Soft actor-critic's update, from the discriminator's rewards."""
        reward = self.rewards(batch)
        metrics = super().update(self.scaled(batch.replace(reward=reward)), noise)
        return {**metrics, "imitation/reward": reward.mean()}

    @torch.no_grad()
    def rewards(self, batch: Experience) -> Tensor:
        """What the discriminator makes of each step, `(B,)`; after an end, of staying in the absorbing state for ever."""
        read = REWARDS[self.reward]
        reward = read(self.discriminator(batch.obs, batch.action))
        if self.absorbing:
            ever = self.gamma / (1 - self.gamma) * read(self.discriminator.at_absorbing())
            reward = reward + batch.terminated * ever
        return reward

    def learner_pairs(self, count: int, noise: torch.Generator) -> Experience:
        """Steps that the expert's are held against: any that are remembered."""
        return self.replay.sample(count)

    def discriminate(self, noise: torch.Generator) -> Metrics:
        """One step of the discriminator, on as many pairs of the expert as of the learner."""
        half = self.batch_size // 2
        expert = self.judged(self.expert.sample(half), noise)
        learner = self.judged(self.learner_pairs(half, noise), noise)
        mix = torch.rand(half, 1, generator=noise)
        return self.discriminator_optimiser.descend(self.discriminator_loss, expert, learner, mix)

    def judged(self, batch: Experience, noise: torch.Generator) -> Experience:
        """The rows as the discriminator sees them: with absorbing states, a terminal step also stands for the one after it,
        each of the two half of the time and then with twice the weight."""
        pairs = batch.only("obs", "action")
        if not self.absorbing:
            return pairs
        after = batch.terminated * (torch.rand(len(batch), generator=noise) < 0.5)
        return pairs.replace(mask=1 - after, weight=1 + batch.terminated)

    def discriminator_loss(self, expert: Experience, learner: Experience, mix: Tensor) -> tuple[Tensor, Outputs]:
        """Minus the estimated divergence, and the penalty on gradients between the two kinds of pairs."""
        d, (x, y) = (
            self.discriminator,
            (self.discriminator.features(b.obs, b.action, b.mask) for b in (expert, learner)),
        )
        divergence = DIVERGENCES[self.divergence](d.judge(x), d.judge(y), expert.weight, learner.weight)
        penalty = gradient_penalty(partial(d.judge, twice=True), mix * x + (1 - mix) * y)
        loss = self.penalty * penalty - divergence
        return loss, {
            "loss/discriminator": loss,
            "imitation/divergence": divergence,
            "imitation/gradient_penalty": penalty,
        }
