"""What is said of a reward model, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from palaestra.objectives.calibration import above, calibration, correlation


def test_favourites_are_counted_in_bins_of_their_probability():
    gap = torch.tensor([math.log(0.55 / 0.45), -math.log(0.57 / 0.43), math.log(19.0), math.log(19.0), -math.log(19.0)])
    found = calibration(gap, bins=5)
    assert found.pairs.tolist() == [2, 0, 0, 0, 3]
    assert found.predicted[0].item() == pytest.approx(0.56) and found.predicted[4].item() == pytest.approx(0.95)
    assert found.won[0] == 0.5 and found.won[4].item() == pytest.approx(2 / 3)
    assert found.predicted[1].isnan()
    assert found.error.item() == pytest.approx((2 * 0.06 + 3 * 0.95 - 2) / 5)


def test_certain_and_right_is_calibrated_and_ties_are_half_right():
    assert calibration(torch.tensor([50.0, 60.0])).error == 0
    assert calibration(torch.zeros(3)).error == 0


def test_a_correlation_by_hand_and_of_what_does_not_vary():
    assert correlation(torch.tensor([1.0, 2, 3]), torch.tensor([2.0, 4, 6])).item() == pytest.approx(1)
    assert correlation(torch.tensor([1.0, 2, 3]), torch.tensor([1.0, 0, 1])).item() == pytest.approx(0)
    assert correlation(torch.tensor([1.0, 2, 3]), torch.ones(3)) == 0


def test_how_often_one_is_above_the_other_counts_ties_half():
    assert above(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 2.0])).item() == pytest.approx((1 + 0 + 1 + 0.5) / 4)
    assert above(torch.tensor([3.0]), torch.tensor([1.0])) == 1 and above(torch.ones(3), torch.ones(2)) == 0.5
    assert above(torch.zeros(0), torch.ones(2)) == 0.5
