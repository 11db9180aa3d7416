"""From a name to a dataset: one of palaestra's own, one that is made on the spot, a Minari dataset, or a folder."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from palaestra.core import registry
from palaestra.core.errors import BadDataset, require, unknown
from palaestra.core.experience import tree_leaves
from palaestra.data.dataset import Dataset, one_step, open_dataset

LONGEST = 200
"""Characters of a dataset's name."""
OWN = ("local", "behaviour", "cache")
"""Folders under `root()` that are filled by themselves."""
KINDS = ("data", "local", "minari", "d4rl")
"""What may come before the colon of a dataset's name."""


def root() -> Path:
    """Where datasets are kept: `PALAESTRA_DATA`, or `.palaestra/datasets` in the home directory."""
    return Path(os.environ.get("PALAESTRA_DATA") or Path.home() / ".palaestra" / "datasets")


def names_dataset(spec: str) -> bool:
    """Whether a task's name is that of a dataset rather than of an environment."""
    return spec.partition(":")[0] in KINDS or (Path(spec) / "dataset.json").exists()


def names_code(name: str) -> bool:
    """Whether the name of a method, an environment or a dataset says what to import: `file.py:Name`, `module:name`,
    `module:Id-v0`. A dataset's may name the environment in which its data are made."""
    known = {**registry.table("methods"), **registry.table("tasks")}
    made_in = name.partition(":")[2] if names_dataset(name) and ":" in name else name
    return name not in known and ":" in made_in


def dataset_spec(name: str) -> str:
    """The name of a dataset as a task's: one without a kind is `data:NAME`.

    Raises:
        UnknownName: there is no such kind.
    """
    if names_dataset(name):
        return name
    kind, colon, _ = name.partition(":")
    if colon:
        raise unknown("kind of dataset", kind, KINDS)
    return f"data:{name}"


def load_dataset(spec: str | Path, fetch: bool = True) -> Dataset:
    """The dataset that `spec` names; without `fetch` only one that needs neither be made nor downloaded first.

    - `data:NAME` or a bare `NAME`: one under `root()`, as `palaestra data make` and `import` leave it;
    - `local:ENV/QUALITY`: the same, made first if it is not there, such as `local:Pendulum-v1/medium`;
    - `minari:ID`: a Minari dataset, downloaded by Minari if need be;
    - `d4rl:FILE.hdf5`: a file in D4RL's format;
    - a folder that `Dataset.save` wrote.

    Raises:
        BadDataset, UnknownName: there is none, it is damaged, or it is not here and is not to be fetched.
    """
    text = str(spec)
    if (Path(text) / "dataset.json").exists():
        return open_dataset(text)
    kind, colon, name = text.partition(":")
    if not colon:
        kind, name = "data", text
    if kind == "local":
        return _local(name, fetch)
    if kind == "minari":
        from palaestra.data.minari import read_minari

        return read_minari(name, fetch)
    if kind == "d4rl":
        from palaestra.data.importing import read_d4rl

        return read_d4rl(Path(name))
    if kind != "data":
        raise unknown("kind of dataset", kind, KINDS)
    path = Path(name)
    if path.is_absolute() or name.startswith((".", "~")):
        raise _no_dataset(path)
    folder = stored_folder(name)
    if (folder / "dataset.json").exists():
        return open_dataset(folder)
    raise _no_dataset(path) if path.exists() else unknown("dataset", name, stored())


def _no_dataset(path: Path) -> BadDataset:
    """What a path is that holds no dataset."""
    if path.is_dir():
        return BadDataset(f"{path} is a folder without a dataset.json")
    if path.exists():
        return BadDataset(f"{path} is not a dataset yet: palaestra data import {path} --name NAME")
    return BadDataset(f"there is no folder {path}")


def _local(name: str, fetch: bool) -> Dataset:
    """The dataset `ENV/QUALITY` or `ENV/QUALITY/seedK`, made first if it is not there."""
    found = re.fullmatch(r"(.+?)/([^/]+)(?:/seed(\d+))?", name)
    require(found is not None, f"a local dataset is ENV/QUALITY, such as local:Pendulum-v1/medium, got '{name}'")
    assert found is not None
    env, quality, seed = found[1], found[2], int(found[3] or 0)
    folder = local_folder(env, quality, seed)
    if (folder / "dataset.json").exists():
        return open_dataset(folder)
    if not fetch:
        raise BadDataset(f"local:{name} is not on this machine")
    from palaestra.data.make import make

    return make(env, quality, seed=seed)


def require_room(steps: int, task: Any) -> None:
    """Raise `BadSetting` unless so many steps with the spaces of `task` fit into memory, where they are collected, and then on
    the disk of `root()`."""
    step = one_step(task.observation_space, task.action_space)
    each = sum(leaf.nbytes for column in step.values() for leaf in tree_leaves(column))
    kept = next(place for place in (root(), *root().resolve().parents) if place.exists())
    disk, memory = shutil.disk_usage(kept).free, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    require(
        steps * each <= min(disk, memory),
        f"{steps:.4g} steps of {task.name} take {steps * each / 1e9:.3g} GB, {each} bytes each, but the disk of {root()} has "
        f"{disk / 1e9:.3g} GB free, and the memory, where they are collected first, {memory / 1e9:.3g} GB; give a smaller size",
    )


def local_folder(env: str, quality: str, seed: int) -> Path:
    """Where the dataset of a quality on an environment is kept."""
    return root() / "local" / clean(env) / quality / f"seed{seed}"


def stored_folder(name: str) -> Path:
    """Where the dataset called `name` is kept.

    Raises:
        BadSetting: a folder cannot be called so.
    """
    require(
        re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._=+-]*(/[A-Za-z0-9][A-Za-z0-9._=+-]*)*", name) is not None,
        f"a dataset's name is made of letters, digits and . _ - = + with / between, such as logs/2024, got '{name}'",
    )
    return root() / name


def fresh_folder(name: str) -> Path:
    """Where a new dataset called `name` is to be kept.

    Raises:
        BadSetting: there is one already, or the place is not free for datasets.
    """
    folder = stored_folder(name)
    first = name.partition("/")[0]
    require(len(name) <= LONGEST, f"a dataset's name has at most {LONGEST} characters, got {len(name)}")
    require(first not in OWN, f"names that begin with {first} are palaestra's own; give another --name")
    require(not folder.exists(), f"{folder} is there already; give another --name, or delete it")
    above = next((place for place in folder.parents if (place / "dataset.json").exists()), None)
    require(above is None, f"{name} would be inside the dataset {above}; give another --name")
    return folder


def cache_folder(kind: str, name: str, paths: Iterable[Path]) -> Path:
    """Where the converted copy of some files is kept: another place whenever one of them was written."""
    stamps = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(paths)]
    digest = hashlib.sha256(repr((str(name), stamps)).encode()).hexdigest()[:16]
    return root() / "cache" / kind / f"{clean(name)}-{digest}"


def clean(text: str) -> str:
    """Text as a folder's name."""
    return re.sub(r"[^A-Za-z0-9._=/-]+|\.\.+", "-", text).strip("/")


def stored() -> list[str]:
    """The names of the datasets under `root()`, as `load_dataset` takes them."""
    kept = (path.parent.relative_to(root()) for path in root().glob("**/dataset.json"))
    return sorted(_name(path) for path in kept if path.parts[0] not in OWN[1:])


def _name(place: Path) -> str:
    """What a folder below `root()` is called: `local:ENV/QUALITY` if asking for that would lead to it."""
    found = re.fullmatch(r"local/(.+)/seed(\d+)", place.as_posix())
    if found and re.fullmatch(rf".+/({_QUALITY})", found[1]):
        return f"local:{found[1]}" + (f"/seed{found[2]}" if found[2] != "0" else "")
    return place.as_posix()


_QUALITY = (
    r"random|medium|expert|noisy|medium-replay|full-replay|replay|(random-)?medium-expert|mixed|"
    r"random-(medium|expert)-0?\.\d+"
)
