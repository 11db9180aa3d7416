"""Every random number is a function of seed, stream and counter."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from palaestra.core.seeding import Streams, seed_for

DRAWS = st.lists(st.tuples(st.sampled_from(["act", "update", "replay"]), st.integers(0, 5)), min_size=1, max_size=12)


def draw(streams: Streams, stream: str, counter: int) -> list[float]:
    return torch.rand(3, generator=streams.generator(stream, counter)).tolist()


@given(st.integers(0, 2**31), DRAWS, st.randoms())
def test_draws_do_not_depend_on_the_order_of_calls(seed, draws, order):
    first = Streams(seed)
    table = {which: draw(first, *which) for which in draws}
    order.shuffle(draws)
    second = Streams(seed)
    assert all(draw(second, *which) == table[which] for which in draws)


def test_seeds_streams_and_counters_all_matter():
    seeds = {seed_for(s, name, c) for s in range(5) for name in ("a", "b", "a/1") for c in range(5)}
    assert len(seeds) == 75
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_neighbouring_streams_are_uncorrelated():
    streams = Streams(0)
    rows = torch.stack([torch.randn(2000, generator=streams.generator("noise", c)) for c in range(20)])
    off = torch.corrcoef(rows) - torch.eye(20)
    assert float(off.abs().max()) < 0.1


def test_integers_suit_an_environment():
    assert all(0 <= Streams(s).integer("reset", c) < 2**31 for s in range(20) for c in range(20))


def test_the_global_generator_is_left_alone():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    draw(Streams(0), "act", 0)
    assert torch.equal(torch.rand(3), expected)
