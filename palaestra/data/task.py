"""Datasets as tasks: learn from logs, be evaluated in an environment where there is one."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from palaestra.core import spaces
from palaestra.core.errors import BadDataset, PalaestraError, Unsupported, Untrusted
from palaestra.core.policy import Policy
from palaestra.core.seeding import Streams
from palaestra.core.task import Evaluation, Task, as_task
from palaestra.data.dataset import Dataset
from palaestra.data.load import load_dataset, names_code, names_dataset


@dataclass
class DatasetTask:
    """A dataset, and the environment that policies learnt from it are evaluated on.

    `dataset` is one, or what `load_dataset` takes; `env` names or is the environment, by default the one that the dataset
    names, unless that is code, which a dataset from elsewhere could bring. Without any, training goes on without evaluations.
    """

    offers: ClassVar[str] = "dataset"

    dataset: Any
    env: Any = None

    def __post_init__(self) -> None:
        self.source = str(self.dataset) if isinstance(self.dataset, (str, Path)) else None
        self.dataset: Dataset = load_dataset(self.dataset) if self.source else self.dataset
        if self.source and Path(self.source).is_dir():
            self.source = str(Path(self.source).resolve())  # a run may be resumed from elsewhere
        self.name = self.dataset.name
        self.observation_space, self.action_space = self.dataset.observation_space, self.dataset.action_space
        self.environment: Task | None = None
        if self.env is not None:
            self.environment = as_task(self.env)
        elif self.dataset.env is not None:
            try:
                self.environment = self._own_environment()
            except PalaestraError as error:
                warnings.warn(f"{self.name} is learnt from without evaluations: {error}", stacklevel=2)
        if self.environment is not None:
            self._check_spaces(self.environment)

    def _own_environment(self) -> Task:
        """The environment that the dataset names, which whoever made it chose."""
        name = str(self.dataset.env)
        if names_dataset(name):
            raise BadDataset(f"its environment {name} is a dataset")
        if names_code(name):
            raise Untrusted(f"its environment {name} is code, which must be named with --task to be run")
        return as_task(name, **self.dataset.env_kwargs)

    @property
    def evaluates(self) -> bool:
        """Whether there is an environment to evaluate policies on."""
        return self.environment is not None

    def evaluate(self, policy: Policy, episodes: int, seed: int, video: Path | None = None) -> Evaluation:
        """Play whole episodes in the environment."""
        return self._needed().evaluate(policy, episodes, seed, video)

    def score(self, value: float) -> float | None:
        """A return on the scale on which the dataset's references are 0 and 100, if it names them in order."""
        low, high = self.dataset.references or (0.0, 0.0)
        return self.dataset.score(value) if low < high else None

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
        fits = {
            "observation space": _same_shape(self.observation_space, environment.observation_space),
            "action space": _same_actions(self.action_space, environment.action_space),
        }
        for what, fit in fits.items():
            if not fit:
                name = what.replace(" ", "_")
                raise Unsupported(
                    f"{self.name} has the {what} {getattr(self, name)}, but {environment.name} has "
                    f"{getattr(environment, name)}; evaluate on the environment that the data came from"
                )


def _same_shape(ours: Any, theirs: Any) -> bool:
    """Whether encoded observations of one space fit policies of the other; limits do not matter to them."""
    if spaces.kind(ours) != spaces.kind(theirs):
        return False
    if spaces.kind(ours) in ("dict", "tuple"):
        a, b = spaces.children(ours), spaces.children(theirs)
        return a.keys() == b.keys() and all(_same_shape(a[key], b[key]) for key in a)
    if spaces.kind(ours) == "box":
        return ours.shape == theirs.shape and (ours.dtype == np.uint8) == (theirs.dtype == np.uint8)
    return ours == theirs


def _same_actions(ours: Any, theirs: Any) -> bool:
    """Whether an action means the same in both spaces: the limits of a box matter, since policies scale by them."""
    if spaces.kind(ours) != "box" or spaces.kind(theirs) != "box":
        return ours == theirs
    return ours.shape == theirs.shape and np.allclose(ours.low, theirs.low) and np.allclose(ours.high, theirs.high)
