"""PRDC: which recorded action the actor is pulled to, and where that makes it TD3+BC."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from torch import Tensor

import palaestra as pal
from palaestra.core.errors import BadSetting, Unsupported
from palaestra.core.experience import Experience
from palaestra.core.method import Budget
from palaestra.data.dataset import Dataset
from palaestra.data.task import DatasetTask

from ..datasets import random_dataset
from .tiny import SMALL_DATA, bind_offline, noise


def bind(method: pal.Method, dataset: Dataset):
    return method.bind(DatasetTask(dataset), 0, Budget(updates=100))


def minibatch(method, size: int = 32) -> Experience:
    return method.data.sample(size)


def brute(method, batch: Experience, k: int = 1) -> Tensor:
    """The action of the k-th nearest pair, by looking at all of them in double precision."""
    recorded = method.data.dataset.steps
    encoder, beta = method.actor.encoder, method.beta
    with torch.no_grad():
        keys = torch.cat([beta * encoder(recorded.obs), recorded.action], 1).double()
        q = torch.cat([beta * encoder(batch.obs), method.actor(batch.obs)], 1).double()
    row = torch.stack([(keys - one).norm(dim=1).kthvalue(k).indices for one in q])
    return recorded.action[row]


@pytest.mark.parametrize("beta", [0.0, 0.5, 2.0, 50.0])
def test_the_goal_is_the_action_of_the_nearest_pair_in_the_whole_dataset(beta):
    method = bind_offline(pal.PRDC(**SMALL_DATA, beta=beta))
    for _ in range(3):
        batch = minibatch(method)
        torch.testing.assert_close(method.goal(batch), brute(method, batch))


def test_the_goal_is_searched_anew_as_the_actor_moves():
    method = bind_offline(pal.PRDC(**SMALL_DATA, beta=0.5, policy_delay=1, lr=0.1))
    batch = minibatch(method)
    before = method.goal(batch)
    for _ in range(20):
        method.update(batch, noise())
    assert not torch.equal(method.goal(batch), before)
    torch.testing.assert_close(method.goal(batch), brute(method, batch))


def test_states_count_by_their_standardised_values_in_queries_and_keys_alike():
    plain = random_dataset("Pendulum-v1", 450)
    space = Box(-np.inf, np.inf, (3,), np.float32)

    def stretched(obs: Tensor) -> Tensor:
        return 1e3 * obs + 50.0

    steps = plain.steps.replace(obs=stretched(plain.steps.obs), next_obs=stretched(plain.steps.next_obs))
    other = dataclasses.replace(plain, steps=steps, observation_space=space, env=None)
    goals = []
    for dataset in (plain, other):
        method = bind(pal.PRDC(**SMALL_DATA, beta=0.5), dataset)
        goals.append(method.goal(minibatch(method, 64)))
    same = (goals[0] == goals[1]).all(1).float().mean()
    assert same > 0.9  # the small constant in the deviation weighs less in large numbers


def test_without_a_weight_on_states_the_goal_depends_on_the_action_alone():
    method = bind_offline(pal.PRDC(**SMALL_DATA, beta=0.0))
    batch = minibatch(method)
    recorded = method.data.dataset.steps.action
    with torch.no_grad():
        nearest = (method.actor(batch.obs) - recorded.T).abs().argmin(1)
    torch.testing.assert_close(method.goal(batch), recorded[nearest])


def test_with_a_large_weight_on_states_an_update_is_that_of_td3_bc():
    prdc = bind_offline(pal.PRDC(**SMALL_DATA, beta=1e6, policy_delay=1))
    td3_bc = bind_offline(pal.TD3BC(**SMALL_DATA, policy_delay=1))
    batch = minibatch(prdc)
    assert torch.equal(prdc.goal(batch), batch.action)
    assert prdc.update(batch, noise()) == td3_bc.update(batch, noise())
    for ours, theirs in zip(prdc.actor.parameters(), td3_bc.actor.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_where_the_policy_acts_as_recorded_nothing_pulls():
    dataset = random_dataset("Pendulum-v1", 450)
    with torch.no_grad():
        action = bind(pal.PRDC(**SMALL_DATA), dataset).actor(dataset.steps.obs)
    agreed = dataclasses.replace(dataset, steps=dataset.steps.replace(action=action))
    method = bind(pal.PRDC(**SMALL_DATA), agreed)  # the same seed, so the same actor
    batch = minibatch(method)
    torch.testing.assert_close(method.goal(batch), batch.action, rtol=0, atol=1e-6)
    _, outputs = method.actor_loss(batch.obs, method.goal(batch))
    assert float(outputs["policy/distance"].detach()) < 1e-12


@pytest.mark.parametrize(("beta", "picked"), [(1.0, 1.0), (20.0, -1.0)])
def test_the_weight_of_states_decides_a_case_worked_out_by_hand(beta, picked):
    """Pairs (0, -1) and (0.1, 1); at s = 0 the policy does 0.6."""
    box = Box(-1, 1, (1,), np.float32)
    steps = Experience(
        obs=torch.tensor([[0.0], [0.1]]),
        action=torch.tensor([[-1.0], [1.0]]),
        reward=torch.zeros(2),
        next_obs=torch.tensor([[0.1], [0.2]]),
        terminated=torch.zeros(2),
        truncated=torch.tensor([0.0, 1.0]),
    )
    dataset = Dataset("two steps", steps, torch.tensor([0]), box, box)
    method = bind(pal.PRDC(**SMALL_DATA, beta=beta, normalise_obs=False), dataset)
    with torch.no_grad():
        method.actor.net.weights[-1].zero_()
        method.actor.net.biases[-1].fill_(np.arctanh(0.6))
    batch = method.data.dataset.steps[:1]
    assert method.goal(batch).tolist() == [[picked]]
    assert method.goal(batch.replace(row=None)).tolist() == [[picked]]


@pytest.mark.parametrize("k", [2, 5])
def test_a_further_neighbour_is_the_kth_alone_not_a_mean(k):
    method = bind_offline(pal.PRDC(**SMALL_DATA, neighbour=k))
    batch = minibatch(method)
    torch.testing.assert_close(method.goal(batch), brute(method, batch, k))


def test_two_runs_in_one_process_have_an_index_each():
    method = bind_offline(pal.PRDC(**SMALL_DATA))
    bind(pal.PRDC(**SMALL_DATA), random_dataset("Pendulum-v1", 250))
    batch = minibatch(method)
    torch.testing.assert_close(method.goal(batch), brute(method, batch))


def test_images_are_refused():
    space = Box(0, 255, (8, 8, 3), np.uint8)
    plain = random_dataset("Pendulum-v1", 450)
    pixels = torch.zeros(len(plain), 8, 8, 3, dtype=torch.uint8)
    steps = plain.steps.replace(obs=pixels, next_obs=pixels)
    dataset = dataclasses.replace(plain, steps=steps, observation_space=space, env=None)
    with pytest.raises(Unsupported, match="has images"):
        bind(pal.PRDC(**SMALL_DATA), dataset)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta": -1.0}, "beta must not be negative"),
        ({"neighbour": 0}, "neighbour must be at least 1"),
        ({"neighbour": 450}, "neighbour must be less than 450 steps"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(BadSetting, match=message):
        bind_offline(pal.PRDC(**SMALL_DATA, **settings))
