"""An environment checker that explains in words what is wrong with an environment, and what to do about it."""

from __future__ import annotations

import math
import re
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from palaestra.core import registry, spaces
from palaestra.core.errors import PalaestraError, Unsupported
from palaestra.envs.task import EnvTask, make_env

STEPS = 1000
"""Steps played with random actions."""
REPEATED = 100
"""Steps played twice with the same seed and actions."""
SECONDS = 30.0
"""A slow environment is played for this long at most."""
WIDE, NARROW = 100.0, 1e-3
"""Half-widths of an action range beyond which learning suffers from rounding or from sheer size."""
SCALES = 1e3
"""Ratio of the largest to the smallest deviation of an observation's numbers that calls for normalisation."""


def check_env(env: Any) -> list[str]:
    """What is wrong with an environment: one sentence per finding, with what to do; an empty list if nothing is.

    `env` is a Gymnasium id, `file.py:factory`, a factory, an `EnvTask`, or an environment (which will be played with).

    Raises:
        PalaestraError: there is no such environment.
    """
    make = _maker(env)
    findings: dict[str, str] = {}
    try:
        for finding in _Check(make).run():
            findings.setdefault(re.sub(r"[\d.+-]+", "#", finding), finding)  # once, whatever its numbers are
    except _Broken as broken:
        findings.setdefault("", str(broken))
    return list(findings.values())


class _Broken(Exception):
    """A finding after which nothing more can be checked."""


class _Check:
    def __init__(self, make: Callable[[], Any]):
        self.make = make
        self.env = _guarded("making the environment", make)
        self.generator = np.random.default_rng(0)
        self.seeded = True
        self.said_of_reset = False

    def run(self) -> Iterator[str]:
        if hasattr(self.env, "num_envs"):
            raise _Broken("this is a vector environment; check one of the environments that it is made of")
        yield from self.spaces()
        yield from self.resets()
        yield from self.play()
        yield from self.repeat()

    def spaces(self) -> Iterator[str]:
        for name in ("observation_space", "action_space"):
            space = getattr(self.env, name, None)
            if space is None:
                raise _Broken(f"{name} is missing; set self.{name} in __init__ to a gymnasium.spaces object")
            try:
                _walk(space)
            except Unsupported as error:
                raise _Broken(f"the {name} is not supported: {error}") from None
        space = self.env.action_space
        if spaces.kind(space) in ("dict", "tuple", "multi_binary"):
            yield f"no method can act in the action space {space}; use Box, Discrete or MultiDiscrete"
        elif spaces.kind(space) == "box":
            if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
                yield f"the action space {space} is unbounded; give it finite limits, for example -1 and 1"
                return
            half = (space.high - space.low) / 2
            if (half <= 0).any():
                yield f"the action space {space} leaves some action no room (low = high); remove that action"
            elif half.max() > WIDE or half.min() < NARROW:
                yield (
                    f"actions reach from {space.low.min():g} to {space.high.max():g} with half-widths of {half.min():g} to "
                    f"{half.max():g}; scale them to about -1 to 1 (gymnasium.wrappers.RescaleAction)"
                )

    def resets(self) -> Iterator[str]:
        try:
            self.env.reset(seed=0)
        except TypeError as error:
            if "seed" not in str(error):
                raise _Broken(_told("reset", error)) from None
            self.seeded = False
            yield (
                "reset does not accept seed, so runs cannot be repeated; write "
                "def reset(self, *, seed=None, options=None) and begin with super().reset(seed=seed)"
            )
        except Exception as error:
            raise _Broken(_told("reset", error)) from None
        obs, info = self.reset(0)
        yield from self.observation(obs, "reset")
        yield from self.mask(info, "reset")

    def play(self) -> Iterator[str]:
        """Random actions over several episodes: everything that a single step can get wrong."""
        obs, _ = self.reset(1)
        seen, ended, length, longest = [], False, 0, 0
        last, contents = obs, _copy(obs)
        end = time.monotonic() + SECONDS
        for _ in range(STEPS):
            action = self.action()
            given = np.array(action)
            obs, reward, terminated, truncated, info = self.step(action)
            if not np.array_equal(given, action):
                yield "step changes the action array that it is given; let it work on a copy"
            if not _same(last, contents):
                yield (
                    "the observation array is used again for the next observation, which changes the last one behind "
                    "the caller's back; return a copy (obs.copy())"
                )
            yield from self.observation(obs, "step")
            yield from self.reward(reward)
            for name, flag in (("terminated", terminated), ("truncated", truncated)):
                if not isinstance(flag, (bool, np.bool_)):
                    yield f"{name} is of type {type(flag).__name__}; return True or False (bool(...))"
            yield from self.mask(info, "step")
            seen.append(obs)
            length += 1
            longest = max(longest, length)
            if np.any(terminated) or np.any(truncated):
                ended, length = True, 0
                obs, _ = self.reset(None)
            last, contents = obs, _copy(obs)
            if time.monotonic() > end:
                break
        if not ended and not self._limit():
            yield (
                f"no episode ended within {longest} steps and there is no time limit; if episodes can go on for ever, wrap the "
                "environment in gymnasium.wrappers.TimeLimit(env, max_episode_steps=1000)"
            )
        yield from self.scales(seen)

    def repeat(self) -> Iterator[str]:
        """The same seed and actions twice, the second time in a fresh environment where one can be made."""
        if not self.seeded:
            return
        actions = [self.action() for _ in range(REPEATED)]
        first = self._episode(actions)
        self.env = _guarded("making the environment again", self.make)
        for step, (a, b) in enumerate(zip(first, self._episode(actions), strict=False)):
            if not _same(a, b):
                where = "after reset" if step == 0 else f"after {step} steps"
                yield (
                    f"the environment is not deterministic: with the same seed and actions it differs {where}, so an "
                    "interrupted run cannot be resumed exactly; draw all random numbers from self.np_random, which "
                    "super().reset(seed=seed) seeds"
                )
                return

    def observation(self, obs: Any, source: str) -> Iterator[str]:
        if source == "reset" or not self.said_of_reset:  # what is wrong already with the first is not said again
            findings = list(_fits(self.env.observation_space, obs, f"the observation of {source}"))
            self.said_of_reset |= source == "reset" and bool(findings)
            yield from findings

    def reward(self, reward: Any) -> Iterator[str]:
        if isinstance(reward, (bool, np.bool_)) or np.ndim(reward) or not isinstance(reward, (int, float, np.number)):
            what = f"an array of shape {np.shape(reward)}" if np.ndim(reward) else f"of type {type(reward).__name__}"
            yield f"the reward is {what}; return one number (float(...))"
        elif not math.isfinite(float(reward)):
            yield f"the reward is {reward}; find the division or the logarithm that made it, or clip it"

    def mask(self, info: Any, source: str) -> Iterator[str]:
        if not isinstance(info, dict):
            raise _Broken(
                f"the info of {source} is of type {type(info).__name__}; return a dict, an empty one if need be"
            )
        if "action_mask" not in info:
            return
        mask, kind = np.asarray(info["action_mask"]), spaces.kind(self.env.action_space)
        if kind not in ("discrete", "multi_discrete"):
            yield f"info['action_mask'] is given for {kind} actions, which cannot be masked; leave it out"
            return
        counts = [int(self.env.action_space.n)] if kind == "discrete" else self.env.action_space.nvec.flatten().tolist()
        if mask.shape != (sum(counts),):
            yield f"info['action_mask'] has shape {mask.shape}; give one number per action, shape ({sum(counts)},)"
        elif not all(part.any() for part in np.split(mask.astype(bool), np.cumsum(counts)[:-1])):
            yield "info['action_mask'] allows no action at all; end the episode instead"

    def scales(self, seen: list[Any]) -> Iterator[str]:
        if spaces.kind(self.env.observation_space) != "box" or spaces.is_image(self.env.observation_space):
            return
        try:
            rows = np.stack([np.asarray(obs, np.float64).reshape(-1) for obs in seen])
        except ValueError:  # of different shapes, which was said before
            return
        with np.errstate(invalid="ignore"):
            deviation = rows.std(0)
        varied = deviation[np.isfinite(deviation) & (deviation > 1e-8)]
        if len(varied) and varied.max() > SCALES * min(1.0, varied.min()):
            yield (
                f"the numbers in an observation vary on very different scales (deviations from {varied.min():.2g} to "
                f"{varied.max():.2g}); normalise them (normalise_obs=True for on-policy methods, or "
                "gymnasium.wrappers.RescaleObservation)"
            )

    def reset(self, seed: int | None) -> tuple[Any, Any]:
        result = _guarded("reset", lambda: self.env.reset(seed=seed) if self.seeded else self.env.reset())
        if not isinstance(result, tuple) or len(result) != 2:
            raise _Broken(
                "reset returns only an observation (the old Gym interface); return (observation, info), with info a dict"
            )
        return result

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        result = _guarded("step", lambda: self.env.step(action))
        if isinstance(result, tuple) and len(result) == 4:
            raise _Broken(
                "step returns four values (the old Gym interface); return five: observation, reward, terminated, truncated, "
                "info, where terminated means that the task ended and truncated that time ran out"
            )
        if not isinstance(result, tuple) or len(result) != 5:
            raise _Broken("step does not return five values: observation, reward, terminated, truncated, info")
        return result

    def action(self) -> Any:
        space = self.env.action_space
        if spaces.kind(space) != "box":
            space.seed(int(self.generator.integers(1 << 31)))
            return space.sample()
        low, high = (
            np.clip(limit, -1.0, 1.0) if not np.isfinite(limit).all() else limit for limit in (space.low, space.high)
        )
        return self.generator.uniform(low, high).astype(space.dtype)

    def _episode(self, actions: list[Any]) -> Iterator[Any]:
        played = [_copy(self.reset(7)[0])]
        for action in actions:
            obs, reward, terminated, truncated, _ = self.step(action)
            played.append({"obs": _copy(obs), "reward": reward, "ends": (terminated, truncated)})
            if np.any(terminated) or np.any(truncated):
                break
        return iter(played)

    def _limit(self) -> bool:
        spec = getattr(self.env, "spec", None)
        return getattr(spec, "max_episode_steps", None) is not None


def _maker(env: Any) -> Callable[[], Any]:
    if isinstance(env, EnvTask):
        return env.make
    if isinstance(env, str):
        place, _, attribute = env.rpartition(":")
        if place and attribute.isidentifier():
            return registry.locate(env)
        return lambda: make_env(env)
    if callable(env):
        return env
    return lambda: env


def _guarded(what: str, act: Callable[[], Any]) -> Any:
    try:
        return act()
    except PalaestraError:
        raise
    except Exception as error:
        raise _Broken(_told(what, error)) from None


def _told(what: str, error: Exception) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(frame.filename).name}, line {frame.lineno}"
    return f"{what} fails with {type(error).__name__}: {error} ({where}); mend that first"


def _walk(space: Any) -> None:
    if spaces.kind(space) in ("dict", "tuple"):
        for sub in spaces.children(space).values():
            _walk(sub)


def _fits(space: Any, obs: Any, source: str) -> Iterator[str]:
    """What keeps an observation from being one of `space`."""
    if spaces.kind(space) in ("dict", "tuple"):
        wanted = dict if spaces.kind(space) == "dict" else tuple
        if not isinstance(obs, wanted) or len(obs) != len(spaces.children(space)):
            parts = len(spaces.children(space))
            yield f"{source} is no {wanted.__name__} of {parts} parts, as its space says; make the two agree"
            return
        for key, sub in spaces.children(space).items():
            if isinstance(obs, dict) and key not in obs:
                yield f"{source} lacks the key '{key}' of its space; add it, or take it out of the space"
            else:
                yield from _fits(sub, obs[key] if isinstance(obs, dict) else obs[int(key)], f"{source}['{key}']")
        return
    array = np.asarray(obs)
    if array.shape != tuple(space.shape):
        yield f"{source} has shape {array.shape}, but its space says {tuple(space.shape)}; make the two agree"
    elif array.dtype.kind not in "iufb":
        yield f"{source} is of type {array.dtype}, which is no number; return an array of {space.dtype}"
    elif array.dtype.kind == "f" and not np.isfinite(array).all():
        yield f"{source} is NaN or infinite; find the division or the logarithm that made it"
    elif spaces.kind(space) == "box" and array.dtype != space.dtype:
        yield f"{source} is of type {array.dtype}, but its space says {space.dtype}; return obs.astype(np.{space.dtype})"
    elif not _inside(space, array):
        yield f"{source} ({array.min():g} to {array.max():g}) is outside its space {space}; widen the space or clip it"


def _inside(space: Any, array: np.ndarray) -> bool:
    if spaces.kind(space) == "box":
        return bool(((array >= space.low) & (array <= space.high)).all())
    whole = array.astype(np.int64)
    return bool((whole == array).all()) and space.contains(whole.astype(space.dtype)[()])


def _copy(obs: Any) -> Any:
    if isinstance(obs, dict):
        return {key: _copy(part) for key, part in obs.items()}
    return tuple(_copy(part) for part in obs) if isinstance(obs, tuple) else np.array(obs)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    a, b = np.asarray(a), np.asarray(b)
    return np.array_equal(a, b, equal_nan=a.dtype.kind == "f" and b.dtype.kind == "f")
