"""Palaestra's own environments under Gymnasium ids, each single and as a batch.

Gymnasium finds them by itself where palaestra is installed; `register` makes sure of it.
"""

from __future__ import annotations

NAMESPACE = "palaestra/"
HORIZONS = (5, 10, 15, 25, 50)
"""Of the combination locks that have a name; `palaestra/CombinationLock-v0` takes any as `horizon`."""


def register() -> None:
    """Make the environments known to `gymnasium.make` and `gymnasium.make_vec`."""
    import gymnasium

    locks = {"": {}, **{str(horizon): {"horizon": horizon} for horizon in HORIZONS}}
    for suffix, settings in locks.items():
        name = f"{NAMESPACE}CombinationLock{suffix}-v0"
        if name not in gymnasium.registry:
            gymnasium.register(
                name,
                "palaestra.envs.lock:CombinationLock",
                vector_entry_point="palaestra.envs.lock:CombinationLockVector",
                kwargs=settings,
            )
