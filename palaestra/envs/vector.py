"""Environments in a batch, behind one contract whatever their autoreset mode.

`EnvList` steps environments that palaestra made itself; `EnvVector` adapts any Gymnasium `VectorEnv` in any of the three
autoreset modes. Both return, at every step, the *true* next observation, also where an episode ended, and say in `mask`
which rows were real steps; `obs` is then the observation to act on next.
"""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from palaestra.core import spaces
from palaestra.core.errors import BadCheckpoint, BadEnvironment, Diverged, PalaestraError, Unsupported
from palaestra.core.experience import tree_leaves, tree_map
from palaestra.core.seeding import Streams

if TYPE_CHECKING:
    from gymnasium import Env, Space


BROKEN = (Exception, SystemExit)
"""What an environment may raise; one that ends the process would make a failed run look like a finished one."""


class Step(NamedTuple):
    """One step of N environments."""

    next_obs: Any  # (N, …) where the action led, also at the end of an episode
    reward: Tensor  # (N,)
    terminated: Tensor  # (N,) the task itself ended
    truncated: Tensor  # (N,) the clock ended it
    mask: Tensor  # (N,) 0 where the row was a reset whose action was ignored: not to be learnt from
    action_mask: Tensor | None = None  # (N, n) which actions are allowed at `next_obs`, where the environments say so


class Envs(Protocol):
    """N environments of one kind."""

    observation_space: Space
    action_space: Space
    obs: Any  # (N, …) the observations to act on
    action_mask: Tensor | None  # (N, n) which actions are allowed, where the environments say so

    def __len__(self) -> int: ...
    def step(self, actions: np.ndarray) -> Step: ...
    def at_boundary(self) -> None:
        """Called before a checkpoint: start fresh episodes if the present ones could not be restored."""
        ...

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: Mapping[str, Any]) -> bool:
        """Go back to a saved state; whether the episodes under way could be restored."""
        ...


class EnvList:
    """Environments stepped one after the other, restorable at any step.

    Every reset is seeded by (run seed, environment, episode number), so an episode is a function of its number and its
    actions. A checkpoint stores these; restoring plays them again. Unlike a copy of the simulator's state this is
    exact for every deterministic environment, wrappers included: MuJoCo's own state functions, for one, leave out the
    body positions of the *previous* substep that Gymnasium's rewards are computed from.
    """

    def __init__(self, make: Callable[[], Env], count: int, streams: Streams, name: str):
        self.envs = [make() for _ in range(count)]
        if len(set(map(id, self.envs))) < count:
            raise BadEnvironment(f"{name}: one environment was made {count} times; make a new one at every call")
        self.streams, self.name = streams, name
        self.observation_space, self.action_space = self.envs[0].observation_space, self.envs[0].action_space
        self.episode = [-1] * count
        self.actions: list[list[np.ndarray]] = [[] for _ in range(count)]
        self.action_mask: Tensor | None = None
        self._masks: list[Any] = [None] * count
        # Float vectors, the common case, are batched in one go; whatever is odd about them the general way finds out.
        space = self.observation_space
        self._plain = spaces.kind(space) == "box" and np.issubdtype(space.dtype, np.floating)
        self.rows: list[Any] = [self._reset(i) for i in range(count)]
        self._refresh(self._batch(self.rows))

    def __len__(self) -> int:
        return len(self.envs)

    def step(self, actions: np.ndarray) -> Step:
        count = len(self.envs)
        reward = np.empty(count, np.float32)
        terminated, truncated = np.zeros(count, np.float32), np.zeros(count, np.float32)
        arrived: list[Any] = [None] * count
        ended = []
        # Gymnasium checks a Python int several times faster than a NumPy one.
        choices = actions.tolist() if actions.ndim == 1 else actions
        for i, env in enumerate(self.envs):
            action = choices[i]
            self.actions[i].append(action)
            try:
                arrived[i], r, end, cut, info = env.step(action)
                reward[i], terminated[i], truncated[i] = r, end, cut
                self._masks[i] = info.get("action_mask", self._masks[i])
            except BROKEN as error:
                raise failure(f"{self._where(i)}: step", error, actions[i]) from error
            if end or cut:
                ended.append(i)
        if not np.isfinite(reward).all():
            _check_actions(actions)
            bad = int(np.flatnonzero(~np.isfinite(reward))[0])
            raise BadEnvironment(f"{self._where(bad)}: the reward is {reward[bad]}; fix the environment or clip it")
        try:
            next_obs, next_mask = self._batch(arrived), self._allowed()
        except BadEnvironment:
            _check_actions(actions)
            raise
        if ended:
            for i in ended:
                arrived[i] = self._reset(i)
            self.rows = arrived
            self._refresh(self._batch(arrived))
        else:
            self.rows = arrived
            self._refresh(next_obs)
        return Step(
            next_obs,
            torch.from_numpy(reward),
            torch.from_numpy(terminated),
            torch.from_numpy(truncated),
            torch.ones(count),
            next_mask,
        )

    def at_boundary(self) -> None:
        """Nothing to do: every step can be restored."""

    def state_dict(self) -> dict[str, Any]:
        return {
            "episode": list(self.episode),
            "actions": [torch.from_numpy(np.array(a)) if a else None for a in self.actions],
            "obs": self.obs,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> bool:
        if len(state["episode"]) != len(self.envs):
            raise BadCheckpoint(f"the checkpoint holds {len(state['episode'])} environments, not {len(self.envs)}")
        for i, env in enumerate(self.envs):
            self.episode[i] = state["episode"][i] - 1
            row = self._reset(i)
            played = state["actions"][i]
            for action in [] if played is None else played.numpy():
                try:
                    row, _, _, _, info = env.step(action.copy())
                except BROKEN as error:
                    raise failure(f"{self._where(i)}: step", error) from error
                self.actions[i].append(action)
                self._masks[i] = info.get("action_mask", self._masks[i])
            self.rows[i] = row
        self._refresh(self._batch(self.rows))
        same = [torch.equal(a, b) for a, b in zip(tree_leaves(self.obs), tree_leaves(state["obs"]), strict=True)]
        if all(same):
            return True
        warnings.warn(
            f"{self.name} is not deterministic: played again with the same seed and actions, it arrived somewhere else. "
            "Training goes on with fresh episodes, but not exactly as it would have without the interruption; for that, "
            "let all randomness of the environment come from self.np_random",
            stacklevel=2,
        )
        self.rows = [self._reset(i) for i in range(len(self.envs))]
        self._refresh(self._batch(self.rows))
        return False

    def close(self) -> None:
        for env in self.envs:
            env.close()

    def _reset(self, i: int) -> Any:
        self.episode[i] += 1
        self.actions[i] = []
        seed = self.streams.integer(f"{self.name}/{i}", self.episode[i])
        try:
            row, info = self.envs[i].reset(seed=seed)
            self._masks[i] = info.get("action_mask")
        except BROKEN as error:
            raise failure(f"{self._where(i)}: reset", error) from error
        return row

    def _batch(self, rows: list[Any]) -> Any:
        if self._plain:
            try:
                array: np.ndarray = np.array(rows, np.float32)
            except (ValueError, TypeError):
                array = np.empty(0)
            if array.shape == (len(rows), *self.observation_space.shape) and np.isfinite(array).all():  # type: ignore[misc]
                return torch.from_numpy(array)
        try:
            batch = spaces.encode_obs(self.observation_space, spaces.stack_obs(self.observation_space, rows))
        except (ValueError, TypeError, KeyError) as error:
            raise BadEnvironment(f"an observation does not fit {self.observation_space}: {error}") from error
        spaces.check_obs(self.observation_space, batch, f"the observation of {self.name}")
        return batch

    def _refresh(self, obs: Any) -> None:
        self.obs, self.action_mask = obs, self._allowed()

    def _allowed(self) -> Tensor | None:
        if self._masks[0] is None:
            return None
        return torch.as_tensor(np.stack(self._masks).astype(bool)).flatten(1)

    def _where(self, i: int) -> str:
        return f"environment {i}, episode {self.episode[i]}, step {len(self.actions[i])}"


def failure(where: str, error: BaseException, action: Any = None) -> PalaestraError:
    """An exception inside an environment as one line that says where it was raised."""
    if isinstance(error, PalaestraError):
        return error
    _check_actions(action)
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return BadEnvironment(
        f"{where} failed with {type(error).__name__}: {' '.join(str(error).split())} "
        f"({Path(frame.filename).name}, line {frame.lineno}); "
        "palaestra check explains what an environment must do"
    )


def _check_actions(actions: Any) -> None:
    """Before an environment is blamed: raise `Diverged` if the policy asked it for something impossible."""
    if actions is not None and np.issubdtype(np.asarray(actions).dtype, np.floating) and not np.isfinite(actions).all():
        raise Diverged("the policy's action became NaN or infinite")


class EnvVector:
    """Any Gymnasium `VectorEnv`, in the autoreset mode its metadata names.

    Its inner state cannot be saved, so `at_boundary` starts fresh, seeded episodes before each checkpoint.
    """

    def __init__(self, envs: Any, streams: Streams, name: str):
        from gymnasium.vector import AutoresetMode

        self.envs, self.streams, self.name = envs, streams, name
        self.observation_space, self.action_space = envs.single_observation_space, envs.single_action_space
        mode = (envs.metadata or {}).get("autoreset_mode", AutoresetMode.NEXT_STEP)
        self.mode = AutoresetMode(mode) if not isinstance(mode, AutoresetMode) else mode
        self._modes = AutoresetMode
        self._ended = np.zeros(len(self), bool)
        self.boundaries = -1
        self.action_mask: Tensor | None = None
        self._fresh_episodes()

    def __len__(self) -> int:
        return int(self.envs.num_envs)

    def step(self, actions: np.ndarray) -> Step:
        was_reset = self._ended  # NEXT_STEP: this call resets these rows and ignores their actions
        try:
            obs, reward, terminated, truncated, info = self.envs.step(actions)
            reward = np.array(reward, np.float32)
            done = np.asarray(terminated) | np.asarray(truncated)
        except BROKEN as error:
            raise failure(f"{self.name}: step", error, actions) from error
        try:
            if not np.isfinite(reward).all():
                raise BadEnvironment(f"the reward of {self.name} is NaN or infinite; fix the environment or clip it")
            arrived = self._encode(obs)
        except BadEnvironment:
            _check_actions(actions)
            raise
        self.obs, next_obs = arrived, arrived
        next_mask = _mask_in(info)
        self.action_mask = next_mask
        mask = np.ones(len(self), np.float32)
        self._ended = np.zeros(len(self), bool)
        if self.mode == self._modes.NEXT_STEP:
            mask[was_reset] = 0.0
            self._ended = done
        elif done.any() and self.mode == self._modes.SAME_STEP:
            next_obs = self._with_final(arrived, info, done)
            final_mask = _mask_in(info.get("final_info", {}))
            if next_mask is not None:  # without a final mask nothing is known, so all actions count as allowed
                final_mask = torch.ones_like(next_mask) if final_mask is None else final_mask
                next_mask = _where(done, final_mask, next_mask)
        elif done.any():  # DISABLED: we reset the ended rows ourselves
            obs, info = self.envs.reset(options={"reset_mask": done})
            self.obs = self._encode(obs)
            if next_mask is not None:  # the reset speaks of the rows it reset only
                self.action_mask = _where(done, _mask_in(info), next_mask)
        return Step(
            next_obs,
            torch.from_numpy(reward),
            torch.from_numpy(np.asarray(terminated, np.float32)),
            torch.from_numpy(np.asarray(truncated, np.float32)),
            torch.from_numpy(mask),
            next_mask,
        )

    def at_boundary(self) -> None:
        self._fresh_episodes()

    def state_dict(self) -> dict[str, Any]:
        return {"boundaries": self.boundaries}

    def load_state_dict(self, state: Mapping[str, Any]) -> bool:
        self.boundaries = state["boundaries"] - 1
        self._fresh_episodes()
        return False

    def close(self) -> None:
        self.envs.close()

    def _fresh_episodes(self) -> None:
        self.boundaries += 1
        try:
            obs, info = self.envs.reset(seed=self.streams.integer(self.name, self.boundaries))
        except BROKEN as error:
            raise failure(f"{self.name}: reset", error) from error
        self.obs = self._encode(obs)
        self._ended = np.zeros(len(self), bool)
        self.action_mask = _mask_in(info)

    def _encode(self, obs: Any) -> Any:
        # Vector environments may reuse their output array, hence the copy.
        batch = tree_map(torch.clone, spaces.encode_obs(self.observation_space, obs))
        spaces.check_obs(self.observation_space, batch, f"the observation of {self.name}")
        return batch

    def _with_final(self, arrived: Any, info: Mapping[str, Any], done: np.ndarray) -> Any:
        if "final_obs" not in info:
            raise Unsupported(
                f"{self.name} resets in the same step but gives no info['final_obs'], so the true last "
                "observation is lost; use Gymnasium 1.1 or later vector environments"
            )
        rows = [int(i) for i in np.flatnonzero(done)]
        final = spaces.encode_obs(
            self.observation_space, spaces.stack_obs(self.observation_space, [info["final_obs"][i] for i in rows])
        )
        return tree_map(lambda a, f: a.index_copy(0, torch.tensor(rows), f), arrived, final)


def _where(rows: np.ndarray, new: Tensor | None, old: Tensor) -> Tensor:
    return old if new is None else torch.where(torch.from_numpy(rows).unsqueeze(1), new, old)


def _mask_in(info: Mapping[str, Any]) -> Tensor | None:
    """The action masks in a vector environment's info, `(N, n)`."""
    if "action_mask" not in info:
        return None
    masks = info["action_mask"]
    given = info.get("_action_mask", [row is not None for row in masks])
    some = np.asarray(next(row for row, has in zip(masks, given, strict=True) if has))
    rows = [np.asarray(row) if has else np.ones_like(some) for row, has in zip(masks, given, strict=True)]
    return torch.as_tensor(np.stack(rows).astype(bool)).flatten(1)
