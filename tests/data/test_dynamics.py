"""A one-step model, by which made-up steps are judged."""

from __future__ import annotations

import torch

from palaestra.core.experience import Experience
from palaestra.data.dynamics import OneStepModel

from ..datasets import random_dataset


def model(data) -> OneStepModel:
    return OneStepModel(data, torch.Generator().manual_seed(0))


def test_it_predicts_steps_it_has_not_seen_and_not_ones_that_cannot_be():
    data = random_dataset("Pendulum-v1", 1_250)
    fitted = model(data)
    assert float(fitted.floor) < 0.05
    shuffled = data.steps.replace(next_obs=data.steps.next_obs.roll(7, 0))
    assert float(fitted.error(shuffled)) > 1


def test_linear_dynamics_are_found_exactly_and_followed():
    data = random_dataset("Pendulum-v1", 850)
    obs, action = data.steps.obs, data.steps.action
    data.steps.next_obs = obs + 0.1 * obs.flip(1) + 0.5 * action
    fitted = model(data)
    assert float(fitted.floor) < 1e-4
    torch.testing.assert_close(fitted.step(obs, action), data.steps.next_obs, atol=0.02, rtol=0)


def test_a_column_that_never_changes_is_no_trouble():
    data = random_dataset("Pendulum-v1", 450)
    data.steps.obs[:, 1], data.steps.next_obs[:, 1] = 0.3, 0.3
    fitted = model(data)
    assert bool(fitted.error(data.steps).isfinite())
    assert isinstance(fitted.step(data.steps.obs, data.steps.action), torch.Tensor)
    assert len(Experience(obs=data.steps.obs)) == len(data)
