"""Palaestra's own environments under Gymnasium ids, each single and as a batch.

Palaestra's tasks know them; elsewhere, `register_all` comes before `gymnasium.make`.
"""

from __future__ import annotations

NAMESPACE = "palaestra/"
HORIZONS = (5, 10, 15, 25, 50)
"""Of the combination locks that have a name; `palaestra/CombinationLock-v0` takes any as `horizon`."""


def register_all() -> None:
    """Make the environments known to `gymnasium.make` and `gymnasium.make_vec`."""
    from gymnasium.envs.registration import register, registry

    locks = {"": {}, **{str(horizon): {"horizon": horizon} for horizon in HORIZONS}}
    for suffix, settings in locks.items():
        name = f"{NAMESPACE}CombinationLock{suffix}-v0"
        if name not in registry:
            register(
                name,
                "palaestra.envs.lock:CombinationLock",
                vector_entry_point="palaestra.envs.lock:CombinationLockVector",
                kwargs=settings,
            )
