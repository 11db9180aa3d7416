"""Train on an environment of your own: any Gymnasium class or factory is a task.

python examples/own_environment.py
palaestra train sac --task examples/own_environment.py:PointMass --steps 3000 --method.warmup-steps 500
"""

from __future__ import annotations

import argparse

import gymnasium
import numpy as np

import palaestra as pal


class PointMass(gymnasium.Env):
    """A mass on a line, pushed until it rests at 0. Observation (position, velocity), action a force in [-1, 1]."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}
    STEP, LIMIT = 0.1, 100

    def __init__(self, render_mode: str | None = None):
        self.render_mode = render_mode
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        super().reset(seed=seed)  # all randomness comes from self.np_random, so that a run can be resumed exactly
        self.position, self.velocity, self.steps = self.np_random.uniform(-1, 1), 0.0, 0
        return self._observation(), {}

    def step(self, action):
        force = float(np.clip(action[0], -1.0, 1.0))
        self.velocity += self.STEP * force
        self.position += self.STEP * self.velocity
        self.steps += 1
        reward = -(self.position**2) - 0.1 * self.velocity**2 - 0.01 * force**2
        terminated = abs(self.position) > 3  # lost: no future to bootstrap from
        truncated = self.steps >= self.LIMIT  # the clock ran out: the future still has a value
        return self._observation(), reward - 100 * terminated, terminated, truncated, {}

    def render(self):
        """A picture for videos and for the report; leave it out if you need neither."""
        picture = np.full((64, 256, 3), 255, np.uint8)
        picture[:, 126:130] = 200
        column = int(np.clip(128 + 42 * self.position, 6, 249))
        picture[26:38, column - 6 : column + 6] = (200, 60, 40)
        return picture

    def _observation(self):
        return np.array([self.position, self.velocity], np.float32)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=3000)
    steps = parser.parse_args().steps

    method = pal.SAC(network=(32, 32), batch_size=64, lr=1e-3, warmup_steps=500)
    run = pal.train(method, PointMass, steps=steps, evaluate_every=steps // 4, out="runs/point-mass", overwrite=True)
    for row in run.metrics:
        if "evaluation/return" in row:
            print(f"after {row['steps']:5d} steps: return {row['evaluation/return']:.1f}")
