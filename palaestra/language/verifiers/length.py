"""Rewards for how long an answer is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from palaestra.core.errors import require


class SoftOverlong:
    """DAPO's soft punishment of long answers (Yu et al., 2025, arXiv:2503.14476, equation 13) as a reward function.

    0 up to `limit - cache` tokens, -1 from `limit` on, and linear between.
    """

    def __init__(self, limit: int, cache: int):
        require(0 < cache <= limit, f"the cache is at least 1 and at most the limit of {limit} tokens, got {cache}")
        self.limit, self.cache = limit, cache
        self.__name__ = "soft_overlong"

    def __call__(self, completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
        free = self.limit - self.cache
        return [-min(max(len(ids) - free, 0) / self.cache, 1.0) + 0.0 for ids in completion_ids]
