"""Datasets as tasks: learn from logs, be evaluated in an environment where there is one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from palaestra.core.errors import Unsupported
from palaestra.core.policy import Policy
from palaestra.core.seeding import Streams
from palaestra.core.task import Evaluation, Task, as_task
from palaestra.data.dataset import Dataset
from palaestra.data.load import load_dataset


@dataclass
class DatasetTask:
    """A dataset, and the environment that policies learnt from it are evaluated on.

    `dataset` is one, or what `load_dataset` takes; `env` names or is the environment, by default the one that the dataset
    names. Without any, training goes on without evaluations.
    """

    dataset: Any
    env: Any = None

    def __post_init__(self) -> None:
        self.source = self.dataset if isinstance(self.dataset, str) else None
        self.dataset: Dataset = load_dataset(self.dataset) if self.source else self.dataset
        self.name = self.dataset.name
        self.observation_space, self.action_space = self.dataset.observation_space, self.dataset.action_space
        named = self.env if self.env is not None else self.dataset.env
        self.environment: Task | None = None if named is None else as_task(named)
        if self.environment is not None:
            self._check_spaces(self.environment)

    @property
    def evaluates(self) -> bool:
        """Whether there is an environment to evaluate policies on."""
        return self.environment is not None

    def evaluate(self, policy: Policy, episodes: int, seed: int, video: Path | None = None) -> Evaluation:
        """Play whole episodes in the environment."""
        return self._needed().evaluate(policy, episodes, seed, video)

    def score(self, value: float) -> float | None:
        """A return on the scale on which the dataset's references are 0 and 100, if it names them."""
        return None if self.dataset.references is None else self.dataset.score(value)

    def envs(self, count: int, streams: Streams, name: str) -> Any:
        """Environments to act in, for methods that learn from data and from interaction."""
        return self._needed().envs(count, streams, name)

    def frames(self, *args: Any, **kwargs: Any) -> tuple[list[np.ndarray], float]:
        """Pictures of an episode in the environment."""
        return self._needed().frames(*args, **kwargs)

    def describe(self) -> dict[str, Any]:
        env = self.env if self.env is None or isinstance(self.env, str) else self.environment.describe()["spec"]  # type: ignore[union-attr]
        return {"kind": "dataset", "spec": self.source or self.name, "kwargs": {} if env is None else {"env": env}}

    def _needed(self) -> Any:
        if self.environment is None:
            raise Unsupported(
                f"{self.name} names no environment to act in; give one with --task ID (in Python env=...), a Gymnasium id or "
                "my_env.py:make"
            )
        return self.environment

    def _check_spaces(self, environment: Task) -> None:
        for what in ("observation_space", "action_space"):
            ours, theirs = getattr(self, what), getattr(environment, what)
            if type(ours) is not type(theirs) or ours.shape != theirs.shape:
                raise Unsupported(
                    f"{self.name} has the {what.replace('_', ' ')} {ours}, but {environment.name} has {theirs}; evaluate on "
                    "the environment that the data came from"
                )
