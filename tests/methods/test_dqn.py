"""DQN: targets with masks, double and dueling, the epsilon schedule, and a task it must solve."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch

import palaestra as pal
from palaestra.core.errors import BadSetting, Unsupported
from palaestra.nets.q_network import QNetwork

from .tiny import SMALL, Corridor, answering, bind, cartpole_batch, noise


def target_error(method, values: list[float], chosen: list[float], **fields) -> float:
    """The critic's loss where the target network answers `values` and the online one, elsewhere, `chosen`."""
    answering(method.target, values)
    answering(method.q, chosen)
    loss, metrics = method.loss(cartpole_batch(reward=torch.ones(4), **fields))
    assert metrics["loss/critic"] == loss
    return float(loss)


def test_an_update_reports_the_loss_and_lowers_it():
    method = bind(pal.DQN(**SMALL), "CartPole-v1")
    loss, _ = method.loss(cartpole_batch())
    assert method.update(cartpole_batch(), noise())["loss/critic"] == loss
    assert method.loss(cartpole_batch())[0] < loss


def test_the_target_is_the_reward_plus_the_discounted_maximum():
    # y = 1 + 0.5 * 4 = 3 against Q = 2 throughout: 1/2 * 1
    assert target_error(bind(pal.DQN(**SMALL, gamma=0.5), "CartPole-v1"), [4.0, 0.0], [2.0, 2.0]) == 0.5


def test_double_prices_the_online_networks_choice_by_the_target_network():
    # the online network prefers action 1, worth 2 to the target network: y = 1 + 0.5 * 2 = 2; Q = (0, 1, 1, 0)
    error = target_error(bind(pal.DQN(**SMALL, gamma=0.5, double=True), "CartPole-v1"), [4.0, 2.0], [0.0, 1.0])
    assert error == pytest.approx((2.0 + 0.5 + 0.5 + 2.0) / 4)


def test_the_huber_loss_is_an_option():
    # as above, but an error of 2 costs 2 - 1/2
    method = bind(pal.DQN(**SMALL, gamma=0.5, double=True, huber=1.0), "CartPole-v1")
    assert target_error(method, [4.0, 2.0], [0.0, 1.0]) == pytest.approx((1.5 + 0.5 + 0.5 + 1.5) / 4)


def test_after_an_end_the_target_is_the_reward():
    method = bind(pal.DQN(**SMALL, gamma=0.5), "CartPole-v1")
    assert target_error(method, [99.0, 99.0], [1.0, 1.0], terminated=torch.ones(4)) == 0.0


def test_a_time_limit_does_not_stop_the_bootstrap():
    method = bind(pal.DQN(**SMALL, gamma=0.5), "CartPole-v1")
    assert target_error(method, [4.0, 0.0], [2.0, 2.0], truncated=torch.ones(4)) == 0.5


def test_an_action_that_is_not_allowed_next_is_not_bootstrapped_from():
    method = bind(pal.DQN(**SMALL, gamma=0.5), "CartPole-v1")
    mask = torch.tensor([[False, True]]).expand(4, 2)
    # y = 1 + 0.5 * 0 = 1
    assert target_error(method, [4.0, 0.0], [1.0, 1.0], next_action_mask=mask) == 0.0


def test_the_target_network_is_copied_at_every_so_many_updates():
    method = bind(pal.DQN(**SMALL, target_every=2), "CartPole-v1")
    same = []
    for method.counters.updates in range(4):
        method.update(cartpole_batch(), noise())
        pairs = zip(method.target.parameters(), method.q.parameters(), strict=True)
        same.append(all(torch.equal(a, b) for a, b in pairs))
    assert same == [False, True, False, True]


def test_advantages_in_a_dueling_network_average_to_zero():
    space = gymnasium.spaces.Box(-1, 1, (4,))
    network = QNetwork(space, gymnasium.spaces.Discrete(3), (8,), dueling=True)
    obs = torch.randn(5, 4)
    value = network.value_net(obs)
    torch.testing.assert_close(network(obs).mean(-1, keepdim=True), value)
    torch.testing.assert_close(network(obs).argmax(-1), network.net(obs).argmax(-1))


def test_epsilon_falls_linearly_over_its_share_of_the_budget_and_then_stays():
    method = bind(pal.DQN(**SMALL, epsilon_share=0.5, epsilon_end=0.1), "CartPole-v1", steps=100)
    seen = []
    for method.counters.steps in (0, 25, 50, 100):
        seen.append(method.exploration)
    assert seen == pytest.approx([1.0, 0.55, 0.1, 0.1])


def test_a_share_of_zero_is_the_final_epsilon_from_the_start():
    method = bind(pal.DQN(**SMALL, epsilon_share=0.0, epsilon_end=0.1), "CartPole-v1")
    assert method.exploration == pytest.approx(0.1)


def test_epsilon_is_saved_with_the_policy():
    method = bind(pal.DQN(**SMALL), "CartPole-v1", steps=40)
    for _ in range(3):
        method.step()
    loaded = pal.load_policy(method.policy().save("policy"))
    assert 0 < float(loaded.epsilon) < 1
    assert float(loaded.epsilon) == float(method.q.epsilon)


@pytest.mark.parametrize("epsilon", [0.0, 1.0])
def test_random_actions_come_as_often_as_epsilon_says_and_never_from_the_greedy_policy(epsilon):
    network = QNetwork(gymnasium.spaces.Box(-1, 1, (4,)), gymnasium.spaces.Discrete(3), (8,))
    network.epsilon.fill_(epsilon)
    obs = torch.zeros(3000, 4)
    best = network.act(obs, greedy=True).action
    torch.testing.assert_close(best, network(obs).argmax(-1))
    other = (network.act(obs, generator=noise()).action != best).float().mean()
    assert float(other) == pytest.approx(epsilon * 2 / 3, abs=0.03)


@pytest.mark.parametrize("greedy", [True, False])
def test_only_allowed_actions_are_taken(greedy):
    network = QNetwork(gymnasium.spaces.Box(-1, 1, (4,)), gymnasium.spaces.Discrete(3), (8,))
    mask = torch.tensor([[False, True, False], [True, False, True]]).repeat(50, 1)
    action = network.act(torch.randn(100, 4), greedy=greedy, generator=noise(), action_mask=mask).action
    assert mask.gather(1, action.unsqueeze(1)).all()


def test_it_learns_the_corridor_with_masks_and_numbered_actions():
    """Actions start at 10 and one of them is never allowed; right four times is worth 1."""
    settings = {"network": (32,), "lr": 5e-3, "steps_per_round": 1, "warmup_steps": 50, "gamma": 0.9}
    engine = {"quiet": True, "tensorboard": False, "evaluate_episodes": 2, "evaluate_every": 0, "checkpoint_every": 0}
    run = pal.train(pal.DQN(**settings), Corridor, steps=1200, out="run", **engine)
    assert run.metrics[-1]["evaluation/return"] == 1.0
    assert run.metrics[-1]["evaluation/length"] == 4.0


def test_replayed_masks_belong_to_their_own_observations():
    class Parity(Corridor):
        """The allowed actions tell the parity of the cell."""

        def _info(self):
            return {"action_mask": np.array([0, 1, self.cell % 2], dtype=np.int8)}

    method = bind(pal.DQN(**SMALL, steps_per_round=40), Parity)
    method.step()
    rows = method.replay.sample(64)
    assert torch.equal(rows.action_mask[:, 2], rows.obs % 2 == 1)
    assert torch.equal(rows.next_action_mask[:, 2], rows.next_obs % 2 == 1)


def test_it_learns_from_images():
    class Pixels(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(0, 255, (12, 12, 3), dtype="uint8")
        action_space = gymnasium.spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return self.observation_space.low, {}

        def step(self, action):
            return self.observation_space.high, 0.0, False, False, {}

    method = bind(pal.DQN(**SMALL, dueling=True), Pixels)
    before = [p.clone() for p in method.q.encoder.parameters()]
    for _ in range(3):
        method.step()
    assert not any(torch.equal(a, b) for a, b in zip(before, method.q.encoder.parameters(), strict=True))


def test_continuous_actions_are_refused_and_methods_that_fit_are_named():
    with pytest.raises(Unsupported, match=r"dqn needs discrete actions.*Pendulum-v1.*methods that fit:.*sac"):
        bind(pal.DQN(**SMALL), "Pendulum-v1")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target_every": 0}, "target_every must be at least 1"),
        ({"epsilon_end": 1.5}, r"epsilon_end must be between 0 and 1"),
        ({"huber": 0.0}, "huber must be positive"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(BadSetting, match=message):
        bind(pal.DQN(**settings), "CartPole-v1")
