"""Deep Q-networks, DQN (Mnih et al., arXiv 1312.5602 and Nature 518, 2015), with double and dueling variants.

`double` lets the online network choose the action whose value the target network gives (van Hasselt et al., 1509.06461);
`dueling` splits the network into state value and advantages (Wang et al., 1511.06581).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from palaestra.core.errors import require
from palaestra.core.experience import Experience
from palaestra.core.hints import PositiveFloat, PositiveInt, UnitInterval
from palaestra.core.method import Metrics, Paper
from palaestra.core.task import Task
from palaestra.methods.online.off_policy import OffPolicy
from palaestra.nets.adam import Adam
from palaestra.nets.gradient import Outputs
from palaestra.nets.polyak import polyak, target_of
from palaestra.nets.q_network import QNetwork
from palaestra.objectives.value import greedy_value, huber_error, squared_error, taken, td_target


@dataclass
class DQN(OffPolicy):
    """Deep Q-network."""

    paper: ClassVar[Paper] = Paper("Human-level control through deep reinforcement learning", 2015, "1312.5602")
    summary: ClassVar[str] = "off-policy Q-learning for discrete actions; double and dueling are options"
    action_kinds: ClassVar[tuple[str, ...]] = ("discrete",)
    masks_actions: ClassVar[bool] = True

    batch_size: int = 128
    """Steps per update."""
    buffer_size: int = 100_000
    """Replay capacity in steps."""
    warmup_steps: int = 1_000
    """Steps collected at random before the first update."""
    steps_per_round: int = 10
    """Steps of every environment between rounds of updates."""
    lr: float = 2.5e-4
    """Adam's learning rate."""
    network: tuple[int, ...] = (120, 84)
    """Hidden sizes; in Python also a function (inputs, outputs) -> module."""
    activation: str = "relu"
    """relu, tanh, gelu, silu or selu."""
    double: bool = False
    """Choose the next action by the online network, value it by the target network."""
    dueling: bool = False
    """Separate networks for state value and advantages."""
    target_every: PositiveInt = 50
    """Updates between moves of the target network."""
    tau: float = 1.0
    """Step of the target network towards the online one; 1 copies it."""
    epsilon_start: UnitInterval = 1.0
    """Chance of a random action at first."""
    epsilon_end: UnitInterval = 0.05
    """Chance of a random action after the schedule."""
    epsilon_share: UnitInterval = 0.5
    """Share of the budget over which the chance falls linearly."""
    huber: PositiveFloat | None = None
    """TD error beyond which the loss grows linearly, as in the Nature paper (1); None squares all errors."""
    max_grad_norm: PositiveFloat = 10.0
    """Clip of the global gradient norm."""

    def check(self) -> None:
        super().check()
        require(0 < self.tau <= 1, f"tau must be in (0, 1], got {self.tau}")

    def setup(self, task: Task) -> None:
        self.q = QNetwork(task.observation_space, task.action_space, self.network, self.activation, self.dueling)
        self.target = target_of(self.q)
        self.optimiser = Adam(self.q.parameters(), self.lr, max_grad_norm=self.max_grad_norm)
        self.setup_sources(task)

    def policy(self) -> QNetwork:
        return self.q

    def step(self) -> Metrics:
        self.q.epsilon.fill_(self.exploration)
        return {**super().step(), "policy/epsilon": self.q.epsilon.clone()}

    @property
    def exploration(self) -> float:
        """The chance of a random action at this point of the budget."""
        spent = 1 - self.remaining
        done = min(1.0, spent / self.epsilon_share) if self.epsilon_share > 0 else 1.0
        return self.epsilon_start + done * (self.epsilon_end - self.epsilon_start)

    def update(self, batch: Experience, noise: torch.Generator) -> Metrics:
        metrics = self.optimiser.descend(self.loss, batch)
        if (self.counters.updates + 1) % self.target_every == 0:
            polyak(self.target, self.q, self.tau)
        return metrics

    def loss(self, batch: Experience) -> tuple[Tensor, Outputs]:
        """Bellman error of the actions taken."""
        with torch.no_grad():
            next_q = self.target(batch.next_obs)
            chooser = self.q(batch.next_obs) if self.double else next_q
            next_value = greedy_value(next_q, chooser, batch.next_action_mask)
            y = td_target(batch.reward, next_value, batch.terminated, self.gamma)
        q = taken(self.q(batch.obs), batch.action)
        loss = squared_error(q, y) if self.huber is None else huber_error(q, y, self.huber)
        return loss, {"loss/critic": loss, "value/q": q.mean()}
