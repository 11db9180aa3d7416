"""Decision transformer, DT (Chen et al., arXiv 2106.01345): imitation under the condition of the return that followed.

Every step is three tokens: the return still to come, the observation, the action. The policy is trained to give the recorded
action, and asked at last for a return as high as the best: what it earns is taken off at every step.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from palaestra.core.experience import Experience
from palaestra.core.hints import PositiveFloat
from palaestra.core.method import Metrics, Paper
from palaestra.core.task import Task
from palaestra.data.sampling import Sampler
from palaestra.data.windows import windows
from palaestra.methods.offline.sequence import SequenceMethod
from palaestra.nets.gradient import Outputs
from palaestra.nets.sequence_actor import SequenceActor
from palaestra.objectives.returns import rewards_to_go


@dataclass
class DT(SequenceMethod):
    """The decision transformer."""

    paper: ClassVar[Paper] = Paper(
        "Decision Transformer: Reinforcement Learning via Sequence Modeling", 2021, "2106.01345"
    )
    summary: ClassVar[str] = "a causal transformer that imitates under the condition of the return to come"

    target: float | None = None
    """The return that the finished policy is asked for; None is the highest in the data."""
    return_scale: PositiveFloat = 1000.0
    """What returns are divided by."""

    def setup(self, task: Task) -> None:
        dataset = task.dataset  # type: ignore[attr-defined]
        to_go = rewards_to_go(dataset.steps.reward, dataset.starts, gamma=1.0)
        self.data = Sampler(dataclasses.replace(dataset, steps=dataset.steps.replace(target=to_go)), self.streams)
        self.setup_actor(task, size=1, return_scale=self.return_scale)
        target = float(dataset.returns.max()) if self.target is None else self.target
        self.actor.condition.fill_(target / self.return_scale)

    def policy(self) -> SequenceActor:
        return self.actor

    def step(self) -> Metrics:
        batch = windows(self.data.dataset, self.data.rows(self.batch_size), self.window)
        noise = self.streams.generator("dropout", self.counters.updates)
        keep = self.actor.transformer.draw(self.batch_size, 3 * self.window, self.dropout, noise)
        self.warm()
        metrics = self.actor_optimiser.descend(self.loss, batch, keep)
        self.counters.updates += 1
        return metrics

    def loss(self, batch: Experience, keep: Tensor | None) -> tuple[Tensor, Outputs]:
        """The mean squared distance from the recorded actions."""
        to_go = batch.target.unsqueeze(-1) / self.return_scale
        loss = self.imitation(batch, to_go, keep).sum() / batch.mask.sum()
        return loss, {"loss/actor": loss}
