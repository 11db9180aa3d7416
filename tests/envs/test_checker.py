"""The environment checker: one deliberately broken environment per finding, and sound ones pass."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

import palaestra as pal
from palaestra.envs.checker import check_env

from ..environments import ACTIONS, OBSERVATIONS, Counting, Faulty, Spaces


class Sound(gym.Env):
    """Nothing is wrong with this one; the others change one thing each."""

    observation_space = gym.spaces.Box(-10, 10, (3,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.clock = 0
        return self.observe(), {}

    def step(self, action):
        self.clock += 1
        return self.observe(), 1.0, False, self.clock >= 50, {}

    def observe(self):
        return np.clip(self.np_random.normal(size=3), -10, 10).astype(np.float32)


def step_returns(**changes):
    """An environment whose step returns something else in some places."""

    class Changed(Sound):
        def step(self, action):
            names = ("obs", "reward", "terminated", "truncated", "info")
            return tuple({**dict(zip(names, super().step(action), strict=True)), **changes}.values())

    return Changed


class NoSeed(Sound):
    def reset(self):
        return super().reset(seed=3)


class OldReset(Sound):
    def reset(self, **kwargs):
        return super().reset(**kwargs)[0]


class OldStep(Sound):
    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        return obs, reward, terminated or truncated, info


class ThreeValues(Sound):
    def step(self, action):
        return super().step(action)[:3]


class NoObservationSpace(Sound):
    observation_space = None


class NoActionSpace(Sound):
    action_space = None


class StrangeSpace(Sound):
    observation_space = gym.spaces.Sequence(gym.spaces.Discrete(2))


class DictActions(Sound):
    action_space = gym.spaces.Dict({"a": gym.spaces.Discrete(2)})


class Unbounded(Sound):
    action_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)


class Huge(Sound):
    action_space = gym.spaces.Box(-5000, 5000, (2,), np.float32)


class Minute(Sound):
    action_space = gym.spaces.Box(-1e-6, 1e-6, (2,), np.float32)


class NoRoom(Sound):
    action_space = gym.spaces.Box(np.array([-1, 2], np.float32), np.array([1, 2], np.float32))


class WrongShape(Sound):
    def observe(self):
        return super().observe()[:2]


class WrongType(Sound):
    def observe(self):
        return super().observe().astype(np.float64)


class Text(Sound):
    def observe(self):
        return np.array(["a", "b", "c"])


class Outside(Sound):
    def observe(self):
        return super().observe() + 100


class NotANumber(Sound):
    def observe(self):
        return super().observe() * np.nan


class OutsideDiscrete(Sound):
    observation_space = gym.spaces.Discrete(3)

    def observe(self):
        return 3


class MissingKey(Sound):
    observation_space = gym.spaces.Dict({"a": gym.spaces.Discrete(3), "b": gym.spaces.Discrete(3)})

    def observe(self):
        return {"a": 1, "c": 1}


class NotADict(Sound):
    observation_space = gym.spaces.Dict({"a": gym.spaces.Discrete(3)})

    def observe(self):
        return np.zeros(1)


class Endless(Sound):
    def step(self, action):
        return self.observe(), 1.0, False, False, {}


class Hidden(Sound):
    def observe(self):
        return np.random.default_rng().normal(size=3).clip(-9, 9).astype(np.float32)


class Counted(Sound):
    """Goes on counting across resets."""

    total = 0

    def observe(self):
        type(self).total += 1
        return np.full(3, 10 * np.sin(self.total), np.float32)


class Aliasing(Sound):
    array = np.zeros(3, np.float32)

    def observe(self):
        self.array[:] = super().observe()
        return self.array


class Clipping(Sound):
    def step(self, action):
        action *= 0.5
        return super().step(action)


class Scales(Sound):
    observation_space = gym.spaces.Box(-np.inf, np.inf, (3,), np.float32)

    def observe(self):
        return super().observe() * np.array([1, 1e5, 1e-3], np.float32)


class Masked(Sound):
    action_space = gym.spaces.Discrete(4)
    mask = np.ones(4, bool)

    def step(self, action):
        *rest, _ = super().step(action)
        return *rest, {"action_mask": self.mask}


class ShortMask(Masked):
    mask = np.ones(3, bool)


class NothingAllowed(Masked):
    mask = np.zeros(4, bool)


class MaskedBox(Masked):
    action_space = Sound.action_space


FINDINGS = [
    (NoSeed, "reset does not accept seed"),
    (OldReset, "reset returns only an observation"),
    (lambda: Faulty("reset"), "reset fails with RuntimeError: no simulator"),
    (lambda: Faulty("raises"), "step fails with ZeroDivisionError: the joint is gone"),
    (OldStep, "step returns four values"),
    (ThreeValues, "step does not return five values"),
    (NoObservationSpace, "observation_space is missing"),
    (NoActionSpace, "action_space is missing"),
    (StrangeSpace, "the observation_space is not supported: Sequence"),
    (DictActions, "no method can act in the action space"),
    (Unbounded, "is unbounded; give it finite limits"),
    (Huge, "scale them to about -1 to 1"),
    (Minute, "scale them to about -1 to 1"),
    (NoRoom, "leaves some action no room"),
    (WrongShape, "has shape (2,), but its space says (3,)"),
    (WrongType, "is of type float64, but its space says float32"),
    (Text, "which is no number"),
    (Outside, "is outside its space"),
    (OutsideDiscrete, "(3 to 3) is outside its space Discrete(3)"),
    (NotANumber, "is NaN or infinite"),
    (MissingKey, "lacks the key 'b'"),
    (NotADict, "is no dict of 1 parts"),
    (step_returns(reward=np.ones(1)), "the reward is an array of shape (1,)"),
    (step_returns(reward=None), "the reward is of type NoneType"),
    (step_returns(reward=float("nan")), "the reward is nan"),
    (step_returns(terminated=0), "terminated is of type int"),
    (step_returns(truncated=np.int64(1)), "truncated is of type int64"),
    (step_returns(info=None), "the info of step is of type NoneType"),
    (Endless, "there is no time limit"),
    (Hidden, "not deterministic: with the same seed and actions it differs after reset"),
    (Counted, "not deterministic"),
    (Aliasing, "the observation array is used again"),
    (Clipping, "step changes the action array"),
    (Scales, "vary on very different scales"),
    (ShortMask, "info['action_mask'] has shape (3,)"),
    (NothingAllowed, "allows no action at all"),
    (MaskedBox, "is given for box actions"),
    (lambda: gym.make_vec("CartPole-v1", 2), "this is a vector environment"),
]


@pytest.mark.parametrize(("make", "said"), FINDINGS)
def test_each_fault_is_the_one_thing_that_is_said(make, said):
    findings = check_env(make)
    assert len(findings) == 1
    assert said in findings[0]
    assert "\n" not in findings[0]


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1", "HalfCheetah-v5", "FrozenLake-v1", "Blackjack-v1"])
def test_sound_environments_pass(env):
    assert check_env(env) == []


@pytest.mark.parametrize("observations", OBSERVATIONS)
@pytest.mark.parametrize("actions", ACTIONS)
def test_sound_environments_of_every_space_pass(observations, actions):
    assert check_env(lambda: Spaces(observations, actions)) == []


def test_it_takes_an_id_a_file_a_factory_a_task_and_an_environment():
    Path("mine.py").write_text("import gymnasium as gym\ndef make():\n    return gym.make('CartPole-v1')\n")
    for env in ("CartPole-v1", "mine.py:make", Counting, Sound(), pal.EnvTask("CartPole-v1"), gym.make("CartPole-v1")):
        assert check_env(env) == []


def test_an_unknown_id_is_answered_with_the_nearest():
    with pytest.raises(pal.PalaestraError, match="did you mean 'CartPole-v1'"):
        check_env("CartPol-v1")


def test_several_faults_are_all_said_once():
    class Two(WrongType):
        def step(self, action):
            obs, _, *rest = super().step(action)
            return obs, np.ones(1), *rest

    findings = check_env(Two)
    assert len(findings) == 2
