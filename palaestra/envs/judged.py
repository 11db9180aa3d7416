"""An environment whose trajectories a judge compares: what is learnt from in place of its reward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from palaestra.core import registry
from palaestra.core.errors import BadSetting, require, unknown
from palaestra.core.policy import Policy
from palaestra.core.seeding import Streams
from palaestra.core.task import Evaluation, as_task
from palaestra.envs.judges import Flipped, Judge, MaxReturn, Mixture, NonMarkovian, Ring
from palaestra.envs.task import EnvTask
from palaestra.envs.vector import EnvList, EnvVector

JUDGES: dict[str, Callable[[JudgedTask], Judge]] = {
    "max-return": lambda task: MaxReturn(task.temperature),
    "non-markovian": lambda task: NonMarkovian(task.threshold, MaxReturn(task.temperature)),
    "ring": lambda task: Ring(),
    "mixture": lambda task: Mixture(),
}


@dataclass
class JudgedTask:
    """An environment with a judge of its trajectories.

    Methods of preferences learn from what `judge` says. The environment's own reward is the judge's business, and evaluation's:
    a return is the true one. Methods that need no judge learn from that reward, as on the environment itself.
    """

    offers: ClassVar[str] = "env"
    summary: ClassVar[str] = "an environment whose trajectories a judge compares, in place of its reward"

    env: str = "palaestra/PointGoal-v0"
    """A Gymnasium id; in Python also what an `EnvTask` is made from."""
    judge: str = "max-return"
    """max-return, non-markovian, ring or mixture, or file.py:function, of two batches of trajectories."""
    temperature: float = 0.0
    """Of max-return: 0 prefers the larger return with certainty, else with the probability sigmoid(difference / temperature)."""
    flip: float = 0.0
    """Share of answers that are turned round."""
    sampled: bool = False
    """Whether an answer is a drawn 1 or -1, as a person's would be, or the preference's expectation P."""
    threshold: float = -2.5
    """Of non-markovian: the most that may be earned in the last quarter; the default is for PointGoal."""
    horizon: int | None = None
    """Steps of a whole trajectory; None asks the environment."""

    def __post_init__(self) -> None:
        require(0 <= self.flip <= 1, f"flip must be in [0, 1], got {self.flip}")
        require(self.temperature >= 0, f"temperature must be >= 0, got {self.temperature}")
        inner = as_task(self.env)
        if not isinstance(inner, EnvTask):
            raise BadSetting(f"a judge compares what is done in an environment, and {inner.name} is none")
        self.inner = inner
        self.observation_space, self.action_space = self.inner.observation_space, self.inner.action_space
        self.steps = self.horizon or self._limit()
        judge = self._judge()
        self.preference: Judge = Flipped(judge, self.flip) if self.flip else judge

    @property
    def name(self) -> str:
        return registry.source_of(type(self))

    def envs(self, count: int, streams: Streams, name: str) -> EnvList | EnvVector:
        """`count` environments, seeded by the stream `name`."""
        return self.inner.envs(count, streams, name)

    def evaluate(self, policy: Policy, episodes: int, seed: int, video: Path | None = None) -> Evaluation:
        """Play whole episodes with the greedy policy; returns are those of the environment's own reward."""
        return self.inner.evaluate(policy, episodes, seed, video)

    def frames(
        self, policy: Policy, seed: int, limit: int = 1000, rate: int | None = None
    ) -> tuple[list[np.ndarray], float]:
        """Pictures of one greedy episode, as `EnvTask.frames`."""
        return self.inner.frames(policy, seed, limit, rate)

    def describe(self) -> dict[str, Any]:
        changed = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        named = {key: _named(value) if callable(value) else value for key, value in changed.items()}
        return {"kind": "env", "spec": self.name, "kwargs": named}

    def _limit(self) -> int:
        env = self.inner.make()
        limit = (env.spec and env.spec.max_episode_steps) or getattr(env.unwrapped, "horizon", None)
        env.close()
        if not limit:
            raise BadSetting(f"{self.inner.name} does not say how long its episodes may be; give horizon")
        return int(limit)

    def _judge(self) -> Judge:
        if callable(self.judge):
            return self.judge
        if self.judge in JUDGES:
            return JUDGES[self.judge](self)
        if ":" not in self.judge:
            raise unknown("judge", self.judge, JUDGES)
        return registry.locate(self.judge)


def _named(function: Any) -> str:
    """How to find a function again; something else that can be called has only the name of its kind."""
    return registry.source_of(function) if hasattr(function, "__qualname__") else type(function).__name__
