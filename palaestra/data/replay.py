"""The replay source: a ring of past steps, sampled uniformly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from palaestra.core.errors import BadSetting
from palaestra.core.experience import Experience, tree_map
from palaestra.core.seeding import Streams

STORED = ("obs", "action", "reward", "next_obs", "terminated", "truncated", "action_mask", "next_action_mask", "logp")


class Replay:
    """The last `capacity` steps, each with its true next observation and with `terminated` and `truncated` apart.

    The arrays are allocated whole at the first `add`, and touched only as they fill.
    """

    def __init__(self, capacity: int, streams: Streams, name: str = "replay"):
        if capacity < 1:
            raise BadSetting(f"the replay capacity must be at least 1, got {capacity}")
        self.capacity, self.streams, self.name = capacity, streams, name
        self.storage: Experience | None = None
        self.position = 0
        self.size = 0
        self.samples = 0

    def __len__(self) -> int:
        return self.size

    def add(self, batch: Experience) -> None:
        """Append the steps of a `(T, N)` or `(B,)` batch that the policy chose."""
        if batch.reward.dim() > 1:
            batch = batch.flatten()
        batch = batch.chosen()
        rows = Experience(**{name: value for name, value in batch.items() if name in STORED})
        count = len(rows)
        if count == 0:
            return
        if self.storage is None:
            self.storage = rows.map(lambda x: torch.empty(self.capacity, *x.shape[1:], dtype=x.dtype))
        if count > self.capacity:
            rows, count = rows[-self.capacity :], self.capacity
        first = min(count, self.capacity - self.position)
        for name, value in self.storage.items():
            new = getattr(rows, name)
            tree_map(lambda ring, x: _write(ring, x, self.position, first), value, new)
        self.position = (self.position + count) % self.capacity
        self.size = min(self.size + count, self.capacity)

    def clear(self) -> None:
        """Forget all steps."""
        self.position = self.size = 0

    def sample(self, batch: int) -> Experience:
        """`batch` steps drawn uniformly with replacement."""
        if self.storage is None:
            raise BadSetting("the replay buffer is empty; collect some steps before sampling")
        generator = self.streams.generator(self.name, self.samples)
        self.samples += 1
        index = torch.randint(self.size, (batch,), generator=generator)
        return self.storage.take(index)

    def state_dict(self) -> dict[str, Any]:
        stored = {} if self.storage is None else dict(self.storage.map(lambda x: x[: self.size]).items())
        return {"storage": stored, "position": self.position, "size": self.size, "samples": self.samples}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on as the buffer that `state` describes; tensors that are nobody's view are taken over, not copied, so that a
        large buffer is in memory only once."""
        self.position, self.size, self.samples = state["position"], state["size"], state["samples"]
        self.storage = None
        if state["storage"]:
            self.storage = Experience(**state["storage"]).map(self._grown)

    def _grown(self, rows: Tensor) -> Tensor:
        """A ring that begins with `rows`."""
        rows = rows.clone() if rows._is_view() else rows
        return rows.resize_(self.capacity, *rows.shape[1:])


def _write(ring: Tensor, rows: Tensor, position: int, first: int) -> None:
    ring[position : position + first] = rows[:first]
    if first < len(rows):
        ring[: len(rows) - first] = rows[first:]
