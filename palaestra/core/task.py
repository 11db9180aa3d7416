"""The task protocol: what to solve, and how a policy is scored on it."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from palaestra.core import registry
from palaestra.core.errors import unknown
from palaestra.core.hints import check_value, hints_of
from palaestra.core.policy import Policy

if TYPE_CHECKING:
    from gymnasium import Space


@dataclass
class Evaluation:
    """The outcome of some evaluation episodes."""

    returns: list[float]
    lengths: list[int]
    examples: list[dict[str, Any]] = field(default_factory=list)
    """Of a task in text, what was asked and answered in some of them, as `prompt`, `answer` and `score`."""
    measures: dict[str, float] = field(default_factory=dict)
    """What else was found, by name."""
    answers: Sequence[Any] = field(default=(), repr=False, compare=False)
    """Of a task in text, all that was answered, as samples."""
    seed: int = 0
    """What decided the prompts, or the episodes."""

    @property
    def mean(self) -> float:
        return sum(self.returns) / len(self.returns)

    @property
    def steps(self) -> int:
        return sum(self.lengths)

    def row(self) -> dict[str, float]:
        """What metrics say of it."""
        return {
            "evaluation/return": self.mean,
            "evaluation/deviation": float(np.std(self.returns)),
            "evaluation/length": self.steps / len(self.lengths),
            **{f"evaluation/{name}": value for name, value in self.measures.items()},
        }


@runtime_checkable
class Task(Protocol):
    """What to solve. An environment, a dataset with an evaluation environment, prompts with a judge, a game."""

    name: str
    observation_space: Space
    action_space: Space

    def evaluate(self, policy: Policy, episodes: int, seed: int, video: Path | None = None) -> Evaluation:
        """Play whole episodes with the greedy policy on freshly seeded environments."""
        ...

    def describe(self) -> dict[str, Any]:
        """The task as JSON, enough to make it again."""
        ...


def as_task(spec: Any, **kwargs: Any) -> Task:
    """A task from what a user gives: a Gymnasium id, a registered task's name, a factory, `file.py:factory`,
    `module:factory`, a dataset or its name, or a task; `kwargs` go to whatever makes the environment."""
    from palaestra.envs.task import EnvTask

    if isinstance(spec, str):
        from palaestra.data.load import names_dataset

        if names_dataset(spec):
            from palaestra.data.task import DatasetTask

            return DatasetTask(spec, **kwargs)
        named = registry.table("tasks")
        if spec in named:
            made = registry.locate(named[spec])
            return _made(spec, made, kwargs) if callable(made) else made
        place, _, attribute = spec.rpartition(":")
        if place and (place.endswith(".py") or attribute.isidentifier()):  # Gymnasium's own `module:Id-v0` is not one
            found, source = registry.locate(spec), spec
            if place.endswith(".py"):
                source = f"{Path(place).resolve()}:{attribute}"
            if isinstance(found, type) and hasattr(found, "offers"):
                return _made(spec, found, kwargs)
            return found if isinstance(found, Task) else EnvTask(found, kwargs, source=source)
        return EnvTask(spec, kwargs)
    if isinstance(spec, Task):
        return spec
    from palaestra.data.dataset import Dataset
    from palaestra.data.task import DatasetTask

    return DatasetTask(spec, **kwargs) if isinstance(spec, Dataset) else EnvTask(spec, kwargs)


def _made(name: str, make: Any, settings: dict[str, Any]) -> Task:
    """What a class or function of tasks makes of `settings`; unknown ones, and values of another type, are refused."""
    known = inspect.signature(make).parameters
    for setting in settings:
        if setting not in known and not any(p.kind is p.VAR_KEYWORD for p in known.values()):
            raise unknown(f"setting of {name}:", setting, known)
    hints = hints_of(make) if isinstance(make, type) else {}
    for setting, value in settings.items():
        check_value(value, hints.get(setting, Any), setting)
    return make(**settings)
