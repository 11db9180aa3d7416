"""A task from a user's own function: what it may be, and one line about what is wrong with it where it is not."""

from __future__ import annotations

import functools
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv

import palaestra as pal
from palaestra.core.errors import BadEnvironment, BadSetting
from palaestra.core.seeding import Streams
from palaestra.core.task import as_task

from ..environments import Counting, Spaces


def raises():
    raise FileNotFoundError("no such\nsimulator")


def exits():
    raise SystemExit(0)


def returns_none():
    gym.make("CartPole-v1")


def returns_a_dict():
    return {"env": gym.make("CartPole-v1")}


def returns_the_class():
    return Counting


def without_spaces():
    class Bare(gym.Env):
        pass

    return Bare()


def takes_a_size(size, colour="red"):
    return Counting()


def vector_in_disguise():
    return SyncVectorEnv([Counting, Counting])


def takes_but_ignores_the_number(num_envs):
    return SyncVectorEnv([Counting, Counting])


def single_for_a_number(num_envs):
    return Counting()


@pytest.mark.parametrize(
    ("factory", "kwargs", "says"),
    [
        (raises, {}, "the factory raises failed with FileNotFoundError: no such simulator (test_task.py, line "),
        (exits, {}, "the factory exits failed with SystemExit: 0"),
        (returns_none, {}, "the factory returns_none returns None; let it return the environment"),
        (
            returns_a_dict,
            {},
            "returns_a_dict returns a dict without observation_space, action_space, reset, step; let it",
        ),
        (without_spaces, {}, "returns a Bare without observation_space, action_space; let it return a gymnasium.Env"),
        (
            takes_a_size,
            {},
            "takes_a_size cannot be called as takes_a_size(): missing a required argument: 'size'; it is",
        ),
        (takes_a_size, {"size": 3, "color": 1}, "takes_a_size(size=3, color=1): got an unexpected keyword argument"),
        (Counting, {"length": 3}, "the factory Counting cannot be called as Counting(length=3): got an unexpected"),
        (vector_in_disguise, {}, "makes a vector environment; let it take their number as num_envs"),
        (takes_but_ignores_the_number, {}, "was asked for num_envs=1 and made 2"),
        (single_for_a_number, {}, "returns a Counting without single_observation_space"),
        (dict, {}, "the factory dict returns a dict without observation_space"),
        (
            "CartPole-v1",
            {"sutton_barto": True},
            "CartPole-v1 failed with TypeError: CartPoleEnv.__init__() got an unexpected keyword argument",
        ),
    ],
)
def test_a_function_that_makes_no_environment_is_named_with_what_would_fit(factory, kwargs, says):
    with pytest.raises(BadEnvironment) as wrong:
        as_task(factory, **kwargs)
    assert says in str(wrong.value)
    assert "\n" not in str(wrong.value)


def test_an_environment_in_place_of_a_function_is_refused():
    for thing, called in ((gym.make("CartPole-v1"), "a TimeLimit"), (None, "a NoneType"), (Counting(), "a Counting")):
        with pytest.raises(BadSetting, match=f"a function that makes an environment, got {called}; several are made"):
            pal.train("ppo", thing, steps=10)


@pytest.mark.parametrize(
    "value", [np.float32(0.5), np.ones(2), len, {1, 2}], ids=["scalar", "array", "function", "set"]
)
def test_an_argument_that_no_config_can_hold_is_refused_before_anything_is_made(value):
    with pytest.raises(BadSetting, match=r"the keyword argument size of takes_a_size is an? \w+, which a run's config"):
        as_task(takes_a_size, size=value)


def test_the_error_names_the_file_of_a_factory_that_the_command_line_named():
    Path("world.py").write_text("def make():\n    return 3\n")
    with pytest.raises(BadEnvironment, match=rf"the factory {Path('world.py').resolve()}:make returns an int without"):
        as_task("world.py:make")


def test_an_error_of_palaestras_own_passes_through_as_it_is():
    def make():
        return as_task("CartPol-v1").make()

    with pytest.raises(pal.PalaestraError, match=r"^unknown task 'CartPol-v1'"):
        pal.EnvTask(make)


def test_a_function_that_gives_one_environment_again_and_again_is_refused():
    env = Counting()
    with pytest.raises(BadEnvironment, match="one environment was made 2 times; make a new one at every call"):
        pal.EnvTask(lambda: env).envs(2, Streams(0), "test")


def test_an_environment_that_cannot_be_filmed_says_so_in_one_line():
    run = pal.Run(pal.PPO(network=(4,)), Counting, steps=10)
    with pytest.raises(BadEnvironment, match=r"Counting\(render_mode='rgb_array'\): .* render_mode to be filmed"):
        run.task.make(render_mode="rgb_array")


@pytest.mark.parametrize(
    "factory",
    [
        Counting,
        lambda: Counting(),
        functools.partial(Spaces, "vector", length=3),
        lambda num_envs: SyncVectorEnv([Counting] * num_envs),
        lambda **options: Counting(**options),
    ],
    ids=["class", "function", "partial", "vector", "any keywords"],
)
def test_whatever_makes_environments_is_a_task(factory):
    envs = as_task(factory).envs(2, Streams(0), "test")
    assert len(envs) == 2
    envs.step(np.stack([envs.action_space.sample()] * 2))
