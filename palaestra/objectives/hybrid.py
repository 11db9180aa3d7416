"""Hybrid policy evaluation (Zhou et al., arXiv 2311.08384): regression on logged targets and on fresh returns at once."""

from __future__ import annotations

from torch import Tensor

from palaestra.objectives.value import squared_error


def hybrid_squared_error(
    logged: Tensor, target: Tensor, fresh: Tensor, returns: Tensor, online_weight: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Algorithm 1 (HPE), its regression: mean (f(s, a) - y_Bellman)^2 over logged steps + lambda mean (f(s, a) - R)^2 over the
    policy's own, halved; and the two terms, without lambda. All inputs `(B,)` or `(P, B)`.
    """
    offline, online = squared_error(logged, target), squared_error(fresh, returns)
    return offline + online_weight * online, offline, online
