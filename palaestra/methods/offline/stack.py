"""Several seeds of one offline method trained as one: the same minibatches and updates as alone, in batched products."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn

from palaestra.core.errors import Unsupported
from palaestra.core.method import Counters, Metrics
from palaestra.data.sampling import Sampler
from palaestra.methods.offline.offline import Offline
from palaestra.nets.adam import Adam
from palaestra.nets.stack import stack, stack_adam


class Stack:
    """Members that differ in nothing but their seeds and have made equally many updates, and one learner that holds them all.

    A member remains a method: its networks and moments are views of the learner's. What it samples and draws is what
    it would alone; its results differ from those alone by the rounding of batched products.

    Raises:
        Unsupported: the method, or a network of it, cannot be stacked.
    """

    def __init__(self, members: Sequence[Offline]):
        first = members[0]
        if type(first).learn is Offline.learn:
            raise Unsupported(f"{first.name} is not written to train several seeds at once")
        self.members = members
        self.learner = copy.copy(first)
        stacked: dict[int, nn.Parameter] = {}
        with torch.random.fork_rng(devices=[]):  # networks draw numbers as they are built, and are overwritten
            for name, value in vars(first).items():
                if isinstance(value, nn.Module):
                    joined = stack([getattr(member, name) for member in members])
                    stacked |= dict(zip(map(id, value.parameters()), joined.parameters(), strict=True))
                    setattr(self.learner, name, joined)
        for name, value in first._state().items():
            if isinstance(value, Adam):
                optimisers = [getattr(member, name) for member in members]
                setattr(self.learner, name, stack_adam(optimisers, [stacked[id(p)] for p in value.params]))
            elif not isinstance(value, (nn.Module, Sampler, Counters, int, float)):
                raise Unsupported(f"{first.name}.{name} cannot be trained for several seeds at once")

    def step(self) -> list[Metrics]:
        """One update of every member, and the metrics of each."""
        shape = len(self.members), self.learner.batch_size
        rows = torch.cat([member.data.rows(shape[1]) for member in self.members])
        batch = self.learner.scaled(self.learner.data.dataset.steps.take(rows))
        drawn = [member.draw(member.streams.generator("update", member.counters.updates)) for member in self.members]
        metrics = self.learner.learn(
            batch.map(lambda x: x.unflatten(0, shape)), *(torch.stack(parts) for parts in zip(*drawn, strict=True))
        )
        for member in self.members:
            member.counters.updates += 1
        each = zip(*(value.unbind() for value in metrics.values()), strict=True)
        return [dict(zip(metrics, values, strict=True)) for values in each]
