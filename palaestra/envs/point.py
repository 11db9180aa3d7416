"""A point mass in the plane for methods that learn from comparisons (tasks of our own, after Swamy et al. 2024, section 4).

Twenty steps from the origin, all of which count: the episode *ends* with the last one, it is not cut short. `PointGoal` pays
minus the distance to a goal at every step; `RingPoint` pays nothing, and only a judge says where to go.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import Env, spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

HORIZON = 20
SPEED = 0.1
"""The most that a point moves in a step."""
FORCE = 0.05
"""What the largest component of an action changes its velocity by."""
GOAL = (1.0, 0.0)


class PointVector(VectorEnv):
    """`num_envs` points side by side, all of them at the same step.

    An action `(2,)` in [-1, 1] is an acceleration; a velocity longer than `SPEED` is shortened to it. Seen are position and
    velocity in units of `SPEED`, `(4,)`, but not how much time has passed.
    """

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
    horizon = HORIZON

    def __init__(self, num_envs: int = 1, goal: bool = True):
        self.num_envs, self.goal = num_envs, goal
        self.time = 0
        self.position, self.velocity = np.zeros((2, num_envs, 2))
        self.single_observation_space = spaces.Box(-np.inf, np.inf, (4,), np.float32)
        self.single_action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start all episodes; a single `seed` seeds them together."""
        super().reset(seed=seed)
        return self._restart(), {}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One step of every episode; all of them end, and start again, together."""
        self.velocity = self.velocity + FORCE * np.clip(np.asarray(actions, np.float64), -1, 1)
        length = np.linalg.norm(self.velocity, axis=1, keepdims=True)
        self.velocity *= SPEED / np.maximum(length, SPEED)
        self.position = self.position + self.velocity
        self.time += 1
        reward = -np.linalg.norm(self.position - GOAL, axis=1) if self.goal else np.zeros(self.num_envs)
        seen, info = self._seen(), {}
        ended = np.full(self.num_envs, self.time == HORIZON)
        if ended.all():
            info = {"final_obs": seen, "_final_obs": ended}
            seen = self._restart()
        return seen, reward, ended, np.zeros(self.num_envs, bool), info

    def _restart(self) -> np.ndarray:
        self.time = 0
        self.position = 0.01 * self.np_random.standard_normal((self.num_envs, 2))
        self.velocity = np.zeros((self.num_envs, 2))
        return self._seen()

    def _seen(self) -> np.ndarray:
        return np.concatenate([self.position, self.velocity / SPEED], 1).astype(np.float32)


class Point(Env):
    """One point; `settings` are those of `PointVector`."""

    horizon = HORIZON

    def __init__(self, **settings: Any):
        self.point = PointVector(1, **settings)
        self.observation_space, self.action_space = self.point.single_observation_space, self.point.single_action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode."""
        super().reset(seed=seed)
        return self.point.reset(seed=seed)[0][0], {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One step; the last one leads to a true observation, too."""
        seen, reward, ended, _, info = self.point.step(np.asarray(action)[None])
        return info.get("final_obs", seen)[0], float(reward[0]), bool(ended[0]), False, {}
