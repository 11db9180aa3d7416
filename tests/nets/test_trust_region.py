"""The trust region's linear algebra, and that the steps of many policies are those of each."""

from __future__ import annotations

import hypothesis.strategies as st
import torch
from hypothesis import given, settings

from palaestra.nets.trust_region import conjugate_gradient


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**20), st.integers(1, 12))
def test_conjugate_gradient_solves_a_positive_definite_system_in_as_many_steps_as_it_has_rows(seed, n):
    g = torch.Generator().manual_seed(seed)
    root, b = torch.randn(n, n, generator=g, dtype=torch.float64), torch.randn(n, generator=g, dtype=torch.float64)
    matrix = root @ root.T + torch.eye(n, dtype=torch.float64)
    x = conjugate_gradient(lambda v: matrix @ v, b, steps=n + 2, tolerance=1e-24)
    torch.testing.assert_close(x, torch.linalg.solve(matrix, b), rtol=1e-6, atol=1e-8)


def test_conjugate_gradient_of_nothing_is_nothing():
    assert conjugate_gradient(lambda v: 2 * v, torch.zeros(3), steps=5).tolist() == [0.0, 0.0, 0.0]
