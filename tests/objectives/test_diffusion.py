"""Denoising diffusion: preconditioning, weights and levels against cases worked by hand."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from palaestra.objectives.diffusion import (
    denoising_loss,
    loss_weight,
    preconditioning,
    sampling_levels,
    training_levels,
)


def test_preconditioning_by_hand():
    # sigma 3, deviation 4: 16/25, 12/5, 1/5, ln(3)/4
    found = [float(c) for c in preconditioning(torch.tensor(3.0, dtype=torch.float64), 4.0)]
    assert found == pytest.approx([0.64, 2.4, 0.2, math.log(3) / 4])


@given(st.floats(1e-3, 1e3), st.floats(0.1, 10))
def test_every_level_weighs_alike_for_the_network(sigma, deviation):
    level = torch.tensor(sigma, dtype=torch.float64)
    _, out, _, _ = preconditioning(level, deviation)
    assert float(loss_weight(level, deviation) * out.square()) == pytest.approx(1.0)


def test_the_loss_averages_elements_and_weighs_rows():
    clean, denoised = torch.zeros(2, 1, 2), torch.tensor([[[1.0, 3.0]], [[2.0, 2.0]]])
    # mean errors 5 and 4; weights (1 + 1) / 1 = 2 and (4 + 1) / 4 = 1.25
    assert float(denoising_loss(denoised, clean, torch.tensor([1.0, 2.0]))) == pytest.approx((2 * 5 + 1.25 * 4) / 2)


def test_a_perfect_denoiser_has_no_loss():
    clean = torch.randn(3, 4, 2)
    assert float(denoising_loss(clean, clean, torch.tensor([0.01, 1.0, 80.0]))) == 0


def test_training_levels_are_log_normal():
    assert training_levels(torch.tensor([0.0, 1.0, -2.0])).log().tolist() == pytest.approx([-1.2, 0.0, -3.6])


def test_sampling_levels_fall_from_the_largest_to_the_smallest_and_then_to_nothing():
    levels = sampling_levels(3, 1.0, 9.0, rho=2.0)
    assert levels.tolist() == pytest.approx([9.0, 4.0, 1.0, 0.0])  # roots 3, 2, 1


@given(st.integers(2, 300))
def test_sampling_levels_are_strictly_falling(steps):
    levels = sampling_levels(steps)
    assert len(levels) == steps + 1 and bool((levels.diff() < 0).all())
