"""Preferences from files and tables: folders that palaestra wrote, rows of pairs, and published human labels."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from palaestra.core import files
from palaestra.core.errors import BadCheckpoint, BadDataset, BadSetting, PalaestraError
from palaestra.data.dataset import Dataset
from palaestra.data.load import load_dataset, stored_folder
from palaestra.data.pickled import read_numbers
from palaestra.data.preferences import COLUMNS, PreferenceDataset, fingerprint

PUBLISHED = {"start_indices": "indices_num*", "start_indices_2": "indices_2_num*", "human_label": "label_human*"}
"""The files of a folder of published human labels (Kim et al. 2023), by the fields they hold."""
PEOPLE_SAY = {0: 1.0, 1: 0.0, -1: 0.5}
"""The label that `human_label` stands for in files of human labels (Kim et al. 2023): the first, the second, neither."""


def load_preferences(
    spec: str | Path | Iterable[Mapping[str, Any]], dataset: Dataset | None = None, length: int = 100
) -> PreferenceDataset:
    """Load pairs of windows with their labels.

    `spec` is a folder that `PreferenceDataset.save` wrote, or the name that `palaestra data label` was given. With the `dataset`
    that its windows are of it may also be what `read_human_labels` reads, or rows as `PreferenceDataset.records` gives them,
    such as a Hugging Face dataset. `length` is the number of steps of a window, where a file does not say it.

    Raises:
        BadDataset: there are none, they are damaged, or about another dataset.
    """
    if not isinstance(spec, str | Path):
        if dataset is None:
            raise BadDataset("rows do not say which dataset their episodes are of; give the dataset")
        return _from_arrays("the rows", _in_columns(spec, "the rows"), dataset, length)
    path = Path(spec)
    if path.suffix in (".npz", ".json", ".jsonl", ".pkl", ".pickle", ".npy") or any(
        path.glob(PUBLISHED["human_label"])
    ):
        if not path.exists():
            raise BadDataset(f"there is no file {path}")
        if dataset is None:
            raise BadDataset(f"{path} does not say which dataset its rows belong to; give the dataset")
        return read_human_labels(path, dataset, length)
    try:
        folder = path if (path / "preferences.json").exists() else stored_folder(str(spec))
    except BadSetting:  # it is no name
        found = (
            f"{spec} holds no preferences: it has no preferences.json"
            if path.exists()
            else f"there is no folder {spec}"
        )
        raise BadDataset(f"{found}; make some with palaestra data label DATASET --name NAME, and load NAME") from None
    if not (folder / "preferences.json").exists():
        raise BadDataset(
            f"there are no preferences '{spec}'; make some with palaestra data label DATASET --name {spec}"
        )
    try:
        described = files.read_json(folder / "preferences.json")
        about_whom, told, about = str(described["dataset"]), described["fingerprint"], dict(described["about"])
        columns = {n: torch.from_numpy(np.load(folder / f"{n}.npy", allow_pickle=False)) for n in COLUMNS}
    except (KeyError, TypeError, ValueError, OSError, EOFError, BadCheckpoint) as error:
        raise BadDataset(f"{folder} is damaged ({type(error).__name__}: {error}); label again") from error
    dataset = load_dataset(about_whom) if dataset is None else dataset
    if told != fingerprint(dataset):
        raise BadDataset(f"{folder} compares windows of {about_whom}, and {dataset.name} is another dataset")
    return PreferenceDataset(str(described.get("name", folder.name)), dataset, **columns, about=about)


def read_human_labels(path: str | Path, dataset: Dataset, length: int = 100) -> PreferenceDataset:
    """Read labels from an `.npz` archive, a `.json` file, or a `.jsonl` file with a line for each pair, or from a folder that was
    published with Preference Transformer (Kim et al. 2023) for a task of D4RL.

    A file has the fields of `PreferenceDataset.records`, or those of Preference Transformer, which a folder has in any case:
    `start_indices` and `start_indices_2` `(N,)` are the rows of the dataset that two windows of `length` steps begin at;
    `human_label` `(N,)` is 0 where the first is preferred, 1 for the second and -1 for neither, or `labels` `(N, 2)` are the
    probabilities of either. A published folder counts rows as D4RL's `qlearning_dataset` does, without the last step of episodes
    that the clock ended, and may hold more pairs than were labelled, the first ones. Nothing in a file is executed.

    Raises:
        BadDataset: there is something else, or it does not fit the dataset.
    """
    path = Path(path)
    found = _read_published(path, dataset) if path.is_dir() else _read_arrays(path)
    return _from_arrays(path, found, dataset, length)


def _from_arrays(path: str | Path, found: Mapping[str, np.ndarray], dataset: Dataset, length: int) -> PreferenceDataset:
    if set(COLUMNS) <= found.keys():
        return _as_recorded(path, found, dataset)
    missing = [name for name in ("start_indices", "start_indices_2") if name not in found]
    if missing or not {"human_label", "labels"} & set(found):
        raise BadDataset(
            f"{path} needs start_indices, start_indices_2 and human_label (or labels), or {', '.join(COLUMNS)}; it holds "
            f"{', '.join(found) or 'nothing'}"
        )
    try:
        row = torch.from_numpy(np.stack([found[n].reshape(-1) for n in ("start_indices", "start_indices_2")], 1)).long()
        label = _labels(path, found)
    except (TypeError, ValueError) as error:
        raise BadDataset(f"{path} does not hold numbers in arrays of one length ({error})") from error
    outside = ((row < 0) | (row >= len(dataset))).any(1)
    if bool(outside.any()):
        pair = int(outside.nonzero()[0])
        raise BadDataset(
            f"{path}, pair {pair}: {dataset.name} has no rows {row[pair].tolist()}, but {len(dataset)} steps"
        )
    episode = dataset.episode[row]
    start = row - dataset.starts[episode]
    lengths = torch.full_like(row, length)
    return PreferenceDataset(
        str(path), dataset, episode, start, lengths, label, {"teacher": "human", "file": Path(path).name}
    )


def _as_recorded(path: str | Path, found: Mapping[str, np.ndarray], dataset: Dataset) -> PreferenceDataset:
    """The pairs of `PreferenceDataset.records`, given in columns."""
    *whole, label = (found[name] for name in COLUMNS)
    if any(column.dtype.kind not in "iu" for column in whole) or label.dtype.kind not in "iuf":
        kinds = ", ".join(f"{name} of {found[name].dtype}" for name in COLUMNS)
        raise BadDataset(f"{path}: episodes, starts and lengths are whole numbers, labels numbers, got {kinds}")
    episode, start, lengths = (torch.from_numpy(column.astype(np.int64)) for column in whole)
    told = {"teacher": "recorded", "file": Path(path).name}
    return PreferenceDataset(
        str(path), dataset, episode, start, lengths, torch.from_numpy(label.astype(np.float32)), told
    )


def _in_columns(rows: Iterable[Mapping[str, Any]], where: str | Path) -> dict[str, np.ndarray]:
    """Rows that all have the same names, as arrays by name."""
    listed = list(rows)
    for i, row in enumerate(listed):
        if not isinstance(row, Mapping) or row.keys() != listed[0].keys():
            raise BadDataset(f"{where}, pair {i}: all pairs have the same columns, by name, and this one has others")
    try:
        return {name: np.asarray([row[name] for row in listed]) for name in listed[0]} if listed else {}
    except ValueError as error:
        raise BadDataset(f"{where} does not hold numbers in rows of one length ({error})") from error


def _labels(path: str | Path, found: Mapping[str, np.ndarray]) -> Tensor:
    """The probability that the first window is preferred, `(N,)`, of `labels` or `human_label`."""
    if "labels" in found:
        both = found["labels"].astype(np.float32)
        if both.ndim != 2 or both.shape[1] != 2 or not np.allclose(both.sum(1), 1):
            raise BadDataset(f"{path}: labels must be (N, 2), two probabilities that add up to 1, got {both.shape}")
        return torch.from_numpy(both[:, 0].copy())
    said = found["human_label"].reshape(-1)
    strange = [x for x in said.tolist() if x not in PEOPLE_SAY]
    if strange:
        raise BadDataset(f"{path}: a human_label is 0 (the first), 1 (the second) or -1 (neither), got {strange[0]}")
    return torch.tensor([PEOPLE_SAY[int(x)] for x in said.tolist()])


def _read_published(folder: Path, dataset: Dataset) -> dict[str, np.ndarray]:
    """The fields of published labels, their rows those of the dataset."""
    left_out = dataset.about.get("left_out")
    if left_out is None:
        raise BadDataset(
            f"the labels in {folder} count the rows of a D4RL file, which {dataset.name} was not imported from; import it: "
            "palaestra data import FILE.hdf5 --name NAME"
        )
    found = {}
    for name, pattern in PUBLISHED.items():
        paths = sorted(folder.glob(pattern))
        if len(paths) != 1:
            raise BadDataset(f"{folder} must hold one file {pattern}, got {', '.join(p.name for p in paths) or 'none'}")
        try:
            found[name] = read_numbers(files.read_bytes(paths[0]))
        except ValueError as error:
            raise BadDataset(f"{paths[0]} is something else than pickled numbers: {error}") from error
    clock = dataset.steps.truncated > 0
    if left_out:  # the import left out those that the clock ended, and marked the steps before them
        clock &= dataset.steps.terminated > 0
    rows = (~clock).nonzero().flatten().numpy()
    count = len(found["human_label"])
    for name in ("start_indices", "start_indices_2"):
        index = found[name].reshape(-1)[:count]
        if index.dtype.kind not in "iu" or not ((index >= 0) & (index < len(rows))).all():
            raise BadDataset(
                f"{folder} has rows from {index.min()} to {index.max()}, but {dataset.name} those from 0 to {len(rows) - 1}"
            )
        found[name] = rows[index]
    return found


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    if not path.exists():
        raise BadDataset(f"there is no file {path}")
    try:
        if path.suffix == ".jsonl":
            lines = files.read_bytes(path).decode().splitlines()
            return _in_columns((json.loads(line) for line in lines if line.strip()), path)
        if path.suffix == ".json":
            return {name: np.asarray(value) for name, value in files.read_json(path).items()}
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
    except BadDataset:
        raise
    except (ValueError, AttributeError, OSError, EOFError, RecursionError, PalaestraError) as error:
        raise BadDataset(f"{path} cannot be read without executing what is in it, or is damaged ({error})") from error
    raise BadDataset(
        f"{path} may be a pickle, which could execute anything as it is read; where you trust it, write its arrays to an .npz: "
        "np.savez(FILE, start_indices=…, start_indices_2=…, human_label=…)"
    )
