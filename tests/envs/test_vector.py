"""One contract over single and vector environments: true next observations, masks, ends apart, exact restore."""

from __future__ import annotations

import copy
import functools
import json

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import ClipAction, FrameStackObservation, TimeAwareObservation

from palaestra.core.errors import BadCheckpoint, BadEnvironment, Diverged
from palaestra.core.seeding import Streams
from palaestra.envs.vector import EnvList, EnvVector
from palaestra.runs import checkpoint

from ..environments import Counting, Faulty, Spaces

MODES = [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED]
LENGTHS = [(3, 4, 2), (1, 2, 5), (6, 6, 6)]


def counting(mode: AutoresetMode | None, copy_out: bool = True):
    """Three environments with episodes of different lengths, as a vector in a mode, or as a list."""
    makes = [functools.partial(Counting, lengths) for lengths in LENGTHS]
    if mode is None:
        each = iter(makes)
        return EnvList(lambda: next(each)(), 3, Streams(0), "test")
    return EnvVector(SyncVectorEnv(makes, autoreset_mode=mode, copy=copy_out), Streams(0), "test")


def transitions(envs, steps: int) -> list[list[tuple]]:
    """What each environment did, row by row, without the rows that were mere resets."""
    seen = [[] for _ in range(len(envs))]
    for _ in range(steps):
        obs = envs.obs
        step = envs.step(np.zeros((len(envs), 1), np.float32))
        for i in range(len(envs)):
            if step.mask[i]:
                ends = bool(step.terminated[i]), bool(step.truncated[i])
                seen[i].append((*obs[i].tolist(), float(step.reward[i]), *step.next_obs[i].tolist(), *ends))
    return seen


def expected(lengths: tuple[int, ...], count: int) -> list[tuple]:
    rows = []
    for episode in range(count):
        length = lengths[episode % 3]
        for t in range(length):
            over = t + 1 == length
            row = (
                episode,
                t,
                100.0 * episode + t + 1,
                episode,
                t + 1,
                over and episode % 2 == 0,
                over and episode % 2 == 1,
            )
            rows.append(row)
    return rows[:count]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("copy_out", [True, False])
def test_every_mode_gives_the_same_true_transitions(mode, copy_out):
    seen = transitions(counting(mode, copy_out), 30)
    for rows, lengths in zip(seen, LENGTHS, strict=True):
        assert len(rows) >= 15
        assert rows == expected(lengths, len(rows))


def test_next_step_mode_masks_the_resets_and_nothing_else():
    envs = counting(AutoresetMode.NEXT_STEP)
    masks = torch.stack([envs.step(np.zeros((3, 1), np.float32)).mask for _ in range(8)]).T
    assert masks.tolist() == [[1, 1, 1, 0, 1, 1, 1, 1], [1, 0, 1, 1, 0, 1, 1, 1], [1, 1, 1, 1, 1, 1, 0, 1]]


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED, None])
def test_the_other_modes_lose_no_step_to_resets(mode):
    envs = counting(mode)
    assert all(bool(envs.step(np.zeros((3, 1), np.float32)).mask.all()) for _ in range(8))


def test_a_list_tells_termination_from_time_limit_and_keeps_the_true_last_observation():
    envs = EnvList(functools.partial(Counting, (2, 2)), 1, Streams(0), "test")
    action = np.zeros((1, 1), np.float32)
    envs.step(action)
    step = envs.step(action)
    assert (step.next_obs.tolist(), step.terminated.tolist(), step.truncated.tolist()) == ([[0, 2]], [1], [0])
    assert envs.obs.tolist() == [[0, 0]], "the next episode has begun"


@pytest.mark.parametrize("mode", MODES)
def test_action_masks_are_those_of_the_observation_to_act_on(mode):
    makes = [functools.partial(Spaces, "vector", "discrete", length, masked=True) for length in (2, 3)]
    envs = EnvVector(SyncVectorEnv(makes, autoreset_mode=mode), Streams(0), "test")
    for _ in range(12):
        now = np.stack([env.unwrapped.mask for env in envs.envs.envs])
        np.testing.assert_array_equal(envs.action_mask.numpy(), now)
        envs.step(envs.action_mask.float().argmax(1).numpy() - 1)  # Spaces raises if a disallowed action is taken


@pytest.mark.parametrize("mode", MODES)
def test_dict_observations_keep_their_true_ends(mode):
    class Keyed(gym.ObservationWrapper):
        observation_space = gym.spaces.Dict({"a": Counting.observation_space, "b": gym.spaces.Discrete(9)})

        def observation(self, obs):
            return {"a": obs, "b": int(obs[1])}

    makes = [lambda: Keyed(Counting((3, 3))), lambda: Keyed(Counting((4, 4)))]
    envs = EnvVector(SyncVectorEnv(makes, autoreset_mode=mode), Streams(0), "test")
    for _ in range(3):
        step = envs.step(np.zeros((2, 1), np.float32))
    assert step.next_obs["b"].tolist() == [3, 3]
    assert step.next_obs["a"][:, 1].tolist() == [3, 3]
    assert step.terminated.tolist() == [1, 0]


@pytest.mark.parametrize("mode", MODES)
def test_a_vector_begins_fresh_and_equal_episodes_at_a_boundary(mode):
    def make():
        return EnvVector(SyncVectorEnv([Faulty, Faulty], autoreset_mode=mode), Streams(3), "test")

    action = np.full((2, 1), 0.5, np.float32)
    one, two = make(), make()
    for _ in range(7):
        one.step(action)
    one.at_boundary()
    two.load_state_dict(json.loads(json.dumps(one.state_dict())))
    for _ in range(40):
        assert torch.equal(one.obs, two.obs)
        assert torch.equal(one.step(action).reward, two.step(action).reward)


def test_a_vector_that_drops_its_final_observations_is_refused():
    class Forgetful(SyncVectorEnv):
        def step(self, actions):
            *rest, info = super().step(actions)
            info.pop("final_obs", None)
            return *rest, info

    envs = EnvVector(Forgetful([Counting], autoreset_mode=AutoresetMode.SAME_STEP), Streams(0), "test")
    with pytest.raises(Exception, match="final_obs"):
        transitions(envs, 5)


@pytest.mark.parametrize("fault", ["nan", "nan reward", "raises", "exits", "reset"])
def test_a_faulty_vector_is_named(fault):
    with pytest.raises(BadEnvironment):
        transitions(EnvVector(SyncVectorEnv([functools.partial(Faulty, fault)]), Streams(0), "test"), 20)


@pytest.mark.parametrize("vector", [False, True])
def test_an_impossible_action_is_not_blamed_on_the_environment(vector):
    make = functools.partial(gym.make, "Pendulum-v1", disable_env_checker=True)
    envs = EnvVector(SyncVectorEnv([make]), Streams(0), "test") if vector else EnvList(make, 1, Streams(0), "test")
    with pytest.raises(Diverged, match="the policy's action became NaN"):
        envs.step(np.array([[np.nan]], np.float32))


# Exact restore in the middle of an episode.


def wrapped():
    env = FrameStackObservation(TimeAwareObservation(gym.make("Pendulum-v1")), 3)
    return ClipAction(env)


RESTORED = {
    "CartPole": functools.partial(gym.make, "CartPole-v1"),
    "Acrobot": functools.partial(gym.make, "Acrobot-v1"),
    "Pendulum": functools.partial(gym.make, "Pendulum-v1"),
    "Ant": functools.partial(gym.make, "Ant-v5"),
    "HalfCheetah": functools.partial(gym.make, "HalfCheetah-v5"),
    "Hopper": functools.partial(gym.make, "Hopper-v5"),
    "Humanoid": functools.partial(gym.make, "Humanoid-v5"),
    "wrapped": wrapped,
}


@pytest.mark.parametrize("name", RESTORED)
def test_a_list_is_restored_exactly_in_the_middle_of_an_episode(name, tmp_path):
    make = RESTORED[name]
    one = EnvList(make, 2, Streams(5), "test")
    one.action_space.seed(0)

    def actions():
        return np.stack([one.action_space.sample() for _ in range(2)])

    for _ in range(47):
        one.step(actions())
    two = EnvList(make, 2, Streams(5), "test")
    for _ in range(9):
        two.step(actions())  # the restored one may have been anywhere before
    state, _ = checkpoint.load(checkpoint.save(tmp_path / "c", 1, copy.deepcopy(one.state_dict()), {}))
    two.load_state_dict(state)
    for _ in range(60):
        chosen = actions()
        first, second = one.step(chosen), two.step(chosen)
        for a, b in zip(first[:4], second[:4], strict=True):
            assert torch.equal(a, b)
        assert torch.equal(one.obs, two.obs)


def test_an_environment_with_hidden_randomness_is_named_as_such():
    class Hidden(Faulty):
        def step(self, action):
            obs, *rest = super().step(action)
            return obs + np.random.default_rng().normal(size=3).astype(np.float32), *rest

    one, two = (EnvList(Hidden, 1, Streams(0), "test") for _ in range(2))
    for _ in range(5):
        one.step(np.zeros((1, 1), np.float32))
    with pytest.warns(UserWarning, match="test is not deterministic"):
        restored = two.load_state_dict(one.state_dict())
    assert not restored
    assert two.episode == [1], "it goes on with a fresh episode"


def test_another_number_of_environments_is_refused():
    with pytest.raises(BadCheckpoint, match="holds 2 environments, not 1"):
        EnvList(Faulty, 1, Streams(0), "test").load_state_dict(EnvList(Faulty, 2, Streams(0), "test").state_dict())
