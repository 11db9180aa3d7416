"""What a judge says about some answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass
class Scores:
    """The scores of `n` answers. NaN is no score: leave such answers out."""

    total: Tensor  # (n,) float32, the weighted sum of the parts that apply; NaN if none does or one failed
    parts: dict[str, Tensor]  # (n,) float32 of each function; NaN where it does not apply or failed
    failures: dict[str, int] = field(default_factory=dict)  # on how many answers a function failed, of those that did
    complaints: dict[str, str] = field(default_factory=dict)  # and what was wrong, with an example
    metrics: dict[str, float] = field(default_factory=dict)  # what functions gave to trl's `log_metric`, averaged
    extra: dict[str, list[Any]] = field(default_factory=dict)  # what they gave to `log_extra`: `n` values
