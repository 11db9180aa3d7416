"""The dataset checker: nothing about sound data, and one sentence about each mistake, with what to do."""

from __future__ import annotations

import dataclasses

import gymnasium as gym
import numpy as np
import pytest
import torch

from palaestra.core.experience import Experience
from palaestra.data import checker, measures
from palaestra.data.checker import check_dataset, numbers
from palaestra.data.dataset import Dataset
from tests.datasets import random_dataset
from tests.environments import ACTIONS, OBSERVATIONS

from .test_dataset import filled

LENGTHS = [7, 12, 9, 20, 14, 8, 11, 19]


def sound(lengths: list[int] = LENGTHS, actions: str = "box", seed: int = 0) -> Dataset:
    """Noise through which nothing can be learnt, but nothing of which is wrong."""
    torch.manual_seed(seed)
    n = sum(lengths)
    obs = torch.randn(n + 1, 3)
    lasts = torch.tensor(lengths).cumsum(0) - 1
    terminated, truncated = torch.zeros(n), torch.zeros(n)
    terminated[lasts[::2]], truncated[lasts[1::2]] = 1.0, 1.0
    next_obs = obs[1:].clone()
    next_obs[lasts] = torch.randn(len(lasts), 3)
    action = torch.rand(n, 2) * 2 - 1 if actions == "box" else torch.randint(3, (n,))
    steps = Experience(obs[:-1], action, torch.randn(n), next_obs, terminated=terminated, truncated=truncated)
    space = gym.spaces.Box(-2, 2, (2,), np.float32) if actions == "box" else gym.spaces.Discrete(3)
    seen = gym.spaces.Box(-10, 10, (3,), np.float32)
    return Dataset("logs", steps, torch.cat([torch.tensor([0]), lasts[:-1] + 1]), seen, space, references=(0.0, 1.0))


def only(logs: Dataset) -> str:
    """The one thing that is wrong."""
    findings = check_dataset(logs)
    assert len(findings) == 1, findings
    assert "\n" not in findings[0]
    return findings[0]


def changed(logs: Dataset | None = None, **columns) -> Dataset:
    logs = sound() if logs is None else logs
    return dataclasses.replace(logs, steps=logs.steps.replace(**columns))


@pytest.mark.parametrize("actions", ["box", "discrete"])
@pytest.mark.parametrize("chunk", [1 << 18, 7])
def test_nothing_is_wrong_with_sound_data(actions, chunk, monkeypatch):
    monkeypatch.setattr(checker, "CHUNK", chunk)
    assert check_dataset(sound(actions=actions)) == []


def test_nothing_is_wrong_with_random_episodes_of_known_environments():
    assert check_dataset(random_dataset("Pendulum-v1", 650)) == []
    assert check_dataset(random_dataset("CartPole-v1", 650)) == []


@pytest.mark.parametrize("observations", OBSERVATIONS)
@pytest.mark.parametrize("actions", ACTIONS)
def test_it_can_look_at_any_spaces(observations, actions):
    for sentence in check_dataset(filled(observations, actions)):
        assert "steps inside episodes" not in sentence and "leaves its space" not in sentence


@pytest.mark.parametrize("column", ["obs", "next_obs", "action", "reward"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_numbers_that_are_not_finite(column, value):
    broken = getattr(sound().steps, column).clone()
    broken[40] = value
    assert only(changed(**{column: broken})).startswith(
        f"{column} is NaN or infinite in row 40; leave that episode out"
    )


@pytest.mark.parametrize("chunk", [1 << 18, 8])
def test_rows_that_do_not_follow_from_each_other(chunk, monkeypatch):
    monkeypatch.setattr(checker, "CHUNK", chunk)
    logs = sound()
    broken = logs.steps.next_obs.clone()
    broken[[3, 15]] += 1.0  # inside the first and the second episode
    said = only(changed(logs, next_obs=broken))
    assert said.startswith(
        "2 steps inside episodes do not lead to the observation of the next row, first row 3 of episode 0"
    )
    assert "set truncated" in said


def test_episodes_that_were_merged():
    logs = sound()
    flags = {name: getattr(logs.steps, name).clone() for name in ("terminated", "truncated")}
    flags["terminated"][6] = 0.0
    starts = logs.starts[torch.arange(len(LENGTHS)) != 1]
    merged = dataclasses.replace(logs, steps=logs.steps.replace(**flags), starts=starts)
    assert "first row 6 of episode 0: boundaries are missing there" in only(merged)


def test_actions_outside_their_limits():
    assert "actions leave Box(-2.0, 2.0" in only(changed(action=1.3 * sound().steps.action))
    assert check_dataset(changed(action=sound().steps.action * (1 + 1e-6))) == []
    discrete = sound(actions="discrete")
    assert "outside Discrete(2)" in only(dataclasses.replace(discrete, action_space=gym.spaces.Discrete(2)))


def test_actions_that_are_always_at_a_limit():
    pushed = sound().steps.action.clone()
    pushed[:, 1] = pushed[:, 1].sign()
    pushed[:3, 1] = 0.37
    assert "action 1 is at a limit in 97% of the steps" in only(changed(action=pushed))


def test_actions_that_hardly_use_their_range():
    assert "action 0, 1 uses less than 10% of its range; see whether it was scaled" in only(
        changed(action=0.05 * sound().steps.action)
    )


def test_actions_that_look_like_indices():
    whole = (2 * sound().steps.action).round() / 2
    assert "all actions are whole numbers; if they are indices" in only(changed(action=whole))


def test_actions_that_never_change():
    still = sound().steps.action.clone()
    still[:, 0] = 0.25
    assert "action 0 never changes" in only(changed(action=still))
    discrete = sound(actions="discrete")
    assert "the action is always 2" in only(changed(discrete, action=torch.full((len(discrete),), 2)))


def test_a_time_limit_that_was_logged_as_terminated():
    lengths = [10, 10, 10, 6, 10]
    logs = sound(lengths)
    lasts = logs.stops - 1
    ends = torch.zeros(len(logs))
    ends[lasts] = 1.0
    assert only(changed(logs, terminated=ends, truncated=0 * ends)).startswith(
        "4 of 5 episodes are terminated after exactly 10 steps and none later, as a time limit would do it"
    )
    assert check_dataset(changed(logs, terminated=0 * ends, truncated=ends)) == []


def test_ends_of_the_task_that_were_logged_as_truncated():
    logs = sound([5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15])
    ends = torch.maximum(logs.steps.terminated, logs.steps.truncated)
    said = only(changed(logs, terminated=0 * ends, truncated=ends))
    assert said.startswith("no episode is terminated, but they are truncated after 11 different numbers of steps")


def test_ends_inside_an_episode():
    inside = sound().steps.truncated.clone()
    inside[2] = 1.0
    assert "1 steps inside episodes are terminated or truncated" in only(changed(truncated=inside))


def test_ends_that_are_both():
    both = torch.maximum(sound().steps.terminated, sound().steps.truncated)
    assert "4 episodes are terminated and truncated at once" in only(changed(terminated=both))


def test_rewards_that_tell_nothing_apart():
    logs = sound()
    assert "all rewards are 0 and all episodes equally good" in only(changed(logs, reward=torch.zeros(len(logs))))
    alike = sound([8, 8, 8, 8])
    assert "all rewards are 1" in only(changed(alike, reward=torch.ones(len(alike))))
    assert check_dataset(changed(logs, reward=torch.ones(len(logs)))) == []  # the longer the better
    ends = torch.zeros(len(logs))
    ends[logs.stops - 1] = 1.0
    assert "all episodes have the same return" in only(changed(logs, reward=ends))


def test_one_episode():
    assert "there is one episode only" in only(sound([60]))


def test_references_that_are_not_in_order():
    assert "references 5 and 5 are not in order" in only(dataclasses.replace(sound(), references=(5.0, 5.0)))


def test_episodes_that_were_copied():
    logs = sound()
    twice = dataclasses.replace(
        logs,
        steps=Experience.cat([logs.steps, logs.steps[:19]]),
        starts=torch.cat([logs.starts, torch.tensor([len(logs), len(logs) + 7])]),
    )
    assert "2 of 10 episodes are copies of others" in only(twice)


def test_steps_that_were_copied():
    logs = sound([30, 31, 30])
    parts = {name: getattr(logs.steps, name).clone() for name in ("obs", "next_obs", "action", "reward")}
    for column in parts.values():
        column[31:59] = column[1:29]
        column[59] = 0.125  # which ends the copy
    parts["next_obs"][30], parts["next_obs"][58] = parts["obs"][31], parts["obs"][59]
    parts["next_obs"][59] = parts["obs"][60]
    assert "of the steps are copies of others" in only(changed(logs, **parts))
    assert measures.distinct_steps(logs) == len(logs)


def test_an_observation_that_never_changes():
    def fixed(column):
        column = column.clone()
        column[:, 1] = 4.0
        return column

    said = only(changed(obs=fixed(sound().steps.obs), next_obs=fixed(sound().steps.next_obs)))
    assert said.startswith("obs number 1 never changes; leave it out")


def test_an_observation_that_leaves_its_space_or_was_never_measured():
    def scaled(column, factor):
        return column * torch.tensor([1.0, 1.0, factor])

    steps = sound().steps
    wide = changed(obs=scaled(steps.obs, 100.0), next_obs=scaled(steps.next_obs, 100.0))
    assert any("obs number 2 leaves its space Box" in sentence for sentence in check_dataset(wide))
    logs = sound([20_000] * 2)
    logs = dataclasses.replace(logs, observation_space=gym.spaces.Box(-np.inf, np.inf, (3,), np.float32))
    obs, next_obs = logs.steps.obs.clone(), logs.steps.next_obs.clone()
    obs[500, 2] = next_obs[499, 2] = -9999.0
    said = check_dataset(changed(logs, obs=obs, next_obs=next_obs))
    assert len(said) == 1 and said[0].startswith("obs number 2 reaches from -9999 to ")


def test_observations_of_very_different_scales():
    logs = dataclasses.replace(sound(), observation_space=gym.spaces.Box(-np.inf, np.inf, (3,), np.float32))
    factor = torch.tensor([1e4, 1.0, 1.0])
    said = only(changed(logs, obs=factor * logs.steps.obs, next_obs=factor * logs.steps.next_obs))
    assert "very different scales" in said and "normalise_obs=True" in said


def test_steps_that_lead_nowhere():
    logs = sound()
    held = logs.steps.obs[logs.starts][logs.episode]
    assert "100% of the steps lead to the very observation" in only(changed(logs, obs=held, next_obs=held))


def test_the_statistics_of_a_column_are_exact_far_from_zero(monkeypatch):
    monkeypatch.setattr(checker, "CHUNK", 13)
    generator = torch.Generator().manual_seed(0)
    column = 1e4 + torch.randn(1000, 3, generator=generator)
    found = numbers(column)
    torch.testing.assert_close(found.mean, column.double().mean(0))
    torch.testing.assert_close(found.deviation, column.double().std(0, unbiased=False))
    assert torch.equal(found.low, column.double().amin(0)) and torch.equal(found.high, column.double().amax(0))
