"""The policy that reads its last steps: causal, alike step by step and over a whole window, told of rewards, bounded in time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete

import palaestra as pal
from palaestra.core.errors import BadEnvironment, Unsupported
from palaestra.core.experience import Experience
from palaestra.nets.sequence_actor import SequenceActor

OBSERVATIONS, ACTIONS = Box(-1, 1, (3,)), Box(-2, 2, (2,))


def actor(observations=OBSERVATIONS, **settings) -> SequenceActor:
    torch.manual_seed(0)
    small = {"size": 1, "window": 4, "width": 8, "layers": 2, "heads": 2, "horizon": 7}
    made = SequenceActor(observations, ACTIONS, **{**small, **settings})
    made.condition.fill_(0.5)
    return made.eval()


def random_window(steps: int = 4) -> Experience:
    g = torch.Generator().manual_seed(1)
    return Experience(
        obs=torch.randn(1, steps, 3, generator=g),
        action=torch.rand(1, steps, 2, generator=g),
        time=torch.arange(steps).unsqueeze(0),
        mask=torch.ones(1, steps),
    )


def test_an_action_depends_on_nothing_after_its_observation():
    policy, window = actor(), random_window()
    condition = torch.ones(1, 4, 1)
    before = policy(window, condition)
    for t in range(4):
        later = window.map(torch.clone)
        later.action[:, t:] = 5.0
        later.obs[:, t + 1 :] = -3.0
        torch.testing.assert_close(policy(later, condition)[:, : t + 1], before[:, : t + 1])
        if t < 3:
            assert not torch.allclose(policy(later, condition)[:, t + 1], before[:, t + 1])
    earlier = window.map(torch.clone)
    earlier.obs[:, 0] += 1
    assert not torch.allclose(policy(earlier, condition)[:, -1], before[:, -1])
    assert not torch.allclose(policy(window, 2 * condition), before)


def test_step_by_step_it_acts_as_over_the_last_window_padded_on_the_left():
    policy, episode = actor(), random_window(6)
    carry = policy.initial_carry(1)
    for t in range(6):
        acted = policy.act(episode.obs[:, t], carry)
        carry = acted.carry
        episode.action[:, t] = acted.action
        first = max(0, t - 3)
        seen = episode[:, first : t + 1]
        condition = torch.full((1, t + 1 - first, 1), 0.5)
        torch.testing.assert_close(acted.action, policy(seen, condition)[:, -1])


def test_without_a_memory_it_acts_as_at_the_start_and_a_player_remembers():
    policy, obs = actor(), np.ones(3, np.float32)
    play = policy.player()
    first, second = play(obs), play(obs)
    np.testing.assert_array_equal(first, policy.predict(obs))
    assert not np.allclose(first, second)
    np.testing.assert_array_equal(policy.predict(np.stack([obs, obs])), np.stack([first, first]))


def test_rewards_are_taken_off_a_return_and_off_nothing_else():
    told, untold = actor(return_scale=10.0), actor()
    for policy, left in ((told, [0.4, 0.7]), (untold, [0.5, 0.5])):
        carry = policy.rewarded(policy.initial_carry(2), torch.tensor([1.0, -2.0]))
        torch.testing.assert_close(carry["wanted"][:, 0], torch.tensor(left))
    acted = told.act(torch.zeros(2, 3), told.rewarded(told.initial_carry(2), torch.tensor([1.0, -2.0])))
    torch.testing.assert_close(acted.carry["condition"][:, -1, 0], torch.tensor([0.4, 0.7]))


def test_episodes_that_begin_anew_forget_the_last():
    policy, obs = actor(), torch.randn(2, 3)
    carry = policy.act(obs, policy.initial_carry(2)).carry
    carry = policy.restarted(carry, torch.tensor([True, False]))
    acted = policy.act(obs, carry)
    torch.testing.assert_close(acted.action[:1], policy.act(obs[:1]).action)
    assert acted.carry["steps"].tolist() == [1, 2]
    assert acted.carry["mask"].sum(1).tolist() == [1, 2]


def test_an_episode_beyond_the_horizon_is_refused():
    play = actor().player()
    for _ in range(7):
        play(np.zeros(3, np.float32))
    with pytest.raises(BadEnvironment, match="longer than the 7 steps that the policy knows"):
        play(np.zeros(3, np.float32))


def test_it_is_saved_with_its_condition_and_other_observations_fit():
    policy = actor(Dict({"place": Discrete(4), "speed": Box(-1, 1, (2,))}), return_scale=2.0)
    obs = {"place": 3, "speed": np.ones(2, np.float32)}
    loaded = pal.load_policy(policy.save("policy"))
    ours, theirs = policy.player(), loaded.player()
    for _ in range(3):
        np.testing.assert_array_equal(ours(obs, 1.0), theirs(obs, 1.0))


def test_a_policy_with_a_memory_is_not_exported():
    with pytest.raises(Unsupported, match="SequenceActor has a memory"):
        actor().export_onnx("policy.onnx")
