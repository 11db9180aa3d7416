"""What offline methods share: minibatches of a dataset, drawn by any sampler, and one update from each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from palaestra.core.errors import BadDataset, require
from palaestra.core.experience import Experience
from palaestra.core.hints import NonNegativeFloat, PositiveInt, UnitInterval
from palaestra.core.method import Method, Metrics
from palaestra.core.task import Task
from palaestra.data.dataset import COLUMNS, Dataset
from palaestra.data.sampling import USUAL, Sampler, read_sampler, weights
from palaestra.data.synthetic import Synthetic

RETURN_RANGE = 1000.0
"""Distance from the worst to the best episode's return to which `reward_scale="returns"` scales."""


@dataclass
class Offline(Method):
    """A method that learns from logged steps; a subclass defines `update` for one batch."""

    family: ClassVar[str] = "offline"
    learns_from: ClassVar[str] = "dataset"

    gamma: UnitInterval = 0.99
    """Discount factor."""
    batch_size: PositiveInt = 256
    """Steps per update."""
    normalise_obs: bool = False
    """Standardise float observations by the dataset's mean and deviation, saved with the policy."""
    reward_scale: float | Literal["returns"] = 1.0
    """Factor on rewards as they are learnt from; returns: 1000 over the distance from the worst to the best episode's return."""
    reward_shift: float = 0.0
    """Added to rewards after scaling."""
    sampler: str = "uniform"
    """Which steps are drawn: all alike (uniform), or more of better episodes (rw, aw: softmax of returns, or of returns minus
    initial values, at temperature 0.1 or as in aw:0.05; top: only the best tenth of episodes, or as in top:0.2)."""
    synthetic: str | None = None
    """Folder of a run of pgd, whose synthetic steps take the place of most recorded ones in every batch."""
    guidance: NonNegativeFloat = 1.0
    """How strongly synthetic actions are guided to those of the present policy; 0 leaves them like the data's."""
    synthetic_share: float = 0.9375
    """Share of synthetic steps in a batch."""
    refresh_every: PositiveInt = 10_000
    """Updates between new sets of synthetic steps; the first set is made before there is a policy to guide to."""

    def check(self) -> None:
        super().check()
        read_sampler(self.sampler)
        require(0 < self.synthetic_share <= 1, f"synthetic_share must be in (0, 1], got {self.synthetic_share}")

    @classmethod
    def as_now(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
        """A sampler's number was once a setting of its own."""
        found = dict(settings)
        old = {"temperature": found.pop("temperature", USUAL), "top_share": found.pop("top_share", USUAL)}
        number = old["top_share" if found.get("sampler") == "top" else "temperature"]
        if found.get("sampler") in ("rw", "aw", "top") and number != USUAL:
            found["sampler"] += f":{number}"
        return found

    def setup_data(self, task: Task) -> None:
        """The sampler over the task's dataset; steps whose `mask` is 0, if it has one, are never drawn."""
        self.reward_factor = self._reward_factor(task.dataset)  # type: ignore[attr-defined]
        dataset = self.prepared(task.dataset)  # type: ignore[attr-defined]
        mask = dataset.steps.mask
        chosen = None
        if self.sampler != "uniform" or mask is not None:
            chosen = weights(dataset, *read_sampler(self.sampler))
        if mask is not None:
            chosen = chosen * mask  # type: ignore[operator]
            if not bool((chosen > 0).any()):
                raise BadDataset(f"{dataset.name} has no step that {self.name} can learn from")
        self.data = Sampler(dataset, self.streams, chosen)
        if self.synthetic is not None:
            self.made_up = Synthetic(self.synthetic, dataset, self.streams, self.guidance)

    def prepared(self, dataset: Dataset) -> Dataset:
        """The dataset as it is sampled from: a subclass may add columns that are computed once, in a copy."""
        return dataset

    def step(self) -> Metrics:
        batch, metrics = self.draw_batch()
        noise = self.streams.generator("update", self.counters.updates)
        metrics |= self.update(self.scaled(batch), noise)
        self.counters.updates += 1
        return metrics

    def draw_batch(self) -> tuple[Experience, Metrics]:
        """The next minibatch, `batch_size` steps, and what there is to log about synthetic ones among them."""
        if self.synthetic is None:
            return self.data.sample(self.batch_size), {}
        metrics: Metrics = {}
        age = self.counters.updates % self.refresh_every
        if age == 0:
            metrics = self.made_up.refresh(self.policy() if self.counters.updates > 0 else None)
            self.counters.model_steps += len(self.made_up.steps)
        count = round(self.synthetic_share * self.batch_size)
        real = self.data.sample(self.batch_size - count).only(*COLUMNS)
        batch = Experience.cat([self.made_up.sample(count), real])
        return batch, metrics | {"synthetic/age": torch.tensor(float(age))}

    def scaled(self, batch: Experience) -> Experience:
        """`batch` with its rewards as they are learnt from."""
        if self.reward_factor == 1 and self.reward_shift == 0:
            return batch
        return batch.replace(reward=self.reward_factor * batch.reward + self.reward_shift)

    def _reward_factor(self, dataset: Dataset) -> float:
        if self.reward_scale != "returns":
            return self.reward_scale
        distance = float(dataset.returns.max() - dataset.returns.min())
        if distance == 0:
            raise BadDataset(f"all episodes of {dataset.name} have the same return, by which rewards cannot be scaled")
        return RETURN_RANGE / distance

    def update(self, batch: Experience, noise: torch.Generator) -> Metrics:
        """One update from one batch of scaled rewards; all its randomness comes from `noise`."""
        return self.learn(batch, *self.draw(noise))

    # A method that defines these two in place of `update` can be trained for several seeds at once, in a `Stack`, if they take
    # batches (P, B) as well as (B,), and their metrics are then (P,).

    def draw(self, noise: torch.Generator) -> tuple[Tensor, ...]:
        """The random numbers of an update."""
        return ()

    def learn(self, batch: Experience, *drawn: Tensor) -> Metrics:
        """The update itself, a function of its inputs and of networks and optimisers alone."""
        raise NotImplementedError
