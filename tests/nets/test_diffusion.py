"""Samplers against distributions whose denoiser is known, and guidance strength by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from palaestra.core.errors import BadSetting
from palaestra.nets.diffusion import Denoiser, EDMSampler, GuidanceStrength

MEAN, DEVIATION = 0.7, 0.5


def gaussian(x, sigma):
    """The best denoiser of data N(MEAN, DEVIATION^2)."""
    level = sigma.view(-1, 1).square()
    return (DEVIATION**2 * x + level * MEAN) / (DEVIATION**2 + level)


def noise(count: int = 50) -> torch.Tensor:
    return torch.randn(count, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def arrived(x: torch.Tensor) -> torch.Tensor:
    """Where the probability flow from level 80 leads exactly."""
    return MEAN + (80 * x - MEAN) * DEVIATION / math.sqrt(DEVIATION**2 + 80**2)


def test_heun_follows_the_flow_of_gaussian_data():
    found = EDMSampler(steps=256, churn=0.0)(gaussian, noise())
    torch.testing.assert_close(found, arrived(noise()), rtol=0, atol=1e-3)


def test_euler_is_less_exact_and_heun_of_second_order():
    def error(**how):
        return float((EDMSampler(churn=0.0, **how)(gaussian, noise()) - arrived(noise())).abs().max())

    assert error(steps=32) < 0.2 * error(steps=32, heun=False)
    assert error(steps=64) < 0.35 * error(steps=32)
    assert 0.4 < error(steps=64, heun=False) / error(steps=32, heun=False) < 0.6


def test_churn_keeps_the_distribution():
    made = EDMSampler(steps=64, churn=40.0, churn_noise=1.0)(gaussian, noise(20_000), torch.Generator().manual_seed(0))
    assert float(made.mean()) == pytest.approx(MEAN, abs=0.02)
    assert float(made.std()) == pytest.approx(DEVIATION, abs=0.02)


def test_churn_is_drawn_from_the_generator_and_without_it_nothing_is():
    def sample(churn, seed):
        return EDMSampler(steps=8, churn=churn)(gaussian, noise(), torch.Generator().manual_seed(seed))

    assert torch.equal(sample(2.0, 3), sample(2.0, 3))
    assert not torch.equal(sample(2.0, 3), sample(2.0, 4))
    assert torch.equal(sample(0.0, 3), sample(0.0, 4))


def test_churn_stays_in_its_range_and_below_a_doubling_of_variance():
    sampler = EDMSampler(steps=4, churn=80.0)
    assert [sampler._gamma(sigma) for sigma in (80.0, 50.0, 1.0, 0.05, 0.01)] == pytest.approx(
        [0, math.sqrt(2) - 1, math.sqrt(2) - 1, math.sqrt(2) - 1, 0]
    )
    assert EDMSampler(steps=256, churn=16.0)._gamma(1.0) == 16 / 256


def test_an_intervention_sees_every_level_and_replaces_what_is_stepped_from():
    seen = []

    def to_zero(i, x, sigma):
        seen.append((i, float(sigma[0])))
        return torch.zeros_like(x)

    found = EDMSampler(steps=3, churn=0.0)(gaussian, noise(), intervene=to_zero)
    assert [i for i, _ in seen] == [0, 1, 2] and seen[0][1] == 80.0 and seen[2][1] == pytest.approx(0.002)
    # the last step, from 0 at the smallest level, leads to what the denoiser says
    torch.testing.assert_close(found, gaussian(torch.zeros_like(noise()), torch.full((50,), 0.002)))


def test_a_denoiser_returns_x_where_there_is_no_noise_and_the_networks_guess_where_there_is_much():
    class Ones(nn.Module):
        def forward(self, x, time):
            return torch.ones_like(x)

    denoiser, x = Denoiser(Ones()), torch.full((2, 3, 1), 5.0)
    found = denoiser(x, torch.tensor([1e-4, 1e4]))
    torch.testing.assert_close(found[0], x[0], atol=1e-3, rtol=0)
    torch.testing.assert_close(found[1], torch.ones(3, 1), atol=1e-3, rtol=0)


def test_guidance_falls_along_a_line_with_a_bump_and_leaves_the_last_step_alone():
    strength = GuidanceStrength(2.0, bump=0.3)
    assert strength(0, 4) == pytest.approx(2 * (1 + 0.3 * math.sin(math.pi / 4)))
    assert strength(1, 4) == pytest.approx(2 * (0.75 + 0.3))
    assert strength(3, 4) == 0
    assert GuidanceStrength(2.0, bump=0.0)(2, 4) == 1.0
    assert GuidanceStrength(0.0)(1, 4) == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 1}, "at least 2 steps, got 1"),
        ({"smallest": 80.0}, "levels must fall"),
        ({"churn": -1.0}, "churn must be >= 0"),
    ],
)
def test_samplers_that_cannot_be_are_refused(settings, message):
    with pytest.raises(BadSetting, match=message):
        EDMSampler(**settings)
