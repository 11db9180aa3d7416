"""The bias that DSAC-T's claim measures is the critics' error, whatever the time limit."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch

import palaestra as pal
from palaestra.claims.dsac_t import measure

GAMMA = 0.9


class Steady(gymnasium.Env):
    """Pays 1 for every step, for ever."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,))
    action_space = gymnasium.spaces.Box(-1, 1, (1,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), 1.0, False, False, {}


@pytest.fixture
def steady():
    gymnasium.register("Steady-v0", Steady, max_episode_steps=4)
    yield "Steady-v0"
    del gymnasium.registry["Steady-v0"]


@pytest.mark.parametrize("scale", [1.0, 5.0])
@pytest.mark.parametrize("cls", [pal.SAC, pal.DSACT])
def test_bias_is_what_the_critics_say_less_what_is_earned(steady, cls, scale):
    settings = {"network": (4,), "batch_size": 8, "warmup_steps": 1_000, "gamma": GAMMA, "alpha": 0.0}
    run = pal.train(cls(**settings, reward_scale=scale), steady, steps=40, quiet=True, tensorboard=False)
    with torch.no_grad():
        for weight in run.method.critics.net.weights:
            weight.zero_()  # the critic says the same of every action
        said = run.method.critics.q(torch.zeros(1, 2), torch.zeros(1, 1)).amin(0).item()
    earned = 1 / (1 - GAMMA)
    assert measure(run)["bias"] == pytest.approx(said / scale - earned, abs=0.01)


def test_methods_without_a_soft_critic_have_no_bias(steady):
    run = pal.train(pal.TD3(network=(4,), batch_size=8), steady, steps=10, quiet=True, tensorboard=False)
    assert measure(run) == {}
