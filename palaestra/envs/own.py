"""Palaestra's own environments under Gymnasium ids, each single and as a batch.

Palaestra's tasks know them; elsewhere, `register_all` comes before `gymnasium.make`.
"""

from __future__ import annotations

from typing import Any

NAMESPACE = "palaestra/"
HORIZONS = (5, 10, 15, 25, 50)
"""Of the combination locks that have a name; `palaestra/CombinationLock-v0` takes any as `horizon`."""
LOCK = "palaestra.envs.lock:CombinationLock"
POINT = "palaestra.envs.point:Point"
ENVIRONMENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "CombinationLock": (LOCK, {}),
    **{f"CombinationLock{horizon}": (LOCK, {"horizon": horizon}) for horizon in HORIZONS},
    "PointGoal": (POINT, {}),
    "RingPoint": (POINT, {"goal": False}),
}
"""Where each is, its batch being the class with `Vector` behind its name, and its settings."""


def register_all() -> None:
    """Make the environments known to `gymnasium.make` and `gymnasium.make_vec`."""
    from gymnasium.envs.registration import register, registry

    for title, (where, settings) in ENVIRONMENTS.items():
        name = f"{NAMESPACE}{title}-v0"
        if name not in registry:
            register(name, where, vector_entry_point=f"{where}Vector", kwargs=settings)
