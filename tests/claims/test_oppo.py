"""OPPO's verdict on made-up records, and how well nearness ranks."""

from __future__ import annotations

import pytest
import torch

from palaestra.claims import oppo

from .test_verdicts import made_up, not_held

DATA = {"data, mean": -800.0, "data, worst third": -1300.0}
RETURNS = {"oppo": -600.0, "oppo flipped": -1500.0}
MEASURES = {"oppo": {**DATA, "rank correlation": 0.95}, "oppo flipped": {**DATA, "rank correlation": -0.95}}


def test_it_holds_where_labels_steer_the_policy_either_way():
    assert not_held(oppo.claim, made_up(oppo.claim, RETURNS, MEASURES)) == []


@pytest.mark.parametrize(
    ("returns", "ranks", "finding"),
    [
        ({"oppo": -801.0}, {}, "more than the data do in the mean"),
        ({"oppo flipped": -1299.0}, {}, "less than the worst third of the data"),
        ({}, {"oppo": 0.89}, "nearness to z* ranks windows as their rewards do"),
        ({}, {"oppo flipped": -0.89}, "and against them where labels are turned round"),
    ],
)
def test_each_finding_can_fail_by_itself(returns, ranks, finding):
    measures = {
        arm: {**found, "rank correlation": ranks.get(arm, found["rank correlation"])} for arm, found in MEASURES.items()
    }
    (failed,) = not_held(oppo.claim, made_up(oppo.claim, {**RETURNS, **returns}, measures))
    assert finding in failed


def test_ranks_correlate_whatever_the_scale():
    x = torch.tensor([0.1, 3.0, 2.0, 100.0])
    assert oppo.rank_correlation(x, x**3) == pytest.approx(1.0)
    assert oppo.rank_correlation(x, -x) == pytest.approx(-1.0)
    assert oppo.rank_correlation(x, torch.tensor([0.0, 1.0, 2.0, 3.0])) == pytest.approx(0.8)
