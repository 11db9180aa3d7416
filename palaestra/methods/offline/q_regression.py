"""What the offline agents for discrete actions share: a Q-network that regresses on a target at the recorded actions.

The agents, networks and defaults are those that Schweighofer et al. (arXiv 2111.04714) compare on datasets of every kind. Losses
average over the last dimension, that of the batch, so that several learners `(P, B)` may be trained as one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from palaestra.core.experience import Experience
from palaestra.core.hints import PositiveFloat
from palaestra.core.method import Metrics
from palaestra.core.policy import Policy
from palaestra.core.task import Task
from palaestra.methods.offline.offline import Offline
from palaestra.nets.adam import Adam
from palaestra.nets.gradient import Outputs
from palaestra.nets.q_network import QNetwork
from palaestra.objectives.value import huber_error, taken


@dataclass
class QRegression(Offline):
    """An agent that acts greedily by values it has regressed; a subclass defines their target, `goal`."""

    action_kinds: ClassVar[tuple[str, ...]] = ("discrete",)

    gamma: float = 0.95
    """Discount factor."""
    batch_size: int = 128
    """Steps per update."""
    lr: float = 1e-4
    """Adam's learning rate."""
    network: tuple[int, ...] = (256, 256, 256)
    """Hidden sizes; in Python also a function (inputs, outputs) -> module."""
    activation: str = "selu"
    """relu, tanh, gelu, silu or selu."""
    huber: PositiveFloat = 1.0
    """Error beyond which the loss grows linearly."""

    def setup(self, task: Task) -> None:
        self.setup_data(task)
        self.q = self.build(task)
        self.q.encoder.fit(self.data.dataset.steps.obs)
        self.q.epsilon.zero_()
        self.optimiser = Adam(self.q.parameters(), self.lr)

    def build(self, task: Task, **options: Any) -> QNetwork:
        """The Q-network."""
        spaces = task.observation_space, task.action_space
        return QNetwork(*spaces, self.network, self.activation, standardise=self.normalise_obs, **options)

    def policy(self) -> Policy:
        return self.q

    def learn(self, batch: Experience, *drawn: Tensor) -> Metrics:
        return self.optimiser.descend(self.loss, batch, *drawn)

    def loss(self, batch: Experience, *drawn: Tensor) -> tuple[Tensor, Outputs]:
        """Huber error of the values of the recorded actions."""
        q = taken(self.values(self.q, batch.obs, *drawn), batch.action)
        error = huber_error(q, self.goal(batch, *drawn), self.huber)
        return error.sum(), {"loss/critic": error, "value/q": q.mean(-1)}

    def values(self, net: QNetwork, obs: Any, *drawn: Tensor) -> Tensor:
        """What `net` says every action is worth, `(B, n)`."""
        return net(obs)

    def goal(self, batch: Experience, *drawn: Tensor) -> Tensor:
        """The target `(B,)` of the recorded actions' values, without a gradient."""
        raise NotImplementedError
