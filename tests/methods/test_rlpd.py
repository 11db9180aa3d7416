"""RLPD: half of a batch is logged, a few critics give the target, and the actor waits for the last update."""

from __future__ import annotations

import pytest
import torch

from palaestra.core.errors import BadSetting
from palaestra.core.method import Budget
from palaestra.data.dataset import Dataset
from palaestra.data.task import DatasetTask
from palaestra.envs.task import EnvTask
from palaestra.methods.hybrid.rlpd import RLPD
from palaestra.methods.online.sac import SAC

from ..datasets import random_dataset
from .tiny import SMALL, noise, pendulum_batch


@pytest.fixture(scope="module")
def logged() -> Dataset:
    dataset = random_dataset("Pendulum-v1", 400)
    dataset.steps = dataset.steps.replace(reward=torch.full_like(dataset.steps.reward, 7.0))
    return dataset


def bound(dataset: Dataset, **settings) -> RLPD:
    small = {**SMALL, "critics_count": 3, "updates_per_round": 2, **settings}
    return RLPD(**small).bind(DatasetTask(dataset), 0, Budget(steps=100))


@pytest.mark.parametrize(("batch", "count"), [(8, 4), (5, 2)])
def test_half_of_a_batch_is_logged(logged, batch, count):
    method = bound(logged, batch_size=batch)
    for _ in range(9):
        method.step()
    drawn = method.minibatch()
    assert len(drawn) == batch
    assert int((drawn.reward == 7.0).sum()) == count


def test_logged_steps_may_be_in_the_buffer_instead(logged):
    method = bound(logged, offline="buffer", buffer_size=500)
    assert len(method.replay) == 400
    for _ in range(9):
        method.step()
    assert len(method.replay) == 409
    with pytest.raises(BadSetting, match="400 steps"):
        bound(logged, offline="buffer")


def test_with_two_plain_critics_and_one_update_it_is_soft_actor_critic(logged):
    plain = {"critics_count": 2, "critic_layer_norm": False, "actor_q": "min", "target_entropy": -1.0}
    method = bound(logged, **plain, updates_per_round=1)
    host = SAC(**SMALL, target_entropy=-1.0).bind(EnvTask("Pendulum-v1"), 0, Budget(steps=100))
    method.target_critics = 2
    batch, drawn = pendulum_batch(), torch.zeros(4, 1)
    alpha = torch.tensor(0.5)
    for among in (None, torch.tensor([1, 0])):
        ours, theirs = method.critic_loss(batch, alpha, drawn, among)[0], host.critic_loss(batch, alpha, drawn)[0]
        assert torch.equal(ours, theirs)
    assert torch.equal(method.actor_loss(batch.obs, alpha, drawn)[0], host.actor_loss(batch.obs, alpha, drawn)[0])


def test_the_target_is_the_least_of_the_critics_that_were_drawn(logged):
    method = bound(logged, gamma=1.0)
    method.targets.q = lambda obs, action: torch.tensor([[5.0], [3.0], [1.0]]).expand(3, 4)
    method.critics.q = lambda obs, action: torch.zeros(3, 4, requires_grad=True)
    batch = pendulum_batch(reward=torch.zeros(4))
    for among, least in (([0, 1], 3.0), ([0], 5.0), ([0, 2], 1.0)):
        loss, _ = method.critic_loss(batch, torch.tensor(0.0), torch.zeros(4, 1), torch.tensor(among))
        assert loss.item() == pytest.approx(3 * least**2 / 2)


def test_the_actor_moves_at_the_last_update_of_a_round(logged):
    method = bound(logged, updates_per_round=3)
    batch = pendulum_batch()
    moved = []
    for _ in range(6):
        before = [p.clone() for p in method.actor.parameters()]
        method.update(batch, noise())
        method.counters.updates += 1
        moved.append(not all(torch.equal(a, b) for a, b in zip(before, method.actor.parameters(), strict=True)))
    assert moved == [False, False, True, False, False, True]


def test_entropy_aims_at_half_of_what_soft_actor_critic_does(logged):
    assert bound(logged).entropy_goal == -0.5
    assert bound(logged, target_entropy=-3.0).entropy_goal == -3.0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"target_critics": 4}, "target_critics must be 1 to critics_count"),
        ({"offline": "all"}, "half or buffer"),
        ({"batch_size": 1}, "batch_size"),
    ],
)
def test_settings_out_of_range_are_refused(logged, settings, words):
    with pytest.raises(BadSetting, match=words):
        bound(logged, **settings)
