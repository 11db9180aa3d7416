"""A2C: its one gradient step on a case worked out by hand, what does not move the policy, clipping and annealing."""

from __future__ import annotations

import math

import gymnasium
import pytest
import torch

import palaestra as pal
from palaestra.core.method import Budget


class TwoActions(gymnasium.Env):
    """A task with one number to see and two actions to choose from; nobody acts in it."""

    observation_space = gymnasium.spaces.Box(-10, 10, (1,))
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}


BATCH = pal.Experience(
    obs=torch.tensor([[1.0], [2.0]]),
    action=torch.tensor([0, 1]),
    advantage=torch.tensor([3.0, -1.0]),
    target=torch.tensor([0.5, 2.0]),
)
"""Two steps. Where all parameters are 0, both actions have probability 1/2 and both values are 0."""
LOOSE = {"max_grad_norm": 1e6}


def bound(**changes) -> pal.A2C:
    """Linear actor and critic, all their parameters 0."""
    method = pal.A2C(network=(), num_envs=1, **changes).bind(pal.EnvTask(TwoActions), 0, Budget(steps=1000))
    with torch.no_grad():
        for parameter in method.policy().parameters():
            parameter.zero_()
    return method


def gradients(method: pal.A2C) -> dict[str, list[float]]:
    """Those that the last update descended."""
    policy = method.policy()
    nets = {"actor": policy.actor, "critic": policy.critic}
    return {
        f"{name} {part}": next(iter(getattr(net, part))).grad.flatten().tolist()
        for name, net in nets.items()
        for part in ("weights", "biases")
    }


def test_the_losses_are_those_worked_out_by_hand():
    metrics = bound(**LOOSE).learn(BATCH)
    assert metrics["loss/policy"].item() == pytest.approx(math.log(2))  # -(3 log 1/2 - 1 log 1/2) / 2
    assert metrics["loss/value"].item() == pytest.approx((0.5**2 + 2**2) / 4)
    assert metrics["policy/entropy"].item() == pytest.approx(math.log(2))


def test_the_gradient_is_that_worked_out_by_hand():
    method = bound(**LOOSE)
    norm = method.learn(BATCH)["policy/gradient_norm"].item()
    # d loss / d logits = -A (chosen - 1/2) / 2: (-3/4, 3/4) and (-1/4, 1/4); d loss / d value = 1/2 · 2 (V - R) / 2.
    expected = {
        "actor weights": [-0.75 * 1 - 0.25 * 2, 0.75 * 1 + 0.25 * 2],
        "actor biases": [-1.0, 1.0],
        "critic weights": [-0.25 * 1 - 1.0 * 2],
        "critic biases": [-1.25],
    }
    found = gradients(method)
    assert found == {name: pytest.approx(values) for name, values in expected.items()}
    assert norm == pytest.approx(math.sqrt(sum(g * g for values in expected.values() for g in values)))


def test_the_first_step_is_rmsprops():
    """Its mean square starts at 0, so that the first step is lr g / (sqrt(0.01 g²) + 1e-5)."""
    method = bound(**LOOSE, lr=0.01)
    method.learn(BATCH)
    for parameter in method.policy().parameters():
        g = parameter.grad
        torch.testing.assert_close(parameter.detach(), -0.01 * g / (0.1 * g.abs() + 1e-5))


def test_the_entropy_bonus_pulls_towards_indifference():
    """With probabilities 4/5 and 1/5, dH/d logit = -p (log p + H)."""
    method = bound(**LOOSE, entropy_weight=0.1)
    with torch.no_grad():
        method.policy().actor.biases[0][0] = math.log(4)
    method.learn(BATCH.replace(advantage=torch.zeros(2)))
    entropy = -0.8 * math.log(0.8) - 0.2 * math.log(0.2)
    slope = 0.1 * 0.8 * (math.log(0.8) + entropy)
    assert gradients(method)["actor biases"] == pytest.approx([slope, -slope])
    assert slope > 0


def test_a_zero_advantage_teaches_the_values_alone():
    method = bound()
    method.learn(BATCH.replace(advantage=torch.zeros(2)))
    assert all(not p.any() for p in method.policy().actor.parameters())
    assert all(p.all() for p in method.policy().critic.parameters())


def test_values_that_are_right_already_are_left_alone():
    method = bound()
    method.learn(BATCH.replace(target=torch.zeros(2)))
    assert all(not p.any() for p in method.policy().critic.parameters())


def test_the_value_weight_scales_the_critics_gradient_alone():
    once, twice = bound(**LOOSE), bound(**LOOSE, value_weight=1.0)
    once.learn(BATCH)
    twice.learn(BATCH)
    first, second = gradients(once), gradients(twice)
    assert second["critic biases"] == pytest.approx([2 * g for g in first["critic biases"]])
    assert second["actor weights"] == first["actor weights"]


@pytest.mark.parametrize("standardise", [False, True])
def test_a_single_step_is_learnt_from_too(standardise):
    """A standardised advantage of one step is 0: there is nothing to compare it with."""
    method = bound(standardise_advantage=standardise)
    metrics = method.learn(BATCH.take(torch.tensor([0])))
    assert all(torch.isfinite(value) for value in metrics.values())
    assert all(p.isfinite().all() for p in method.policy().parameters())
    assert any(p.any() for p in method.policy().actor.parameters()) is not standardise


def test_standardised_advantages_do_not_depend_on_their_scale():
    usual, large = bound(standardise_advantage=True), bound(standardise_advantage=True)
    usual.learn(BATCH)
    large.learn(BATCH.replace(advantage=100 * BATCH.advantage + 7))
    for a, b in zip(usual.policy().parameters(), large.policy().parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_a_gradient_longer_than_the_limit_keeps_its_direction_and_is_cut_to_it():
    free, cut = bound(**LOOSE), bound(max_grad_norm=0.5)
    said = [method.learn(BATCH)["policy/gradient_norm"].item() for method in (free, cut)]
    assert said[0] == said[1] > 0.5, "what is logged is the norm before it was cut"
    long, short = (torch.cat([p.grad.flatten() for p in method.policy().parameters()]) for method in (free, cut))
    torch.testing.assert_close(short.norm(), torch.tensor(0.5))
    torch.testing.assert_close(short / 0.5, long / long.norm())


def test_a_gradient_shorter_than_the_limit_is_left_as_it_is():
    free, cut = bound(**LOOSE), bound(max_grad_norm=5.0)
    for method in (free, cut):
        method.learn(BATCH)
    assert gradients(free) == gradients(cut)


def test_the_learning_rate_is_annealed_to_nothing_over_the_budget():
    method = bound(anneal=True, lr=0.01, **LOOSE)
    for steps, rate in ((250, 0.0075), (500, 0.005), (1000, 0.0)):
        method.counters.steps = steps
        before = [p.clone() for p in method.policy().parameters()]
        method.learn(BATCH)
        assert method.rmsprop.param_groups[0]["lr"] == pytest.approx(rate)
    assert all(torch.equal(a, b) for a, b in zip(before, method.policy().parameters(), strict=True))


def test_the_learning_rate_stays_as_it_is_by_default():
    method = bound(lr=0.01)
    method.counters.steps = 500
    method.learn(BATCH)
    assert method.rmsprop.param_groups[0]["lr"] == 0.01


def test_one_rollout_is_one_update():
    method = pal.A2C(network=(4,), num_envs=2, rollout_steps=3).bind(pal.EnvTask("CartPole-v1"), 0, Budget(steps=100))
    for round_ in range(1, 4):
        method.step()
        assert (method.counters.updates, method.counters.steps) == (round_, 6 * round_)


@pytest.mark.parametrize(("setting", "value"), [("max_grad_norm", 0), ("max_grad_norm", -1.0), ("lam", 1.1)])
def test_a_setting_out_of_range_is_refused(setting, value):
    with pytest.raises(pal.PalaestraError, match=setting):
        bound(**{setting: value})


def test_a_rollout_of_one_step_trains():
    run = pal.train(
        pal.A2C(num_envs=1, rollout_steps=1, network=(4,)), "CartPole-v1", steps=20, quiet=True, tensorboard=False
    )
    assert run.finished
