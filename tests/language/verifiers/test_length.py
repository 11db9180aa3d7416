"""The soft punishment of long answers."""

from __future__ import annotations

import pytest

from palaestra.core.errors import BadSetting
from palaestra.language.verifiers.length import SoftOverlong


def test_it_falls_from_0_to_minus_1_over_the_cache():
    lengths = [0, 16, 17, 18, 20, 21]
    found = SoftOverlong(20, 4)(
        completion_ids=[[7] * n for n in lengths], completions=[""] * len(lengths), prompts=None
    )
    assert found == [0.0, 0.0, -0.25, -0.5, -1.0, -1.0]
    assert str(found[0]) == "0.0"


def test_a_cache_of_the_whole_limit_punishes_every_token():
    assert SoftOverlong(4, 4)(completion_ids=[[1], [1] * 4]) == [-0.25, -1.0]


@pytest.mark.parametrize(("limit", "cache"), [(20, 0), (20, 21), (0, 0), (20, -1)])
def test_a_cache_that_is_not_between_1_and_the_limit_is_refused(limit, cache):
    with pytest.raises(BadSetting):
        SoftOverlong(limit, cache)
