"""The softmax policy of discrete offline methods: its mode, its samples, and which of the two evaluation sees."""

from __future__ import annotations

import gymnasium
import pytest
import torch

import palaestra as pal
from palaestra.core.errors import Unsupported
from palaestra.core.experience import Experience
from palaestra.envs.task import EnvTask
from palaestra.nets.categorical_actor import CategoricalActor

OBS = gymnasium.spaces.Box(-1, 1, (4,))
ACTIONS = gymnasium.spaces.Discrete(3, start=5)


def actor(scores: list[float], **settings) -> CategoricalActor:
    """A policy with the same scores everywhere."""
    policy = CategoricalActor(OBS, ACTIONS, (4,), **settings)
    policy.net.forward = lambda x: torch.tensor([scores]).expand(len(x), -1)
    return policy


def noise() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_greedily_it_takes_the_mode_and_otherwise_samples_by_probability():
    policy = actor([0.0, 1.0, -30.0])
    obs = torch.zeros(4000, 4)
    assert set(policy.act(obs, greedy=True).action.tolist()) == {1}
    drawn = policy.act(obs, generator=noise())
    share = float((drawn.action == 0).float().mean())
    assert share == pytest.approx(1 / (1 + 2.71828), abs=0.03)
    torch.testing.assert_close(drawn.logp, policy.score(Experience(obs=obs, action=drawn.action)).logp)


def test_one_that_samples_does_so_in_evaluation_too_by_the_given_seed():
    policy = actor([0.0, 0.0, -30.0], samples=True)
    obs = torch.zeros(50, 4)
    first = policy.act(obs, greedy=True, generator=noise()).action
    assert set(first.tolist()) == {0, 1}
    assert torch.equal(first, policy.act(obs, greedy=True, generator=noise()).action)


def test_evaluation_of_one_that_samples_is_a_function_of_its_seed():
    task = EnvTask("CartPole-v1")
    policy = CategoricalActor(task.observation_space, task.action_space, (4,), samples=True)
    returns = [task.evaluate(policy, 4, seed).returns for seed in (1, 1, 2)]
    assert returns[0] == returns[1] != returns[2]


def test_an_action_that_is_not_allowed_is_never_taken():
    policy = actor([5.0, 0.0, 0.0])
    mask = torch.tensor([[False, True, True]]).expand(200, 3)
    for greedy in (True, False):
        assert 0 not in policy.act(torch.zeros(200, 4), greedy=greedy, generator=noise(), action_mask=mask).action


def test_saved_and_loaded_it_still_samples_and_numbers_actions_as_the_environment_does():
    policy = CategoricalActor(OBS, ACTIONS, (4,), samples=True)
    loaded = pal.load_policy(policy.save("policy"))
    assert loaded.samples
    assert loaded.predict(OBS.sample()) in (5, 6, 7)


def test_one_that_samples_is_not_exported():
    with pytest.raises(Unsupported, match="samples in evaluation"):
        CategoricalActor(OBS, ACTIONS, (4,), samples=True).export_onnx("policy.onnx")


def test_continuous_actions_are_refused():
    with pytest.raises(Unsupported, match="needs one discrete action"):
        CategoricalActor(OBS, gymnasium.spaces.Box(-1, 1, (2,)))
