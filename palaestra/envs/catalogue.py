"""The environments that a user can name, without making them: most need their simulator to say what their spaces are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from palaestra.core import registry, spaces
from palaestra.core.task import as_task
from palaestra.envs import own

# Gymnasium's and palaestra's own. A Box of shape (n,) is written n; `tests/envs/test_catalogue.py` makes each of them.
KNOWN = {
    "classic control": {
        "Acrobot-v1": ("Box 6", "Discrete 3"),
        "CartPole-v1": ("Box 4", "Discrete 2"),
        "MountainCar-v0": ("Box 2", "Discrete 3"),
        "MountainCarContinuous-v0": ("Box 2", "Box 1"),
        "Pendulum-v1": ("Box 3", "Box 1"),
    },
    "MuJoCo": {
        "Ant-v5": ("Box 105", "Box 8"),
        "HalfCheetah-v5": ("Box 17", "Box 6"),
        "Hopper-v5": ("Box 11", "Box 3"),
        "Humanoid-v5": ("Box 348", "Box 17"),
        "HumanoidStandup-v5": ("Box 348", "Box 17"),
        "InvertedDoublePendulum-v5": ("Box 9", "Box 1"),
        "InvertedPendulum-v5": ("Box 4", "Box 1"),
        "Pusher-v5": ("Box 23", "Box 7"),
        "Reacher-v5": ("Box 10", "Box 2"),
        "Swimmer-v5": ("Box 8", "Box 2"),
        "Walker2d-v5": ("Box 17", "Box 6"),
    },
    "Box2D": {
        "BipedalWalker-v3": ("Box 24", "Box 4"),
        "BipedalWalkerHardcore-v3": ("Box 24", "Box 4"),
        "CarRacing-v3": ("Box 96x96x3 uint8", "Box 3"),
        "LunarLander-v3": ("Box 8", "Discrete 4"),
        "LunarLanderContinuous-v3": ("Box 8", "Box 2"),
    },
    "palaestra": {
        "palaestra/CombinationLock-v0": ("Box 16", "Box 10"),
        "palaestra/CombinationLock5-v0": ("Box 16", "Box 10"),
        "palaestra/CombinationLock10-v0": ("Box 16", "Box 10"),
        "palaestra/CombinationLock15-v0": ("Box 32", "Box 10"),
        "palaestra/CombinationLock25-v0": ("Box 32", "Box 10"),
        "palaestra/CombinationLock50-v0": ("Box 64", "Box 10"),
        "palaestra/PointGoal-v0": ("Box 4", "Box 2"),
        "palaestra/RingPoint-v0": ("Box 4", "Box 2"),
    },
    "toy text": {
        "Blackjack-v1": ("Tuple(Discrete 32, Discrete 11, Discrete 2)", "Discrete 2"),
        "CliffWalking-v1": ("Discrete 48", "Discrete 4"),
        "CliffWalkingSlippery-v1": ("Discrete 48", "Discrete 4"),
        "FrozenLake-v1": ("Discrete 16", "Discrete 4"),
        "FrozenLake8x8-v1": ("Discrete 64", "Discrete 4"),
        "Taxi-v4": ("Discrete 500", "Discrete 6"),
    },
}
KINDS = {"Box": "box", "Discrete": "discrete", "MultiDiscrete": "multi_discrete", "MultiBinary": "multi_binary"}


class Listed(NamedTuple):
    """A task as a list shows it."""

    name: str
    group: str
    observations: str
    actions: str
    action_kind: str
    """As `spaces.kind` names it; empty where it is not known without making the environment."""


def catalogue(names: Sequence[str] = ()) -> list[Listed]:
    """Every task that can be named: palaestra's own, Gymnasium's, and those that installed packages registered with it.

    With `names`, these alone; what is none of palaestra's own tasks is made once to see its spaces. Only the newest version of an
    environment is listed.
    """
    if names:
        return [_seen(name) for name in names]
    others = [name for name in registry.table("tasks") if name not in registry.TASKS]
    made = [_registered(name, registry.locate(where)) for name, where in registry.TASKS.items()]
    return [*(Listed(name, "registered", "", "", "") for name in others), *_of_gymnasium(), *made]


def text_of(space: Any) -> str:
    """A space in a few words: Box 17, Discrete 4."""
    kind = spaces.kind(space)
    if kind in ("dict", "tuple"):
        parts = spaces.children(space)
        inner = [text_of(sub) if kind == "tuple" else f"{key}: {text_of(sub)}" for key, sub in parts.items()]
        return f"{kind.capitalize()}({', '.join(inner)})"
    if kind == "box":
        pixels = " uint8" if spaces.is_image(space) else ""
        return f"Box {'x'.join(map(str, space.shape))}{pixels}"
    if kind == "text":
        return "text"
    if kind == "discrete":
        return f"Discrete {space.n}"
    return f"{type(space).__name__} {'x'.join(map(str, getattr(space, 'nvec', space.shape)))}"


def _seen(name: str) -> Listed:
    if name in registry.TASKS:
        return _registered(name, registry.locate(registry.TASKS[name]))
    task = as_task(name)
    action = task.action_space
    return Listed(name, "made just now", text_of(task.observation_space), text_of(action), spaces.kind(action))


def _registered(name: str, task: Any) -> Listed:
    if task.offers == "prompts":
        return Listed(name, "text", task.summary, "text", "text")
    return Listed(name, "comparisons", task.summary, "any", "")


def _of_gymnasium() -> list[Listed]:
    from gymnasium import registry as registered

    own.register_all()
    known = [
        Listed(name, group, observations, actions, KINDS[actions.split()[0]])
        for group, members in KNOWN.items()
        for name, (observations, actions) in members.items()
        if name in registered
    ]
    listed = {registered[item.name].name for item in known}
    newest: dict[tuple[str | None, str], Any] = {}
    for spec in registered.values():
        key = (spec.namespace, spec.name)
        if spec.name not in listed and (key not in newest or (spec.version or 0) > (newest[key].version or 0)):
            newest[key] = spec
    others = [
        Listed(spec.id, spec.namespace or "other", "", "", "")
        for spec in newest.values()
        if isinstance(spec.entry_point, str) or spec.namespace  # Gymnasium's adapters for gym are functions without one
    ]
    return known + sorted(others, key=lambda item: (item.group, item.name))
