"""Nearest neighbours are exact, whichever way they are found, and few searches are needed where queries are anchored."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from palaestra.core.errors import BadDataset, BadSetting, Diverged
from palaestra.data import neighbours
from palaestra.data.neighbours import NearestPairs

WAYS = ("tree", "products")


def distances(keys: Tensor, q: Tensor) -> Tensor:
    """All of them, in double precision, `(B, N)`."""
    return torch.cat([(keys.double() - one).norm(dim=1).unsqueeze(0) for one in q.double()])


def drawn(rows: int, columns: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def assert_kth(pairs: NearestPairs, q: Tensor, k: int, row: Tensor | None = None) -> None:
    """The k-th smallest distance is found, to the last digit of the keys' precision, and at the row that is returned."""
    distance, index = pairs.query(q, k, row)
    every = distances(pairs.keys, q)
    at_index = every.gather(1, index.unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(at_index, every.kthvalue(k, dim=1).values, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(distance.double(), at_index, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("columns", [1, 2, 5, 11, 23, 30])
def test_a_thousand_queries_find_what_looking_at_every_row_finds(way, columns):
    keys, q = drawn(3000, columns), drawn(1000, columns, 1)
    _, index = NearestPairs(keys, search=way).query(q)
    assert torch.equal(index, distances(keys, q).argmin(1))


@settings(max_examples=60)
@given(
    st.sampled_from(WAYS),
    st.integers(2, 400),
    st.integers(1, 12),
    st.integers(1, 400),
    st.sampled_from([1e-3, 1.0, 1e6]),
    st.sampled_from([0.0, 1e3]),
    st.integers(0, 2**31),
)
def test_the_kth_neighbour_is_exact_at_any_scale_and_far_from_the_origin(way, rows, columns, k, scale, offset, seed):
    keys = drawn(rows, columns, seed) * scale + offset
    q = torch.cat([drawn(5, columns, seed + 1) * scale + offset, keys[:3]])
    assert_kth(NearestPairs(keys, search=way), q, 1 + k % (rows - 1))


@pytest.mark.parametrize("way", WAYS)
def test_clusters_that_are_much_smaller_than_their_distance_do_not_blur(way):
    near = drawn(500, 4) * 1e-4
    keys = torch.cat([near, near + 100.0])
    assert_kth(NearestPairs(keys, search=way), keys + drawn(1000, 4, 1) * 1e-5, 1)


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_products_stay_exact_when_the_user_lets_them_round_more(precision):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        assert_kth(NearestPairs(drawn(2000, 6), search="products"), drawn(100, 6, 1), 3)
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("way", WAYS)
def test_equal_rows_are_all_as_near(way):
    keys = drawn(3, 2).repeat(5000, 1)
    distance, index = NearestPairs(keys, search=way).query(keys[:6], 4999)
    assert torch.equal(distance, torch.zeros(6)) and torch.equal(keys[index], keys[:6])


@pytest.mark.parametrize("way", WAYS)
def test_a_stored_row_is_at_no_distance_from_itself(way):
    keys = drawn(300, 7) * 1e3 + 1e4
    distance, index = NearestPairs(keys, search=way).query(keys)
    assert torch.equal(index, torch.arange(300)) and torch.equal(distance, torch.zeros(300))


def test_a_case_worked_out_by_hand():
    """Two pairs (s, a) = (0, -1) and (0.1, 1), the query s = 0 and 0.6: what is near depends on the weight of the state."""
    for beta, row, others in ((1.0, 1, (1.6, 0.17**0.5)), (20.0, 0, (1.6, 4.16**0.5))):
        pairs = NearestPairs(torch.tensor([[0.0, -1.0], [0.1 * beta, 1.0]]))
        distance, index = pairs.query(torch.tensor([[0.0, 0.6]]))
        assert index.tolist() == [row]
        torch.testing.assert_close(distance, torch.tensor([min(others)]))


def anchored(rows: int = 2000) -> tuple[NearestPairs, Tensor]:
    return NearestPairs(drawn(rows, 5), anchored=3), torch.arange(0, rows, 7)


@pytest.mark.parametrize("reach", [0.01, 0.3, 2.0])
def test_anchored_queries_find_the_same_rows(reach):
    pairs, row = anchored()
    for seed in range(3):
        q = pairs.keys[row] + torch.tensor([0, 0, 0, reach, reach]) * drawn(len(row), 5, seed)
        assert_kth(pairs, q, 1, row)
        assert_kth(pairs, q, 2, row)


def test_anchored_queries_near_their_own_row_need_no_search(monkeypatch):
    pairs, row = anchored()
    q = pairs.keys[row]
    pairs.query(q, 1, row)  # which finds the gaps
    monkeypatch.setattr(pairs, "_search", None)
    monkeypatch.setattr(pairs._anchors, "_search", None)
    assert torch.equal(pairs.query(q, 1, row)[1], row)


def test_rows_that_share_their_anchor_are_told_apart():
    """Two actions recorded at one state: the gap is 0 and decides nothing."""
    pairs = NearestPairs(torch.tensor([[0.0, -1.0], [0.0, 1.0], [9.0, 0.0]]), anchored=1)
    _, index = pairs.query(torch.tensor([[0.0, 0.5]]), 1, torch.tensor([0]))
    assert index.tolist() == [1]


def test_the_faster_way_is_taken_until_the_next_look(monkeypatch):
    pairs = NearestPairs(drawn(50, 3))
    slow = type(pairs._ways[0])
    monkeypatch.setattr(neighbours, "_seconds", lambda way, q, k: float(isinstance(way, slow)))
    pairs.query(drawn(1, 3))
    assert not isinstance(pairs._ways[0], slow)
    monkeypatch.setattr(neighbours, "_seconds", lambda way, q, k: float(not isinstance(way, slow)))
    for _ in range(neighbours.LOOK_EVERY - 1):
        pairs.query(drawn(1, 3))
    assert not isinstance(pairs._ways[0], slow)
    pairs.query(drawn(1, 3))
    assert isinstance(pairs._ways[0], slow)


def test_without_scipy_products_do_all(monkeypatch):
    monkeypatch.setattr(neighbours.importlib.util, "find_spec", lambda name: None)
    pairs = NearestPairs(drawn(50, 3))
    assert [type(way).__name__ for way in pairs._ways] == ["_Products"]
    assert_kth(pairs, drawn(4, 3, 1), 2)


def test_two_indices_share_nothing():
    first, second = NearestPairs(torch.zeros(3, 2)), NearestPairs(torch.ones(3, 2))
    assert float(first.query(torch.zeros(1, 2))[0]) == 0.0
    torch.testing.assert_close(second.query(torch.zeros(1, 2))[0], torch.tensor([2**0.5]))


@pytest.mark.parametrize("k", [0, -1, 50, 51])
def test_a_neighbour_that_there_is_not_is_refused(k):
    with pytest.raises(BadSetting, match="k must be between 1 and 49"):
        NearestPairs(drawn(50, 3)).query(drawn(1, 3), k)


def test_what_is_not_finite_has_no_neighbours():
    keys = drawn(50, 3)
    keys[7, 1] = torch.nan
    with pytest.raises(BadDataset, match="row 7 is not finite"):
        NearestPairs(keys)
    with pytest.raises(Diverged, match="not finite"):
        NearestPairs(drawn(50, 3)).query(torch.full((1, 3), torch.inf))


def test_an_unknown_way_is_refused():
    with pytest.raises(BadSetting, match="search must be auto, tree or products"):
        NearestPairs(drawn(5, 3), search="ball")
