"""pass@k and coverage: against brute force, and where they are known."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from palaestra.core.errors import BadSetting
from palaestra.objectives.coverage import chance_of_pass, coverage, pass_at_k


@pytest.mark.parametrize("n", [1, 2, 5, 7])
def test_pass_at_k_is_the_share_of_all_choices_that_hold_a_right_one(n):
    for c in range(n + 1):
        right = [1] * c + [0] * (n - c)
        for k in range(1, n + 1):
            choices = list(combinations(right, k))
            share = sum(any(choice) for choice in choices) / len(choices)
            assert float(pass_at_k(torch.tensor(c), n, k)) == pytest.approx(share, abs=1e-12)


def test_pass_at_k_by_hand():
    found = pass_at_k(torch.tensor([0, 1, 3, 4]), 4, 2)
    torch.testing.assert_close(found, torch.tensor([0.0, 0.5, 1.0, 1.0], dtype=torch.float64))


def test_the_mean_of_pass_at_k_is_the_chance_of_a_pass():
    p, n, k = 0.3, 12, 5
    binomial = torch.distributions.Binomial(n, torch.tensor(p, dtype=torch.float64))
    count = torch.arange(n + 1.0, dtype=torch.float64)
    mean = (binomial.log_prob(count).exp() * pass_at_k(count, n, k)).sum()
    assert float(mean) == pytest.approx(1 - (1 - p) ** k, abs=1e-12)
    assert float(chance_of_pass(torch.tensor(p), k)) == pytest.approx(1 - (1 - p) ** k, abs=1e-7)


@given(st.integers(1, 2000), st.data())
def test_pass_at_k_lies_between_0_and_1_and_grows_with_k(n, data):
    c = data.draw(st.integers(0, n))
    k = data.draw(st.integers(1, n))
    found = [float(pass_at_k(torch.tensor(c), n, j)) for j in (1, k, n)]
    assert found[0] == pytest.approx(c / n, abs=1e-9)
    assert -0.0 <= found[0] <= found[1] + 1e-9 and found[1] <= found[2] + 1e-9 and found[2] == float(c > 0)


def test_no_right_answer_is_a_plain_zero():
    assert str(float(pass_at_k(torch.tensor(0), 256, 128))) == "0.0"


@pytest.mark.parametrize(("c", "n", "k"), [(1, 4, 5), (5, 4, 2), (-1, 4, 2), (1, 4, 0)])
def test_what_cannot_be_estimated_is_refused(c, n, k):
    with pytest.raises(BadSetting):
        pass_at_k(torch.tensor(c), n, k)


def test_raising_a_rare_success_pays_most_at_as_many_tries_as_it_is_rare():
    # (1 + e) p in place of p changes pass@N by (1-p)^N - (1-(1+e)p)^N, which is largest near N = 1/p.
    p, e = 0.02, 0.1
    n = torch.arange(1, 400)
    gain = torch.tensor(
        [float(chance_of_pass(torch.tensor((1 + e) * p), k) - chance_of_pass(torch.tensor(p), k)) for k in n]
    )
    closed = (1 - p) ** n.double() - (1 - (1 + e) * p) ** n.double()
    torch.testing.assert_close(gain.double(), closed, atol=1e-6, rtol=0)
    assert int(n[gain.argmax()]) == pytest.approx(1 / p, rel=0.1)


def test_coverage_by_hand():
    probability = torch.tensor([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0], [0.2, 0.3, 0.5]])
    right = torch.tensor([[True, True, False], [False, True, True], [False, False, False]])
    found = coverage(probability, right, 2)
    torch.testing.assert_close(found.float(), torch.tensor([(0.75 + 0.4375) / 2, 0.0, 0.0]))
