"""On-policy methods take a step on every kind of observation and action, and keep to action masks."""

from __future__ import annotations

import pytest
import torch

import palaestra as pal
from palaestra.core import registry
from palaestra.core.errors import Unsupported
from palaestra.core.method import make_method

from ..environments import ACTIONS, OBSERVATIONS, Spaces

ON_POLICY = ["a2c", "mdpo", "ppo", "reinforce", "trpo"]


def bound(name: str, steps: int = 1000, **kwargs) -> pal.Method:
    method = make_method(name, {"network": (8,), "num_envs": 2, "rollout_steps": 12})
    return method.bind(pal.EnvTask(Spaces, kwargs), seed=0, budget=pal.Budget(steps=steps))


def test_the_list_of_on_policy_methods_is_whole():
    from palaestra.methods.online.on_policy import OnPolicy

    judged = ["reward-agent", "spo"]  # whose tasks have a judge, and whose tests are elsewhere
    assert sorted(n for n in registry.METHODS if issubclass(registry.method_class(n), OnPolicy)) == sorted(
        ON_POLICY + judged
    )


@pytest.mark.parametrize("name", ON_POLICY)
@pytest.mark.parametrize("actions", ACTIONS)
def test_every_kind_of_action_is_learnt_from(name, actions):
    method = bound(name, actions=actions)
    before = [p.clone() for p in method.policy().actor.parameters()]
    metrics = method.step()
    assert all(bool(torch.isfinite(value).all()) for value in metrics.values())
    assert any(not torch.equal(a, b) for a, b in zip(before, method.policy().actor.parameters(), strict=True))


@pytest.mark.parametrize("name", ON_POLICY)
@pytest.mark.parametrize("observations", OBSERVATIONS)
def test_every_kind_of_observation_is_taken(name, observations):
    method = bound(name, observations=observations)
    method.step()
    space = method.task.observation_space
    space.seed(0)
    assert method.task.action_space.contains(method.policy().predict(space.sample()))


@pytest.mark.parametrize("name", ON_POLICY)
@pytest.mark.parametrize("actions", ["discrete", "multi_discrete"])
def test_disallowed_actions_are_never_chosen_and_have_no_probability(name, actions):
    method = bound(name, actions=actions, masked=True)  # the environment raises on a disallowed action
    for _ in range(3):
        method.step()
    method.task.evaluate(method.policy(), episodes=3, seed=1)
    obs = torch.zeros(1, 3)
    n = 4 if actions == "discrete" else 5
    mask = torch.zeros(1, n, dtype=torch.bool)
    mask[0, 1] = mask[0, -1] = True
    policy = method.policy()
    drawn = policy.act(obs.expand(200, -1), action_mask=mask.expand(200, -1)).action
    allowed = {1, 3} if actions == "discrete" else {(1, 1)}
    assert {x if actions == "discrete" else tuple(x) for x in drawn.tolist()} <= allowed


def test_a_mask_over_continuous_actions_is_refused():
    policy = bound("ppo", actions="box").policy()
    with pytest.raises(Unsupported, match="action mask makes no sense"):
        policy.act(torch.zeros(1, 3), action_mask=torch.ones(1, 2, dtype=torch.bool))


def test_mdpo_off_refuses_discrete_actions_and_names_methods_that_fit():
    with pytest.raises(Unsupported, match=r"mdpo-off needs box actions.*trpo"):
        make_method("mdpo-off").bind(pal.EnvTask(Spaces), seed=0, budget=pal.Budget(steps=10))
