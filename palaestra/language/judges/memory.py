"""Judges with a state, such as `QueueWinRate`: every run starts from the state that they were made with, and saves theirs in its
checkpoints."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

_fresh: dict[int, tuple[Any, Any]] = {}
"""Judges and their first state, by `id` of the judge."""


class Memory:
    """The states of those of some judges that have one, as part of a method's state."""

    def __init__(self, judges: Mapping[str, Any]):
        found = {name: within(judge) for name, judge in judges.items()}
        self.judges = {name: judge for name, judge in found.items() if judge is not None}
        for judge in self.judges.values():
            judge.load_state_dict(_fresh.setdefault(id(judge), (judge, copy.deepcopy(judge.state_dict())))[1])

    def state_dict(self) -> dict[str, Any]:
        return {name: judge.state_dict() for name, judge in self.judges.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, judge in self.judges.items():
            judge.load_state_dict(state[name])


def within(judge: Any) -> Any | None:
    """A judge, or the judge that it wraps, that has `state_dict` and `load_state_dict`; None if there is none. A network does not
    count, since judging does not change it."""
    return next((x for x in layers(judge) if hasattr(x, "state_dict") and hasattr(x, "load_state_dict")), None)


def layers(judge: Any) -> Iterator[Any]:
    """A judge, the one that it wraps, the one that this wraps, down to what asks a model."""
    seen = set[int]()
    while judge is not None and not isinstance(judge, nn.Module) and id(judge) not in seen:
        seen.add(id(judge))
        yield judge
        parts = (getattr(judge, name, None) for name in ("__self__", "judge", "ask", "scorer"))
        judge = next((part for part in parts if part is not None), None)
