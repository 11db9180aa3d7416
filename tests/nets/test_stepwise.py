"""A policy for every step: which one acts, and what it may not be asked."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch

import palaestra as pal
from palaestra.core.errors import BadSetting, PalaestraError, Unsupported
from palaestra.nets.stepwise import StepwiseGaussian

BOX = gymnasium.spaces.Box(-2.0, 4.0, (2,))
SEEN = gymnasium.spaces.Box(-1, 1, (3,))


def policy(horizon: int = 3) -> StepwiseGaussian:
    made = StepwiseGaussian(SEEN, BOX, horizon, (4,))
    with torch.no_grad():
        made.mean.biases[-1].copy_(torch.arange(horizon).view(-1, 1, 1).expand(-1, 1, 2) * 10.0)
        made.log_std.copy_(torch.arange(horizon).view(-1, 1, 1).expand(-1, 1, 2).float())
    return made


def test_every_row_is_acted_on_by_the_policy_of_its_step():
    made, obs = policy(), torch.randn(4, 3)
    step = torch.tensor([2, 0, 1, 2])
    action, _, after = made.act(obs, step, greedy=True)
    assert after.tolist() == [3, 1, 2, 3]
    stacked = made.distribution(obs.expand(3, 4, 3)).mean
    torch.testing.assert_close(action, stacked[step, torch.arange(4)])
    sample, logp, _ = made.act(obs, step, generator=torch.Generator().manual_seed(0))
    rows = made.distribution(obs.expand(3, 4, 3)).logp(sample.expand(3, 4, 2))
    torch.testing.assert_close(logp, rows[step, torch.arange(4)])


def test_it_begins_with_a_tenth_of_the_last_layer():
    made = StepwiseGaussian(SEEN, BOX, 2, (4,))
    assert float(made.mean.weights[-1].detach().abs().max()) <= 0.1 / np.sqrt(4)
    assert float(made.mean.biases[-1].detach().abs().max()) == 0
    torch.testing.assert_close(made.distribution(torch.randn(2, 5, 3)).log_std, torch.zeros(2, 1, 2))


def test_without_a_memory_it_is_the_first_step_and_a_player_remembers():
    made = policy()
    first, second = made.predict(np.zeros(3, np.float32)), made.player()
    np.testing.assert_array_equal(second(np.zeros(3, np.float32)), first)
    assert (second(np.zeros(3, np.float32)) - first > 9).all()


def test_actions_go_beyond_the_box():
    # The box's units: half its width is 3, its centre 1.
    np.testing.assert_allclose(policy().env_action(torch.tensor([[2.0, -1.0]])), [[7.0, -2.0]])


def test_a_step_after_the_last_is_refused():
    with pytest.raises(PalaestraError, match="3 steps"):
        policy().act(torch.zeros(1, 3), torch.tensor([3]))
    with pytest.raises(BadSetting, match="horizon"):
        StepwiseGaussian(SEEN, BOX, 0)


def test_images_are_refused():
    with pytest.raises(Unsupported, match="vectors or discrete"):
        StepwiseGaussian(gymnasium.spaces.Box(0, 255, (32, 32, 3), np.uint8), BOX, 2)


def test_discrete_observations_are_one_hot():
    made = StepwiseGaussian(gymnasium.spaces.Discrete(4), BOX, 2, (4,))
    assert made.distribution(torch.zeros(2, 5, dtype=torch.int64)).mean.shape == (2, 5, 2)


def test_it_is_saved_with_its_horizon():
    made = policy()
    loaded = pal.load_policy(made.save("policy"))
    obs = torch.randn(2, 3)
    step = torch.tensor([0, 2])
    assert torch.equal(loaded.act(obs, step, greedy=True).action, made.act(obs, step, greedy=True).action)
