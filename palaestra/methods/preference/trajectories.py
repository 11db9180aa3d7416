"""Whole trajectories: collected, remembered, and compared by a task's judge."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from palaestra.core.errors import Unsupported
from palaestra.core.experience import Experience, tree_map
from palaestra.core.method import Counters
from palaestra.core.policy import Policy
from palaestra.core.seeding import Streams
from palaestra.envs.judges import Judge, preferences, require_antisymmetric
from palaestra.envs.rollout import Rollout

CHECKED = 100
"""Pairs on which a judge is asked in both orders before it is believed."""
Score = Callable[[list[Experience]], Experience]
"""Whole trajectories, `(T,)` each, to what is learnt from them, `(T, n)`."""


class ScoredRollout:
    """A rollout that gives whole trajectories only, with the rewards that `score` gives them; it stands in for a `Rollout`.

    Steps of episodes that have not ended are kept for later. The first collection goes on until there are `least`
    trajectories, and with `waits` every one until there is one; else a collection may be empty.
    """

    def __init__(self, rollout: Rollout, score: Score, horizon: int, least: int, waits: bool):
        self.rollout, self.score, self.horizon, self.least, self.waits = rollout, score, horizon, least, waits
        self.open: list[list[Experience]] = [[] for _ in range(len(rollout.envs))]
        self.begun = False

    @property
    def metrics(self) -> dict[str, Tensor]:
        """The rollout's: mean true return and length of recent episodes."""
        return self.rollout.metrics

    def collect(self, policy: Policy, steps: int, random: bool = False) -> Experience:
        """Act for `steps` steps of every environment, or as long as it takes."""
        found = self._finished(policy, steps, random)
        while len(found) < (int(self.waits) if self.begun else self.least):
            found += self._finished(policy, steps, random)
        self.begun = True
        return self.score(found) if found else Experience(reward=torch.empty(0))

    def _finished(self, policy: Policy, steps: int, random: bool) -> list[Experience]:
        """The trajectories that end within the next `steps` steps, in the order of their ends, `(T,)` each."""
        fresh = self.rollout.collect(policy, steps, random)
        begin, found = [0] * len(self.open), []
        for t, i in ((fresh.terminated + fresh.truncated) > 0).nonzero().tolist():
            found.append(Experience.cat([*self.open[i], fresh[begin[i] : t + 1, i]]).chosen())
            self.open[i], begin[i] = [], t + 1
        for i, start in enumerate(begin):
            if start < len(fresh):
                self.open[i].append(fresh[start:, i])
        longest = max(map(len, found), default=0)
        if longest > self.horizon:
            raise Unsupported(
                f"an episode took {longest} steps, and trajectories have at most {self.horizon}; give horizon"
            )
        return found

    def at_boundary(self) -> None:
        """See `Rollout.at_boundary`."""
        self.rollout.at_boundary()
        self._forget()

    def state_dict(self) -> dict[str, Any]:
        parts = [dict(Experience.cat(pieces).items()) if pieces else None for pieces in self.open]
        return {"rollout": self.rollout.state_dict(), "open": parts, "begun": self.begun}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.rollout.load_state_dict(state["rollout"])
        self.open = [[Experience(**part)] if part else [] for part in state["open"]]
        self.begun = state["begun"]
        self._forget()

    def _forget(self) -> None:
        """Drop what was seen of episodes that the rollout gave up."""
        for i, length in enumerate(self.rollout.running_length):
            if length == 0:
                self.open[i] = []


def stacked(trajectories: Sequence[Experience], length: int | None = None) -> Experience:
    """Trajectories side by side, `(length, n)`, zeros behind their ends, where `mask` is 0; the longest one's length if none is
    given."""
    longest = length or max(map(len, trajectories))

    def together(*columns: Tensor) -> Tensor:
        rows = pad_sequence(list(columns))
        return pad(rows, (0, 0) * (rows.dim() - 1) + (0, longest - len(rows)))

    first, *rest = trajectories
    return Experience(
        **{name: tree_map(together, value, *(getattr(other, name) for other in rest)) for name, value in first.items()}
    )


def repeated(trajectory: Experience, count: int) -> Experience:
    """One trajectory `(H, 1)` as `count` of them `(H, count)`, not copied."""
    return trajectory.map(lambda x: x.expand(-1, count, *x.shape[2:]))


class Memory:
    """The last `size` trajectories, `(H, n)`; each has a number, counted from 0 as they come."""

    def __init__(self, size: int):
        self.size = size
        self.held: Experience | None = None
        self.added = 0

    def __len__(self) -> int:
        return 0 if self.held is None else self.held.mask.shape[1]

    @property
    def oldest(self) -> int:
        """The number of the oldest that is still there."""
        return self.added - len(self)

    def add(self, new: Experience) -> None:
        """Remember trajectories `(H, n)`."""
        joined = new if self.held is None else Experience.cat([self.held, new], dim=1)
        self.held = joined[:, -self.size :]
        self.added += new.mask.shape[1]

    def state_dict(self) -> dict[str, Any]:
        return {"held": dict(self.held.items()) if self.held is not None else None, "added": self.added}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.held = Experience(**state["held"]) if state["held"] else None
        self.added = state["added"]


class Comparisons:
    """Asks a judge about pairs of trajectories and counts the answers; with `sampled`, each is a drawn 1 or -1."""

    def __init__(self, judge: Judge, sampled: bool, streams: Streams, counters: Counters):
        self.judge, self.sampled, self.streams, self.counters = judge, sampled, streams, counters
        self.checked = False

    def __call__(self, first: Experience, second: Experience) -> Tensor:
        """P of each pair `(H, B)`, `(B,)`."""
        if not self.checked:
            self._check(first, second)
        said = preferences(self.judge, first, second)
        noise = self.streams.generator("judge", self.counters.judge_calls)
        self.counters.judge_calls += len(said)
        if not self.sampled:
            return said
        return torch.where(torch.rand(said.shape, generator=noise) < (1 + said) / 2, 1.0, -1.0)

    def _check(self, first: Experience, second: Experience) -> None:
        """Refuse a judge that depends on the order, on the first pairs that it is asked about."""
        pairs = [pair[:, :CHECKED] for pair in (first, second)]
        require_antisymmetric(self.judge, *pairs)
        self.counters.judge_calls += 3 * pairs[0].mask.shape[1]
        self.checked = True

    def state_dict(self) -> dict[str, Any]:
        return {"checked": self.checked}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.checked = state["checked"]
