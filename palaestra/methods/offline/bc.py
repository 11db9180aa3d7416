"""Behaviour cloning: the policy imitates the recorded actions, whatever their reward.

A bounded box has a deterministic policy and a squared distance, as the behaviour cloning that offline methods are compared
with does (Fujimoto and Gu, arXiv 2106.06860); a discrete action has a softmax and its likelihood (Schweighofer et al.,
arXiv 2111.04714). With a `sampler` that prefers good episodes this is filtered, or weighted, behaviour cloning.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from palaestra.core import spaces
from palaestra.core.errors import require
from palaestra.core.experience import Experience
from palaestra.core.method import Metrics, Paper
from palaestra.core.task import Task
from palaestra.data.dataset import Dataset
from palaestra.methods.offline.offline import Offline
from palaestra.nets.actors import DeterministicActor
from palaestra.nets.adam import Adam
from palaestra.nets.categorical_actor import CategoricalActor
from palaestra.nets.gradient import Outputs


@dataclass
class BC(Offline):
    """Behaviour cloning."""

    paper: ClassVar[Paper] = Paper("ALVINN: An Autonomous Land Vehicle in a Neural Network (Pomerleau)", 1988)
    summary: ClassVar[str] = "imitates the recorded actions, in a box by squared distance, else by likelihood"
    action_kinds: ClassVar[tuple[str, ...]] = ("box", "discrete")

    lr: float = 3e-4
    """Adam's learning rate."""
    network: tuple[int, ...] = (256, 256)
    """Hidden sizes; in Python also a function (inputs, outputs) -> module."""
    activation: str = "relu"
    """relu, tanh, gelu or silu."""
    demonstrations: int | None = None
    """Episodes of the dataset that are imitated, the first ones; None imitates all."""
    acts: Literal["greedy", "sample"] = "greedy"
    """Whether the finished policy takes the most probable discrete action or samples, also when it is evaluated."""

    def check(self) -> None:
        super().check()
        require(self.acts in ("greedy", "sample"), f"acts must be greedy or sample, got {self.acts!r}")
        few = self.demonstrations is not None and self.demonstrations < 1
        require(not few, f"demonstrations must be at least 1, got {self.demonstrations}")

    def setup(self, task: Task) -> None:
        self.setup_data(task)
        build = (task.observation_space, task.action_space, self.network, self.activation)
        self.actor: DeterministicActor | CategoricalActor
        if spaces.kind(task.action_space) == "discrete":
            self.actor = CategoricalActor(*build, samples=self.acts == "sample", standardise=self.normalise_obs)
        else:
            require(self.acts == "greedy", f"acts={self.acts!r} is for discrete actions; {task.name} has a box")
            self.actor = DeterministicActor(*build, noise=0.0, standardise=self.normalise_obs)
        self.actor.encoder.fit(self.data.dataset.steps.obs)
        self.optimiser = Adam(self.actor.parameters(), self.lr)

    def prepared(self, dataset: Dataset) -> Dataset:
        return dataset if self.demonstrations is None else dataset.first(self.demonstrations)

    def policy(self) -> DeterministicActor | CategoricalActor:
        return self.actor

    def learn(self, batch: Experience, *drawn: Tensor) -> Metrics:
        return self.optimiser.descend(self.loss, batch.obs, batch.action)

    def loss(self, obs: Any, action: Tensor) -> tuple[Tensor, Outputs]:
        """Mean squared distance over batch and dimensions, or minus the mean log-likelihood."""
        if isinstance(self.actor, CategoricalActor):
            loss = -self.actor.distribution(obs).logp(action).mean(-1)
        else:
            loss = (self.actor(obs) - action).square().mean((-2, -1))
        return loss.sum(), {"loss/actor": loss}
