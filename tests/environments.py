"""Tiny environments, each with one property that some test needs."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

OBSERVATIONS = {
    "vector": spaces.Box(-1, 1, (3,), np.float32),
    "scalar": spaces.Box(-1, 1, (), np.float32),
    "image": spaces.Box(0, 255, (12, 12, 3), np.uint8),
    "discrete": spaces.Discrete(5, start=2),
    "multi_discrete": spaces.MultiDiscrete([3, 2]),
    "multi_binary": spaces.MultiBinary(4),
    "dict": spaces.Dict({"pos.x": spaces.Box(-1, 1, (2,), np.float32), "items": spaces.Discrete(3)}),
    "tuple": spaces.Tuple([spaces.Box(-1, 1, (2,), np.float32), spaces.Box(0, 255, (12, 12, 1), np.uint8)]),
}

ACTIONS = {
    "box": spaces.Box(-2.0, np.array([1.0, 3.0], np.float32), (2,), np.float32),
    "discrete": spaces.Discrete(4, start=-1),
    "multi_discrete": spaces.MultiDiscrete([3, 2]),
}


class Spaces(gym.Env):
    """Random observations of any space, a reward that depends on the action, episodes of `length` steps.

    With `masked`, a random half of the actions is disallowed at every step, and taking one of these raises.
    """

    def __init__(self, observations: str = "vector", actions: str = "discrete", length: int = 5, masked: bool = False):
        # Copies, since sampling from a space changes it.
        self.observation_space = copy.deepcopy(OBSERVATIONS[observations])
        self.action_space = copy.deepcopy(ACTIONS[actions])
        self.length, self.masked = length, masked

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.observation_space.seed(int(self.np_random.integers(2**31)))
        self.clock = 0
        return self.observation_space.sample(), self._info()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        if self.masked:
            assert self._allows(action), f"{action} is disallowed by {self.mask}"
        self.clock += 1
        reward = float(np.sum(action))
        return self.observation_space.sample(), reward, self.clock >= self.length, False, self._info()

    def _info(self) -> dict[str, Any]:
        if not self.masked:
            return {}
        counts = self._counts()
        rows = []
        for n in counts:
            row = self.np_random.random(n) < 0.5
            row[self.np_random.integers(n)] = True
            rows.append(row)
        self.mask = np.concatenate(rows)
        return {"action_mask": self.mask}

    def _allows(self, action: Any) -> bool:
        starts = np.cumsum([0, *self._counts()[:-1]])
        chosen = np.ravel(np.asarray(action) - np.asarray(self.action_space.start)) + starts
        return bool(self.mask[chosen].all())

    def _counts(self) -> list[int]:
        if isinstance(self.action_space, spaces.Discrete):
            return [int(self.action_space.n)]
        return [int(n) for n in self.action_space.nvec]


class Counting(gym.Env):
    """Observes (episode, step); episode e lasts `lengths[e]` steps, and then terminates if e is even, else is cut off.

    The reward of a step is 100 * episode + step, so that every transition is told from every other by its numbers.
    """

    observation_space = spaces.Box(0, 1000, (2,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, lengths: tuple[int, ...] = (3, 4, 2)):
        self.lengths = lengths
        self.episode = -1

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.episode = 0 if seed is not None else self.episode + 1
        self.clock = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.clock += 1
        over = self.clock == self.lengths[self.episode % len(self.lengths)]
        even = self.episode % 2 == 0
        return self._observe(), 100.0 * self.episode + self.clock, over and even, over and not even, {}

    def _observe(self) -> np.ndarray:
        return np.array([self.episode, self.clock], np.float32)


class Faulty(gym.Env):
    """Drifts about until step `at` of every episode, and there does what `fault` says."""

    observation_space = spaces.Box(-10, 10, (3,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, fault: str = "none", at: int = 15):
        self.fault, self.at = fault, at

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if self.fault == "reset":
            raise RuntimeError("no simulator")
        self.clock = 0
        return self.np_random.normal(size=3).astype(np.float32), {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self.clock += 1
        obs, reward = self.np_random.normal(size=3).astype(np.float32), float(action[0])
        if self.clock == self.at:
            if self.fault == "raises":
                raise ZeroDivisionError("the joint is gone")
            if self.fault == "exits":
                raise SystemExit(0)
            obs = {"nan": obs * np.nan, "shape": obs[:2], "dtype": np.array(["a", "b", "c"]), "none": obs}.get(
                self.fault, obs
            )
            reward = {"nan reward": float("nan"), "text reward": "much"}.get(self.fault, reward)
        return obs, reward, False, self.clock >= 30, {}
