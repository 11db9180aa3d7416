"""HNPG: what its critics are fitted to, which states its natural gradient sees, and what it refuses."""

from __future__ import annotations

import dataclasses

import gymnasium
import numpy as np
import pytest
import torch

import palaestra as pal
from palaestra.core.errors import BadDataset, BadSetting, Unsupported
from palaestra.core.experience import Experience
from palaestra.core.method import Budget
from palaestra.data.dataset import Dataset
from palaestra.data.episodes import assemble, play
from palaestra.data.make import behaviours
from palaestra.data.task import DatasetTask
from palaestra.envs.task import EnvTask
from palaestra.methods.hybrid.hnpg import HNPG

from ..datasets import random_dataset
from .tiny import noise

LOCK, H = "palaestra/CombinationLock-v0", 3
TINY = {"batch_steps": 30, "network": (4,), "critic_network": (4,), "critic_steps": 2, "value_samples": 2}


@pytest.fixture(scope="module")
def logged() -> Dataset:
    task = EnvTask(LOCK, {"horizon": H})
    policy, _ = behaviours(task)["near-optimal-20k"]
    return assemble("lock", play(task, policy, seed=0, episodes=200), task)


def bound(dataset: Dataset, seed: int = 0, **settings) -> HNPG:
    return HNPG(**{**TINY, **settings}).bind(DatasetTask(dataset), seed, Budget(steps=10_000))


def test_an_iteration_is_whole_episodes_with_their_returns_to_go(logged):
    method = bound(logged, batch_steps=31)
    on = method.collect()
    assert on.reward.shape == (H, 11)
    torch.testing.assert_close(on.target, on.reward.flip(0).cumsum(0).flip(0))


def test_logged_steps_are_those_of_their_own_place_in_the_episode(logged):
    method = bound(logged)
    off = method.logged(500, noise())
    plain = off.obs @ behaviours(EnvTask(LOCK, {"horizon": H}))["near-optimal-20k"][0].rotation / 8
    assert (plain[:, :, 3 : 3 + H].argmax(-1) == torch.arange(H).unsqueeze(1)).all()
    assert len(off.obs[0].unique(dim=0)) > 150, "drawn from all episodes"


def test_targets_are_bellmans_with_the_critic_that_was_just_fitted(logged, monkeypatch):
    method = bound(logged, critic_steps=5)
    seen = []
    fit = HNPG.fit

    def watched(self, place, on, off):
        seen.append((place.start, off.target.clone(), [p.clone() for p in self.critics.parameters()]))
        return fit(self, place, on, off)

    monkeypatch.setattr(HNPG, "fit", watched)
    on, off = method.collect(), method.logged(10, noise())
    next_obs = off.next_obs.roll(1, 0)
    actions = method.actor.distribution(next_obs).sample(noise())
    method.evaluate(on, off, noise())
    assert [h for h, *_ in seen] == [2, 1, 0]
    torch.testing.assert_close(seen[0][1], off.reward[2:])
    q = method.critics.q(next_obs, actions)  # of the critics as they are in the end
    torch.testing.assert_close(seen[1][1][0], off.reward[1] + q[2])
    torch.testing.assert_close(seen[2][1][0], off.reward[0] + q[1])


def test_a_fit_moves_one_critic_and_starts_adam_anew(logged):
    method = bound(logged)
    on = Experience(obs=torch.randn(1, 6, 8), action=torch.randn(1, 6, 10), target=torch.ones(1, 6))
    start = [p.detach().clone() for p in method.critics.parameters()]
    after = []
    for _ in range(2):
        with torch.no_grad():
            for p, s in zip(method.critics.parameters(), start, strict=True):
                p.copy_(s)
        method.fit(slice(1, 2), on, on)
        after.append([p.detach().clone() for p in method.critics.parameters()])
    for p, first, second in zip(start, *after, strict=True):
        assert torch.equal(first, second), "nothing is remembered between fits"
        assert torch.equal(first[[0, 2]], p[[0, 2]]) and not torch.equal(first[1], p[1])


def test_the_loss_weighs_returns_by_lambda_and_is_theirs_alone_without_the_data(logged):
    on = Experience(obs=torch.randn(1, 6, 8), action=torch.randn(1, 6, 10), target=torch.ones(1, 6))
    off = Experience(obs=torch.randn(1, 4, 8), action=torch.randn(1, 4, 10), target=torch.zeros(1, 4))
    method = bound(logged, online_weight=3.0)
    errors = [(method.critic.q(b.obs, b.action) - b.target).square().mean() / 2 for b in (on, off)]
    loss, said = method.critic_loss(on, off)
    torch.testing.assert_close(loss, 3 * errors[0] + errors[1])
    torch.testing.assert_close(said["loss/offline"], errors[1])
    alone, said = bound(logged, hybrid=False).critic_loss(on, off)
    torch.testing.assert_close(alone, errors[0])
    assert list(said) == ["loss/online"]


def test_without_data_nothing_logged_has_a_part(logged):
    spoilt = dataclasses.replace(logged, steps=logged.steps.replace(reward=logged.steps.reward + 5.0))
    states = []
    for dataset in (logged, spoilt):
        method = bound(dataset, hybrid=False)
        method.step()
        states.append([p.clone() for p in (*method.actor.parameters(), *method.critics.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))
    hybrid = bound(spoilt)
    hybrid.step()
    assert not all(torch.equal(a, b) for a, b in zip(states[0], hybrid.actor.parameters(), strict=False))


def test_advantages_worked_by_hand(logged):
    method = bound(logged, lam=0.5, online_weight=2.0)
    method.values = lambda obs, noise: torch.tensor([[1.0], [2.0], [4.0]])
    zeros = torch.zeros(3, 1)
    on = Experience(
        obs=torch.zeros(3, 1, 8),
        action=torch.zeros(3, 1, 10),
        reward=torch.tensor([[0.0], [0.5], [1.0]]),
        terminated=torch.tensor([[0.0], [0.0], [1.0]]),
        truncated=zeros,
    )
    batch = method.with_advantages(on, noise())
    # Errors 0 + 2 - 1, 0.5 + 4 - 2 and 1 - 4; the sum halves at every step.
    assert batch.advantage.flatten().tolist() == [1 + 0.5 * (2.5 - 1.5), 2.5 - 1.5, -3.0]
    assert batch.weight.flatten().tolist() == [2.0, 2.0, 2.0]


def test_logged_states_are_acted_on_by_the_present_policy(logged):
    method = bound(logged, value_samples=400)
    with torch.no_grad():
        method.actor.mean.biases[-1].fill_(3.0)
    off = method.logged(50, noise())
    imagined = method.imagined(off, noise())
    assert float(imagined.action.mean()) == pytest.approx(3.0, abs=0.2)
    # An advantage has no mean under the policy.
    assert float(imagined.advantage.mean()) == pytest.approx(0.0, abs=3 * float(imagined.advantage.std()) / 150**0.5)


def test_every_policy_moves_within_its_own_trust_region(logged):
    method = bound(logged, batch_steps=300)
    on, off = method.collect(), method.logged(100, noise())
    method.evaluate(on, off, noise())
    states = torch.cat([on.obs, off.obs], 1)
    old = method.actor.distribution(states).detach()
    said = method.improve(on, off, noise())
    kl = old.kl(method.actor.distribution(states)).mean(-1)
    assert (kl > 1e-4).all() and (kl < 0.02).all()
    torch.testing.assert_close(said["policy/kl"], kl.mean().detach(), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"online_weight": -1.0}, "lambda"),
        ({"max_kl": 0.0}, "max_kl"),
        ({"least_gain": 1.0}, "least_gain"),
        ({"critic_steps": 0}, "critic_steps"),
        ({"line_search_shrink": 1.0}, "line_search_shrink"),
        ({"critic_network": torch.nn.Linear}, "critic_network must be hidden sizes"),
    ],
)
def test_settings_out_of_range_are_refused(logged, settings, words):
    with pytest.raises(BadSetting, match=words):
        bound(logged, **settings)


def test_it_needs_data_whose_episodes_have_one_length(logged):
    with pytest.raises(Unsupported, match="--dataset"):
        HNPG().bind(EnvTask(LOCK), 0, Budget(steps=100))
    ragged = random_dataset("Pendulum-v1", 450)
    with pytest.raises(BadDataset, match="200 steps"):
        bound(ragged)


class Short(gymnasium.Env):
    """What the lock shows, but its episodes end after two steps."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (8,))
    action_space = gymnasium.spaces.Box(-1, 1, (10,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return np.zeros(8, np.float32), {}

    def step(self, action):
        self.time += 1
        return np.zeros(8, np.float32), 0.0, self.time == 2, False, {}


def test_an_environment_whose_episodes_are_not_as_long_is_refused(logged):
    method = HNPG(**TINY).bind(DatasetTask(logged, EnvTask(Short)), 0, Budget(steps=100))
    with pytest.raises(Unsupported, match="all last 3 steps"):
        method.step()


@pytest.mark.slow
def test_it_opens_a_lock_of_two_steps():
    task = EnvTask(LOCK, {"horizon": 2})
    policy, _ = behaviours(task)["near-optimal-20k"]
    dataset = assemble("lock", play(task, policy, seed=0, episodes=2_000), task)
    run = pal.train(HNPG(batch_steps=400), DatasetTask(dataset), steps=16_000, out="run", quiet=True, tensorboard=False)
    assert run.metrics[-1]["evaluation/return"] > 0.8
