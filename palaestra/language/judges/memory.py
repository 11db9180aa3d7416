"""Judges that remember what they were asked, such as `QueueWinRate`: every run begins with them as they were made, and has what
they remember in its checkpoints."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import nn

_fresh: dict[int, tuple[Any, Any]] = {}
"""What judges remembered when they were first seen, by who they are."""


class Memory:
    """What those of some judges remember that do remember something, as a method's state."""

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
    """The part of a judge, or of a judge within judges, that has `state_dict` and `load_state_dict`; no network, which stays."""
    seen = set[int]()
    while judge is not None and not isinstance(judge, nn.Module) and id(judge) not in seen:
        seen.add(id(judge))
        if hasattr(judge, "state_dict") and hasattr(judge, "load_state_dict"):
            return judge
        parts = (getattr(judge, name, None) for name in ("__self__", "judge", "scorer"))
        judge = next((part for part in parts if part is not None), None)
    return None
