"""Losses of critics that predict distributions: gradients as the formulas say, and where they come to rest."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from palaestra.objectives.distributional import (
    bounded_target,
    gaussian_return,
    gaussian_return_released,
    quantile_huber,
)
from palaestra.objectives.value import huber_error

LOSSES = [gaussian_return, gaussian_return_released]


@pytest.fixture
def numbers() -> dict[str, torch.Tensor]:
    """Two critics, 50 steps, in double precision; errors up to some units of return, far from the Huber corner at 50."""
    g = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    return {
        "q": draw(2, 50).requires_grad_(),
        "std": (0.2 + draw(2, 50).abs()).requires_grad_(),
        "mean_target": draw(50),
        "std_target": 2 * draw(2, 50),
        "scale": 0.5 + draw(2, 1).abs(),
    }


def slopes(loss, n, epsilon):
    value = loss(n["q"], n["std"], n["mean_target"], n["std_target"], n["scale"], epsilon)
    return torch.autograd.grad(value, (n["q"], n["std"]))


def test_the_paper_form_has_the_papers_gradient(numbers):
    n, epsilon = numbers, 0.1
    q_slope, std_slope = slopes(gaussian_return, n, epsilon)
    q, s, w = n["q"].detach(), n["std"].detach(), n["scale"]
    torch.testing.assert_close(q_slope, -w * (n["mean_target"] - q) / (s**2 + epsilon) / 50, rtol=0, atol=1e-12)
    expected = -w * ((n["std_target"] - q) ** 2 - s**2) / (s**3 + epsilon) / 50
    torch.testing.assert_close(std_slope, expected, rtol=0, atol=1e-12)


def test_the_released_form_has_the_released_gradient(numbers):
    n, epsilon = numbers, 0.1
    q_slope, std_slope = slopes(gaussian_return_released, n, epsilon)
    q, s = n["q"].detach(), n["std"].detach()
    rho = (n["scale"] / (s**2 + epsilon)).clamp(0.1, 10)
    torch.testing.assert_close(q_slope, rho * (q - n["mean_target"]) / 50, rtol=0, atol=1e-12)
    expected = rho * (s**2 - 0.5 * (q - n["std_target"]) ** 2) / (s + epsilon) / 50
    torch.testing.assert_close(std_slope, expected, rtol=0, atol=1e-12)


def test_the_released_form_grows_linearly_beyond_fifty():
    q, std = torch.tensor([[1000.0]], requires_grad=True), torch.tensor([[1.0]])
    zero = torch.zeros(1)
    (slope,) = torch.autograd.grad(gaussian_return_released(q, std, zero, zero, 1.0, 0.0), q)
    assert float(slope) == 50.0


def test_without_epsilon_the_paper_form_is_the_negative_log_likelihood(numbers):
    n = {**numbers, "scale": 1.0, "std_target": numbers["mean_target"].expand(2, 50)}
    likelihood = torch.distributions.Normal(n["q"], n["std"]).log_prob(n["mean_target"])
    expected = torch.autograd.grad(-likelihood.mean(-1).sum(), (n["q"], n["std"]))
    torch.testing.assert_close(slopes(gaussian_return, n, 0.0), expected)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_critic_that_is_exactly_right_is_left_alone(loss):
    """Mean on the target, and a sample so far off that the deviation's two terms cancel."""
    q, std = torch.full((1, 4), 3.0, requires_grad=True), torch.full((1, 4), 2.0, requires_grad=True)
    off = 2.0 * math.sqrt(2) if loss is gaussian_return_released else 2.0
    value = loss(q, std, torch.full((4,), 3.0), torch.full((4,), 3.0 + off), 1.0, 0.1)
    for slope in torch.autograd.grad(value, (q, std)):
        torch.testing.assert_close(slope, torch.zeros_like(slope), atol=1e-5, rtol=0)


def settled_std(loss, bound_in_std: float) -> float:
    """Where gradient descent leaves (q, sigma) for one state whose returns are N(1, 2^2), with gamma = 0.

    The returns are 20,001 quantiles instead of samples, so that nothing here is random.
    """
    levels = (torch.arange(20_001, dtype=torch.float64) + 0.5) / 20_001
    returns = 1 + 2 * math.sqrt(2) * torch.erfinv(2 * levels - 1)
    q, std = (torch.tensor([[x]], dtype=torch.float64, requires_grad=True) for x in (0.0, 1.0))
    for _ in range(400):
        target = bounded_target(returns, q, bound_in_std * std.detach())
        value = loss(q.expand(1, len(returns)), std.expand(1, len(returns)), returns, target, std.detach() ** 2, 0.1)
        with torch.no_grad():
            for x, slope in zip((q, std), torch.autograd.grad(value, (q, std)), strict=True):
                x -= 0.3 * slope
    assert float(q.detach()) == pytest.approx(1.0, abs=1e-4)
    return float(std.detach())


@pytest.mark.parametrize(
    ("loss", "bound", "settles_at"),
    [
        (gaussian_return, 3.0, 1.995),
        (gaussian_return, 100.0, 2.0),
        (gaussian_return_released, 3.0, 1.362),
        (gaussian_return_released, 100.0, math.sqrt(2)),
    ],
)
def test_the_deviation_settles_at_its_fixed_point(loss, bound, settles_at):
    assert settled_std(loss, bound) == pytest.approx(settles_at, abs=2e-3)


@pytest.mark.parametrize("loss", LOSSES)
@given(c=st.floats(0.01, 100))
def test_in_other_units_of_return_the_step_points_the_same_way(loss, c):
    """With eps = 0, scaling returns, mean, deviation, bound and the root of the scale by c changes no direction.

    The paper form's slopes scale by c as the critic's own outputs do. In the released form they do so only inside
    the Huber corner, to which the numbers keep.
    """
    q, s = torch.tensor([[0.3, -0.2]], dtype=torch.float64), torch.tensor([[0.5, 0.4]], dtype=torch.float64)
    y, z = (torch.tensor(x, dtype=torch.float64) for x in ([0.1, 0.25], [0.45, -0.45]))

    def step(c):
        q_c, s_c = (c * q).requires_grad_(), (c * s).requires_grad_()
        target = bounded_target(c * z, q_c, 3 * c * 0.05)
        return torch.cat(torch.autograd.grad(loss(q_c, s_c, c * y, target, (c * 0.45) ** 2, 0.0), (q_c, s_c)))

    torch.testing.assert_close(step(c), c * step(1.0), rtol=1e-9, atol=0)


@given(st.floats(-50, 50), st.floats(-50, 50), st.floats(0, 10))
def test_a_bounded_target_is_within_the_bound_and_is_the_sample_where_that_is(sample, q, bound):
    sample, q = torch.tensor([sample], dtype=torch.float64), torch.tensor([[q]], dtype=torch.float64)
    target = bounded_target(sample, q, bound)
    assert float((target - q).abs()) <= bound + 1e-9
    if float((sample - q).abs()) <= bound:
        torch.testing.assert_close(target, sample.expand(1, 1))


def test_each_critic_has_its_own_bound():
    target = bounded_target(torch.tensor([10.0]), torch.zeros(2, 1), torch.tensor([[1.0], [4.0]]))
    assert target.flatten().tolist() == [1.0, 4.0]


def test_one_quantile_at_one_half_is_half_the_huber_loss():
    q, y = torch.randn(6, 1) * 3, torch.randn(6, 1) * 3
    torch.testing.assert_close(quantile_huber(q, y), 0.5 * huber_error(q[:, 0], y[:, 0], 1.0))


def test_quantile_huber_sums_over_own_quantiles_and_averages_over_those_of_the_target():
    # tau = (1/4, 3/4); errors y - q: own 0: (1, -1), own 1: (0, -2); weights (1/4, 3/4), (3/4, 1/4)
    # own 0: (1/4 * 1/2 + 3/4 * 1/2) / 2 = 1/4; own 1: (0 + 1/4 * 3/2) / 2 = 3/16
    loss = quantile_huber(torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, -1.0]]))
    assert float(loss) == 0.25 + 0.1875


def test_the_released_form_weighs_by_the_targets_quantiles_the_last_of_which_is_1():
    # tau = (1/2, 1) along the targets: weights (1/2, 0) for own 0 and (1/2, 0) for own 1
    loss = quantile_huber(torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, -1.0]]), released=True)
    assert float(loss) == 0.5 * 0.5 / 2


def test_quantiles_that_minimise_their_loss_are_the_quantiles_and_the_released_ones_are_not():
    target = torch.linspace(0, 10, 101).unsqueeze(0)
    found = {}
    for released in (False, True):
        q = torch.linspace(-5, 15, 5).unsqueeze(0).requires_grad_()
        optimiser = torch.optim.Adam([q], lr=0.1)
        for _ in range(600):
            optimiser.zero_grad()
            quantile_huber(q, target, delta=0.01, released=released).backward()
            optimiser.step()
        found[released] = q.detach()[0]
    torch.testing.assert_close(found[False], torch.tensor([1.0, 3.0, 5.0, 7.0, 9.0]), atol=0.2, rtol=0)
    assert float(found[True].max() - found[True].min()) < 0.5


def test_quantile_losses_of_several_learners_are_one_number_each():
    q, y = torch.randn(3, 4, 5), torch.randn(3, 4, 5)
    torch.testing.assert_close(quantile_huber(q, y), torch.stack([quantile_huber(q[i], y[i]) for i in range(3)]))


@pytest.mark.parametrize("released", [False, True])
def test_the_written_gradient_of_the_quantile_loss_is_its_slope(released):
    g = torch.Generator().manual_seed(0)
    q, y = (3 * torch.randn(2, 4, 5, generator=g, dtype=torch.float64) for _ in range(2))
    assert torch.autograd.gradcheck(lambda q: quantile_huber(q, y, 1.3, released), q.requires_grad_())
