"""From a name to a dataset: one of palaestra's own, one that is made on the spot, a Minari dataset, or a folder."""

from __future__ import annotations

import os
from pathlib import Path

from palaestra.core.errors import BadDataset, unknown
from palaestra.data.dataset import Dataset, open_dataset

KINDS = ("data", "local", "minari", "d4rl")
"""What may come before the colon of a dataset's name."""


def root() -> Path:
    """Where datasets are kept: `PALAESTRA_DATA`, or `.palaestra/datasets` in the home directory."""
    return Path(os.environ.get("PALAESTRA_DATA") or Path.home() / ".palaestra" / "datasets")


def names_dataset(spec: str) -> bool:
    """Whether a task's name is that of a dataset rather than of an environment."""
    return spec.partition(":")[0] in KINDS or (Path(spec) / "dataset.json").exists()


def dataset_spec(name: str) -> str:
    """The name of a dataset as a task's: one without a kind is `data:NAME`."""
    return name if names_dataset(name) else f"data:{name}"


def load_dataset(spec: str | Path) -> Dataset:
    """The dataset that `spec` names.

    - `data:NAME` or a bare `NAME`: one under `root()`, as `palaestra data make` and `import` leave it;
    - `local:ENV/QUALITY`: the same, made first if it is not there, such as `local:Pendulum-v1/medium`;
    - `minari:ID`: a Minari dataset, downloaded by Minari if need be;
    - `d4rl:FILE.hdf5`: a file in D4RL's format;
    - a folder that `Dataset.save` wrote.

    Raises:
        BadDataset, UnknownName: there is none, or it is damaged.
    """
    text = str(spec)
    if (Path(text) / "dataset.json").exists():
        return open_dataset(text)
    kind, colon, name = text.partition(":")
    if not colon:
        kind, name = "data", text
    if kind == "local":
        from palaestra.data.make import local

        return local(name)
    if kind == "minari":
        from palaestra.data.minari import read_minari

        return read_minari(name)
    if kind == "d4rl":
        from palaestra.data.importing import read_d4rl

        return read_d4rl(Path(name))
    if kind != "data":
        raise unknown("kind of dataset", kind, KINDS)
    folder = root() / name
    if not (folder / "dataset.json").exists():
        if Path(text).exists():
            raise BadDataset(f"{text} is not a dataset yet: palaestra data import {text} --name NAME")
        raise unknown("dataset", name, stored())
    return open_dataset(folder)


def stored() -> list[str]:
    """The names of the datasets under `root()`."""
    return sorted(str(path.parent.relative_to(root())) for path in root().glob("**/dataset.json"))
