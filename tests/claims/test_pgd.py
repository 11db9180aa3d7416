"""PGD's claim: its verdict on made-up records, and what it measures by."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch

from palaestra.claims import pgd
from palaestra.claims.claim import Record, Records
from palaestra.core.experience import Experience
from palaestra.core.policy import Acted, Policy

from ..datasets import random_dataset

MEASURES = {
    "distance, 0": 0.5,
    "distance, 1": 0.05,
    "dynamics, 0": 1e-3,
    "dynamics, 1": 2e-3,
    "td3-bc, real": -300.0,
    "td3-bc, unguided": -250.0,
    "td3-bc, guided": -200.0,
}


def not_held(*seeds: dict[str, float]) -> list[str]:
    records = Records(Record(pgd.TASK, i, ((1, 0.0),), MEASURES | changed) for i, changed in enumerate(seeds))
    return [finding.sentence for finding in pgd.small_verdict(records) if not finding.held]


def test_it_holds_where_actions_come_near_dynamics_stay_and_agents_gain():
    assert not_held({}, {}) == []


FAILS = {
    "5 times nearer": {"distance, 1": 0.11},
    "less than 3 times as large": {"dynamics, 1": 3.1e-3},
    "guided steps, compared with unguided": {"td3-bc, guided": -310.0},
    "unguided steps, compared with real": {"td3-bc, unguided": -400.0},
}


@pytest.mark.parametrize("words", FAILS)
def test_each_finding_can_fail_by_one_seed(words):
    [sentence] = not_held({}, FAILS[words])
    assert words in sentence


def test_agents_must_gain_on_average_alone():
    assert not_held({}, {"td3-bc, guided": -240.0}) == []


def test_the_pendulums_equations_are_gymnasiums():
    env = gymnasium.make("Pendulum-v1").unwrapped
    obs, action = random_dataset("Pendulum-v1", 450).steps.obs[:50], torch.linspace(-1, 1, 50).view(-1, 1)
    found = pgd.pendulum(obs, action)
    for before, torque, after in zip(obs, action, found, strict=True):
        env.reset()
        env.state = np.array([np.arctan2(before[1], before[0]), before[2]])
        expected, *_ = env.step(2 * torque.numpy())
        np.testing.assert_allclose(after, expected, atol=1e-4)


def test_real_steps_have_no_error_and_no_distance_from_their_own_policy():
    class Still(Policy):
        def act(self, obs, carry=None, **how):
            return Acted(torch.zeros(len(obs), 1), None, carry)

    data = random_dataset("Pendulum-v1", 450)
    assert pgd.pendulum_error(data.steps) < 1e-8
    policy = Still(data.observation_space, data.action_space)
    still = data.steps.replace(action=torch.zeros(len(data), 1))
    assert pgd.distance(still, policy) == 0
    assert pgd.distance(still.replace(action=torch.full((len(data), 1), 0.5)), policy) == 0.25
    followed = pgd.autoregressive(data, policy, 3)
    assert isinstance(followed, Experience) and followed.next_obs.shape == (3 * pgd.SMALL.trajectories, 3)
