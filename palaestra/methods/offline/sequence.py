"""What methods share that read behaviour from windows of logged steps: the actor, its imitation, and its schedule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from palaestra.core.errors import BadDataset, require
from palaestra.core.experience import Experience
from palaestra.core.hints import NonNegativeFloat, PositiveInt
from palaestra.core.method import Method
from palaestra.core.task import Task
from palaestra.nets.adam import Adam
from palaestra.nets.sequence_actor import SequenceActor

MAX_GRAD_NORM = 0.25


@dataclass
class SequenceMethod(Method):
    """A method whose policy is a causal transformer over its last steps and a condition."""

    family: ClassVar[str] = "offline"
    learns_from: ClassVar[str] = "dataset"

    window: PositiveInt = 20
    """Steps that the policy sees and that are learnt from at once."""
    batch_size: PositiveInt = 64
    """Windows, or pairs of them, per update."""
    width: PositiveInt = 128
    """Width of every token."""
    layers: PositiveInt = 3
    """Blocks of a transformer."""
    heads: PositiveInt = 1
    """Heads of the policy's attention."""
    dropout: float = 0.1
    """Share of numbers that are dropped from tokens and from what every branch adds to them."""
    lr: float = 1e-4
    """AdamW's learning rate."""
    warmup: PositiveInt = 10_000
    """Updates over which the policy's learning rate rises from 0."""
    weight_decay: NonNegativeFloat = 1e-4
    """Of AdamW."""
    horizon: PositiveInt = 1000
    """Steps that an episode has at most; longer ones are refused."""

    def check(self) -> None:
        super().check()
        require(0 <= self.dropout < 1, f"dropout must be in [0, 1), got {self.dropout}")

    def setup_actor(self, task: Task, size: int, return_scale: float | None = None) -> None:
        """The actor under conditions of `size` numbers, and its optimiser.

        Raises:
            BadDataset: an episode is longer than the horizon.
        """
        dataset = task.dataset  # type: ignore[attr-defined]
        longest = int(dataset.lengths.max())
        if longest > self.horizon:
            raise BadDataset(
                f"{dataset.name} has an episode of {longest} steps, but the horizon is {self.horizon}; set horizon to as much"
            )
        sizes = {"window": self.window, "width": self.width, "layers": self.layers, "heads": self.heads}
        spaces = task.observation_space, task.action_space
        self.actor = SequenceActor(*spaces, size, **sizes, horizon=self.horizon, return_scale=return_scale)
        self.actor.encoder.fit(dataset.steps.obs)
        self.actor_optimiser = self.adamw(self.actor)

    def adamw(self, net: nn.Module) -> Adam:
        """The optimiser of a network."""
        return Adam(net.parameters(), self.lr, weight_decay=self.weight_decay, max_grad_norm=MAX_GRAD_NORM)

    def warm(self) -> None:
        """Raise the policy's learning rate with the number of updates."""
        self.actor_optimiser.lr = self.lr * min(1.0, (self.counters.updates + 1) / self.warmup)

    def imitation(self, windows: Experience, condition: Tensor, keep: Tensor | None) -> Tensor:
        """(pi(s_{<=t}, a_{<t}, c) - a_t)^2, averaged over an action's dimensions, 0 at padding, `(B, K)`."""
        error = (self.actor(windows, condition, keep) - windows.action).square().mean(-1)
        return error * windows.mask
