"""Critic-regularised regression: which actions it clones, whose actions it bootstraps from, and how it acts."""

from __future__ import annotations

import math

import pytest
import torch

import palaestra as pal
from palaestra.core.errors import BadSetting

from .tiny import SMALL_DATA, answering, bind_offline, cartpole_batch, noise


def bound(**settings):
    return bind_offline(pal.CRR(**SMALL_DATA, **settings), "CartPole-v1")


def forcing(*actions: int) -> torch.Tensor:
    """Noise that makes the samples these actions, whatever the policy, `(4, len, 2)`."""
    return 1e6 * torch.nn.functional.one_hot(torch.tensor(actions), 2).float().expand(4, -1, -1)


def test_only_actions_better_than_the_mean_of_the_sampled_ones_are_cloned():
    method = bound(gamma=0.0, samples=2)
    answering(method.q, [1.0, 3.0])
    method.actor.net.forward = lambda x: torch.tensor([[math.log(3.0), 0.0]]).expand(4, -1)
    # samples 0 and 1 are worth 2 on average: of actions 0, 1, 1, 0 the two worth 3 are better
    _, metrics = method.loss(cartpole_batch(), forcing(0, 1, 0))
    assert float(metrics["policy/better"]) == 0.5
    assert float(metrics["loss/actor"]) == pytest.approx(-0.5 * math.log(0.25))


def test_an_action_that_equals_all_the_samples_is_no_better_and_is_not_cloned():
    method = bound(gamma=0.0, samples=4)
    answering(method.q, [0.1, 0.7])
    action = torch.ones(4, dtype=torch.int64)
    _, metrics = method.loss(cartpole_batch(action=action), forcing(1, 1, 1, 1, 0))
    assert float(metrics["policy/better"]) == 0.0
    assert float(metrics["loss/actor"]) == 0.0


@pytest.mark.parametrize(("sampled", "target"), [(0, 2.0), (1, 3.0)])
def test_the_target_takes_a_sample_of_the_target_policy_at_the_target_networks_price(sampled, target):
    method = bound(gamma=0.5, samples=1)
    answering(method.target, [2.0, 4.0])
    answering(method.q, [100.0, 100.0])
    assert method.goal(cartpole_batch(), forcing(0, sampled)).tolist() == [target] * 4


def test_samples_are_drawn_as_often_as_the_policy_says():
    method = bind_offline(pal.CRR(network=(8,), batch_size=4000), "CartPole-v1")
    (drawn,) = method.draw(noise())
    assert drawn.shape == (4000, 5, 2)
    obs = torch.zeros(4000, 4)
    dist = method.actor.distribution(obs)
    assert float(dist.drawn(drawn).float().mean()) == pytest.approx(float(dist.logits[0, 1].exp()), abs=0.02)


def test_both_target_networks_are_copied_together():
    method = bound(target_every=2)
    for _ in range(2):
        method.step()
    pairs = ((method.target, method.q), (method.target_actor, method.actor))
    for target, online in pairs:
        assert all(torch.equal(a, b) for a, b in zip(target.parameters(), online.parameters(), strict=True))


def test_the_actors_loss_does_not_reach_the_critic():
    method = bound(gamma=0.0)
    batch, (drawn,) = cartpole_batch(), method.draw(noise())
    with_actor = torch.autograd.grad(method.loss(batch, drawn)[0], list(method.q.parameters()))
    alone = torch.autograd.grad(pal.DQNOffline.loss(method, batch, drawn)[0], list(method.q.parameters()))
    for a, b in zip(with_actor, alone, strict=True):
        torch.testing.assert_close(a, b)


def test_it_acts_by_sampling_in_evaluation_too():
    method = bound()
    method.actor.net.forward = lambda x: torch.zeros(len(x), 2)
    acted = method.policy().act(torch.zeros(2000, 4), greedy=True, generator=noise()).action
    assert float(acted.float().mean()) == pytest.approx(0.5, abs=0.05)


def test_there_must_be_a_sample():
    with pytest.raises(BadSetting, match="samples must be at least 1"):
        bound(samples=0)
