"""The one table of names: methods, policies, claims and tasks, each a name and where it lives.

Nothing is imported until it is asked for. Other packages add rows through entry points in the groups
`palaestra.methods`, `palaestra.claims` and `palaestra.tasks`; a path such as `my_method.py:MyMethod` or a
module path `package.module:Class` names a method without registering it.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from palaestra.core.errors import BadCheckpoint, PalaestraError, unknown

METHODS = {
    "sac": "palaestra.methods.online.sac:SAC",
    "ppo": "palaestra.methods.online.ppo:PPO",
}

CLAIMS: dict[str, str] = {}

POLICIES = {
    "squashed-gaussian": "palaestra.nets.actors:SquashedGaussianActor",
    "actor-critic": "palaestra.nets.actor_critic:ActorCritic",
    "tabular": "palaestra.nets.tabular:Tabular",
}


@cache
def table(group: str) -> dict[str, str]:
    """The names of a group ('methods', 'claims' or 'tasks') with those that installed packages add."""
    own = {"methods": METHODS, "claims": CLAIMS, "tasks": {}}[group]
    added = {point.name: point.value for point in entry_points(group=f"palaestra.{group}")}
    return {**added, **own}


def method_class(name: str) -> type:
    """The method class called `name`, or found at `file.py:Class` or `package.module:Class`."""
    methods = table("methods")
    if name in methods:
        return locate(methods[name])
    if ":" in name:
        return locate(name)
    raise unknown("method", name, methods)


def claim(name: str) -> Any:
    """The claim of the paper `name`."""
    claims = table("claims")
    if name not in claims:
        raise unknown("claim", name, claims)
    return locate(claims[name])


def policy_class(name: str) -> type:
    """The policy class a saved file names; only known names are accepted, so that a file cannot import anything."""
    if name in POLICIES:
        return locate(POLICIES[name])
    for cls in _user_policies:
        if f"{cls.__module__}:{cls.__qualname__}" == name:
            return cls
    raise BadCheckpoint(
        f"the file holds a policy of class '{name}', which is not palaestra's own; "
        "import it and call palaestra.register_policy(YourPolicy) before loading"
    )


_user_policies: list[type] = []


def register_policy(cls: type) -> type:
    """Allow saved policies of a user's class to be loaded; usable as a decorator."""
    _user_policies.append(cls)
    return cls


def name_of(cls: type) -> str:
    """The short name of a registered class, else its module path."""
    where = f"{cls.__module__}:{cls.__qualname__}"
    for names in (METHODS, POLICIES):
        for name, location in names.items():
            if location == where:
                return name
    return where


def locate(where: str) -> Any:
    """Import the object at `package.module:Name` or `path/to/file.py:Name`."""
    place, _, attribute = where.rpartition(":")
    try:
        module = _load_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except ModuleNotFoundError as error:
        raise PalaestraError(f"cannot import '{place}' ({error})") from None
    if not hasattr(module, attribute):
        raise unknown(f"name in {place}:", attribute, [n for n in vars(module) if not n.startswith("_")])
    return getattr(module, attribute)


def _load_file(path: Path) -> Any:
    path = path.resolve()
    if not path.exists():
        raise PalaestraError(f"there is no file {path}")
    name = f"palaestra_user_{path.stem}"
    if name in sys.modules and getattr(sys.modules[name], "__file__", None) == str(path):
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
