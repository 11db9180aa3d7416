"""Small bound methods and hand-made batches for tests of a single update."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch

from palaestra.core.experience import Experience
from palaestra.core.method import Budget, Method
from palaestra.data.task import DatasetTask
from palaestra.envs.task import EnvTask
from palaestra.nets.q_network import QNetwork

from ..datasets import random_dataset

SMALL = {"network": (8, 8), "batch_size": 4, "buffer_size": 100, "warmup_steps": 8}
SMALL_DATA = {"network": (8, 8), "batch_size": 4}


def bind(method: Method, task: str | Callable[[], gymnasium.Env] = "Pendulum-v1", steps: int = 100) -> Any:
    """`method` set up on a task with seed 0."""
    return method.bind(EnvTask(task), 0, Budget(steps=steps))


def bind_offline(method: Method, env: str = "Pendulum-v1", updates: int = 100) -> Any:
    """`method` set up on a few hundred random steps of an environment, with seed 0."""
    return method.bind(DatasetTask(random_dataset(env, 450)), 0, Budget(updates=updates))


def noise() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def pendulum_batch(**fields: Any) -> Experience:
    """Four steps of a pendulum's shape: 3 observations, 1 action."""
    g = torch.Generator().manual_seed(7)
    batch = Experience(
        obs=torch.randn(4, 3, generator=g),
        action=torch.rand(4, 1, generator=g) * 2 - 1,
        reward=torch.randn(4, generator=g),
        next_obs=torch.randn(4, 3, generator=g),
        terminated=torch.zeros(4),
        truncated=torch.zeros(4),
    )
    return batch.replace(**fields)


def cartpole_batch(**fields: Any) -> Experience:
    """Four steps of a cart and pole's shape: 4 observations, 2 actions, a reward of 1."""
    g = torch.Generator().manual_seed(7)
    batch = Experience(
        obs=torch.randn(4, 4, generator=g),
        action=torch.tensor([0, 1, 1, 0]),
        reward=torch.ones(4),
        next_obs=torch.randn(4, 4, generator=g),
        terminated=torch.zeros(4),
        truncated=torch.zeros(4),
    )
    return batch.replace(**fields)


def answering(network: QNetwork, values: list[float]) -> None:
    """Make a network answer the same values at every observation."""
    network.forward = lambda obs: torch.tensor([values]).expand(4, -1)


class Unbounded(gymnasium.Env):
    """A task whose actions have no limits."""

    observation_space = gymnasium.spaces.Box(-1, 1, (3,))
    action_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,))


class Corridor(gymnasium.Env):
    """Five cells; action 1 goes right and is rewarded at the end, action 0 ends the episode with -1 but is not allowed,
    and action 2 stays. Cut after 20 steps."""

    observation_space = gymnasium.spaces.Discrete(5)
    action_space = gymnasium.spaces.Discrete(3, start=10)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.cell, self.time = 0, 0
        return 0, self._info()

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        assert action != 10, "the mask was ignored"
        self.time += 1
        self.cell += int(action == 11)
        arrived = self.cell == 4
        return self.cell, float(arrived), arrived, self.time >= 20, self._info()

    def _info(self) -> dict[str, Any]:
        return {"action_mask": np.array([0, 1, 1], dtype=np.int8)}
