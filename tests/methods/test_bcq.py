"""Batch-constrained Q-learning: which actions it bootstraps from and takes, and how it models the data's."""

from __future__ import annotations

import math

import pytest
import torch

import palaestra as pal
from palaestra.core.errors import BadSetting

from .tiny import SMALL_DATA, answering, bind_offline, cartpole_batch


def bound(**settings):
    return bind_offline(pal.BCQ(**SMALL_DATA, **settings), "CartPole-v1")


def pretend(method, prior: list[float]) -> None:
    """The online network prefers action 1; the target network says 2 and 4."""
    answering(method.q, [0.0, 1.0])
    answering(method.target, [2.0, 4.0])
    method.q.behaviour = lambda obs: torch.tensor([prior]).log().expand(4, -1)


def test_threshold_zero_is_double_dqn():
    method = bound(gamma=0.5, threshold=0.0)
    pretend(method, [1 - 1e-6, 1e-6])
    assert method.goal(cartpole_batch()).tolist() == [3.0] * 4


def test_a_threshold_just_below_one_takes_the_likeliest_action():
    method = bound(gamma=0.5, threshold=1 - 1e-6)
    pretend(method, [0.51, 0.49])
    assert method.goal(cartpole_batch()).tolist() == [2.0] * 4


@pytest.mark.parametrize(("prior", "target"), [([0.8, 0.2], 2.0), ([0.7, 0.3], 3.0)])
def test_an_action_enters_the_target_if_it_is_likely_enough(prior, target):
    method = bound(gamma=0.5, threshold=0.3)
    pretend(method, prior)
    assert method.goal(cartpole_batch()).tolist() == [target] * 4


def test_the_loss_adds_the_likelihood_and_the_size_of_the_logits_by_hand():
    method = bound(gamma=0.0, logit_penalty=0.5)
    answering(method.q, [1.0, 1.0])
    method.q.behaviour = lambda obs: torch.tensor([[math.log(3.0), 0.0]]).expand(4, -1)
    loss, metrics = method.loss(cartpole_batch())
    assert float(metrics["loss/critic"]) == 0.0
    likelihood = -0.5 * (math.log(0.75) + math.log(0.25))  # of actions 0, 1, 1, 0
    assert float(metrics["loss/actor"]) == pytest.approx(likelihood)
    assert float(loss) == pytest.approx(likelihood + 0.5 * math.log(3.0) ** 2 / 2)


def test_all_of_it_is_learnt_and_the_filter_is_saved_with_the_policy():
    method = bound()
    before = [p.clone() for p in method.q.parameters()]
    method.step()
    assert not any(torch.equal(a, b) for a, b in zip(before, method.q.parameters(), strict=True))
    loaded = pal.load_policy(method.policy().save("policy"))
    obs = torch.randn(20, 4)
    assert torch.equal(loaded.act(obs, greedy=True).action, method.q.preferences(obs).argmax(-1))


@pytest.mark.parametrize("settings", [{"threshold": 1.0}, {"threshold": -0.1}, {"logit_penalty": -1.0}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(BadSetting, match=next(iter(settings))):
        bound(**settings)
