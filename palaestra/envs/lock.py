"""The combination lock with rich observations (Zhou et al., arXiv 2311.08384, section 6; after Misra et al. 2020).

A chain of `horizon` steps with two good latent states and an absorbing bad one. In a good state at step h one of ten hidden
actions is right and leads to either good state; every other one falls into the bad state, and pays a decoy reward now and then.
Only the right action of the last step is worth 1, so that a learner who follows rewards learns to fall.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from gymnasium import Env, spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from palaestra.core.errors import require
from palaestra.core.policy import Acted, Policy
from palaestra.core.spaces import ActionBox

ACTIONS = 10
"""Hidden actions, and components of an action."""
FALLEN = 2
"""The bad latent state; 0 and 1 are the good ones."""
DECOY = 0.1
NOISE = 0.1
"""Deviation of the noise on what is seen."""
SHARPNESS = 10.0
"""Limit of an action's components in units of the temperature: the largest against 0 leaves 0.04 % to other hidden actions."""
BEHAVIOURS = {"near-optimal-20k": 20_000, "near-optimal-50k": 50_000}
"""Qualities of data of the near-optimal behaviour, and their episodes."""


class CombinationLockVector(VectorEnv):
    """`num_envs` locks with one combination, side by side: all of them are at the same step.

    An action `(10,)` is the logits of the hidden one, divided by `temperature`; it is never clipped, whatever the limits of its
    space. Seen are `2^ceil(log2(horizon + 4))` numbers: the Hadamard matrix times the one-hot latent state and the one-hot step
    with noise. `decoy` is the paper's, 0.1 in half of the falls out of a good state, or the released code's: 0.1 in half of the
    episodes that fail, however early they fell. `combination` is the seed of the right actions.
    """

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}

    def __init__(
        self,
        num_envs: int = 1,
        horizon: int = 5,
        temperature: float = 0.1,
        decoy: Literal["paper", "released"] = "paper",
        combination: int = 0,
    ):
        require(horizon >= 1, f"horizon must be at least 1, got {horizon}")
        require(temperature > 0, f"temperature must be positive, got {temperature}")
        require(decoy in ("paper", "released"), f"decoy must be paper or released, got {decoy!r}")
        self.num_envs, self.horizon, self.temperature, self.decoy = num_envs, horizon, temperature, decoy
        self.right = np.random.default_rng(combination).integers(ACTIONS, size=(FALLEN, horizon))
        """The right hidden action in each good state at each step."""
        self.rotation = hadamard(horizon + 4)
        self.time, self.latent = 0, np.zeros(num_envs, np.int64)
        limit = SHARPNESS * temperature
        self.single_observation_space = spaces.Box(-np.inf, np.inf, (len(self.rotation),), np.float32)
        self.single_action_space = spaces.Box(-limit, limit, (ACTIONS,), np.float32)
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
        logits = np.asarray(actions, np.float64) / self.temperature
        hidden = (logits + self.np_random.gumbel(size=logits.shape)).argmax(-1)
        good = self.latent != FALLEN
        # A fallen lock has no right action; its row is looked up as another's and thrown away.
        right = good & (hidden == self.right[:, self.time][np.where(good, self.latent, 0)])
        coin, side = self.np_random.random((2, self.num_envs)) < 0.5
        last = self.time == self.horizon - 1
        pays = (good & ~right) if self.decoy == "paper" else (last & ~right)
        reward = np.where(right & last, 1.0, DECOY * (pays & coin))
        self.latent = np.where(right, side.astype(np.int64), FALLEN)
        self.time += 1
        seen, info = self._seen(), {}
        ended = np.full(self.num_envs, last)
        if last:
            info = {"final_obs": seen, "_final_obs": ended}
            seen = self._restart()
        return seen, reward, ended, np.zeros(self.num_envs, bool), info

    def _restart(self) -> np.ndarray:
        self.time = 0
        self.latent = self.np_random.integers(FALLEN, size=self.num_envs)
        return self._seen()

    def _seen(self) -> np.ndarray:
        width = FALLEN + 1 + self.horizon
        plain = np.zeros((self.num_envs, len(self.rotation)))
        plain[:, :width] = NOISE * self.np_random.standard_normal((self.num_envs, width))
        plain[np.arange(self.num_envs), self.latent] += 1
        plain[:, FALLEN + 1 + self.time] += 1
        return (plain @ self.rotation).astype(np.float32)


class CombinationLock(Env):
    """One lock; `settings` are those of `CombinationLockVector`."""

    def __init__(self, **settings: Any):
        self.lock = CombinationLockVector(1, **settings)
        self.observation_space, self.action_space = self.lock.single_observation_space, self.lock.single_action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode."""
        super().reset(seed=seed)
        return self.lock.reset(seed=seed, options=options)[0][0], {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One step; the last one leads to a true observation, too."""
        seen, reward, ended, _, info = self.lock.step(np.asarray(action)[None])
        return info.get("final_obs", seen)[0], float(reward[0]), bool(ended[0]), False, {}

    def behaviours(self) -> Mapping[str, tuple[Policy, int]]:
        """The policies whose data can be asked for by name, and how many episodes of each."""
        return {name: (NearOptimal(self.lock), episodes) for name, episodes in BEHAVIOURS.items()}


class NearOptimal(Policy):
    """The right hidden action's one-hot in the box's units, or with probability `epsilon`, 1 / horizon unless given, components
    that are uniform on [0, 1].

    The observation tells latent state and step apart but for noise of a tenth, so that nothing else need be known.
    """

    def __init__(self, lock: CombinationLockVector, epsilon: float | None = None):
        super().__init__(lock.single_observation_space, lock.single_action_space)
        self.box = ActionBox(lock.single_action_space)
        self.epsilon = 1 / lock.horizon if epsilon is None else epsilon
        self.register_buffer("rotation", torch.tensor(lock.rotation, dtype=torch.float32))
        self.register_buffer("right", torch.tensor(lock.right))

    def act(
        self,
        obs: Tensor,
        carry: Any = None,
        *,
        generator: torch.Generator | None = None,
        greedy: bool = False,
        action_mask: Any = None,
    ) -> Acted:
        plain = obs @ self.rotation  # the matrix is its own inverse but for scale
        latent = plain[:, :FALLEN].argmax(-1)
        time = plain[:, FALLEN + 1 :][:, : self.right.shape[1]].argmax(-1)  # type: ignore[index]
        action = torch.nn.functional.one_hot(self.right[latent, time], ACTIONS).float()  # type: ignore[index]
        if not greedy:
            strays = torch.rand(len(obs), 1, generator=generator) < self.epsilon
            action = torch.where(strays, torch.rand(action.shape, generator=generator), action)
        return Acted(action, None, carry)

    def env_action(self, action: Tensor) -> np.ndarray:
        return self.box.to_env(action)


def hadamard(least: int) -> np.ndarray:
    """The smallest Hadamard matrix of Sylvester's with at least so many rows, `(n, n)` of ±1."""
    matrix: np.ndarray = np.ones((1, 1))
    while len(matrix) < least:
        matrix = np.kron([[1, 1], [1, -1]], matrix)
    return matrix
