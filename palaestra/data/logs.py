"""Files of logged steps: D4RL's HDF5, NumPy archives, and tables with a line per step."""

from __future__ import annotations

import csv
import difflib
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from palaestra.core.errors import BadDataset, PalaestraError
from palaestra.core.experience import tree_map

NAMES = {
    "obs": ("obs", "observations"),
    "next_obs": ("next_obs", "next_observations"),
    "action": ("action", "actions"),
    "reward": ("reward", "rewards"),
    "terminated": ("terminated", "terminations", "terminals"),
    "truncated": ("truncated", "truncations", "timeouts"),
    "episode": ("episode", "episodes"),
}
"""What arrays may be called: in palaestra, in Gymnasium and Minari, and in D4RL."""
DONE = ("done", "dones", "end", "ends")
FLAGS = {"true": 1.0, "false": 0.0}
COLUMNS = ("episode", "step", "action", "reward", "terminated", "truncated")
"""Of a table, besides obs_…, next_obs_… and action_…."""
SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}
MOST = 2**53
"""The largest whole number up to which floating point holds every one."""


@dataclass
class Log:
    """Steps in order, in the units of their environment."""

    columns: dict[str, Any]
    """Under the names of palaestra; without `next_obs` it is the following observation."""
    final: dict[int, Any] = field(default_factory=dict)
    """Where the last step of an episode led, by its row, for logs without `next_obs` that know it."""
    notes: list[str] = field(default_factory=list)


def read_log(path: Path) -> Log:
    """The steps in a file, by the ending of its name."""
    if not path.exists():
        raise PalaestraError(f"there is no file {path}")
    if path.is_dir():
        raise BadDataset(f"{path} is a folder without a dataset.json; name the file in it that holds the steps")
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise BadDataset(
            f"{path} has an ending that says nothing here; known are {', '.join(READERS)} (D4RL, NumPy, table)"
        )
    try:
        return reader(path)
    except UnicodeError as error:
        raise BadDataset(f"{path} cannot be read, since it is not UTF-8 text; save it as that") from error
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, csv.Error) as error:
        raise BadDataset(f"{path} cannot be read ({' '.join(str(error).split())})") from error


def named(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Arrays under palaestra's names.

    Raises:
        BadDataset: one that is needed is missing.
    """
    found = {ours: arrays[name] for ours, names in NAMES.items() for name in names if name in arrays}
    found = {name: tree_map(np.asarray, dict(x) if isinstance(x, Mapping) else x) for name, x in found.items()}
    for need in ("obs", "action", "reward"):
        if need not in found:
            raise BadDataset(f"{' or '.join(NAMES[need])} is missing: add one row of it per step")
    for flag in ("terminated", "truncated"):
        if flag not in found:
            done = next((name for name in DONE if name in arrays), None)
            unclear = f"'{done}' does not say whether the task ended or time ran out; " if done else ""
            raise BadDataset(
                f"{' or '.join(NAMES[flag])} is missing: {unclear}terminated is 1 where the task itself ended, truncated is 1 "
                "where the clock or the log ended the episode, and both are 0 elsewhere; add both"
            )
    for name, x in found.items():
        if isinstance(x, dict) and name not in ("obs", "next_obs"):
            raise BadDataset(f"{name} has the parts {', '.join(x)}; only observations may have parts")
    return found


def _read_hdf5(path: Path) -> Log:
    """D4RL's format: one array per column; what else the file holds (infos, metadata) is left where it is."""
    try:
        import h5py
    except ImportError:
        raise PalaestraError("HDF5 files need h5py: pip install 'palaestra[offline]'") from None
    with h5py.File(path, "r") as file:
        known = {name for names in NAMES.values() for name in (*names, *DONE)} & set(file)
        if not known:
            if any(name.startswith("episode_") for name in file):
                raise BadDataset(f"{path} is a file of Minari's, which is read by its id: minari:ID")
            raise BadDataset(
                f"{path} holds none of D4RL's arrays (observations, actions, rewards, terminals, timeouts), but "
                f"{', '.join(sorted(file)[:5]) or 'nothing'}"
            )
        return Log(named({name: _tree(file[name]) for name in known}))


def _tree(node: Any) -> Any:
    return {key: _tree(node[key]) for key in node} if hasattr(node, "keys") else node[()]


def _read_npz(path: Path) -> Log:
    if not zipfile.is_zipfile(path):
        raise ValueError("it is no NumPy archive, as np.savez writes one")
    with np.load(path, allow_pickle=False) as archive:
        return Log(named(dict(archive.items())))


def _read_csv(path: Path) -> Log:
    """A table with a line per step: episode, step, obs_…, action or action_…, reward, terminated, truncated.

    `next_obs_…` may be there too. A line after the last step of an episode whose action and reward are empty holds the
    observation where it led.
    """
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        head = [name.strip() for name in next(reader, [])]
        rows = dict((reader.line_num, line) for line in reader if any(map(str.strip, line)))  # without blank lines
    groups = {
        name: [i for i, h in enumerate(head) if h.startswith(f"{name}_")] for name in ("obs", "next_obs", "action")
    }
    single = {name: head.index(name) for name in COLUMNS if name in head}
    _check_head(head, groups, single)
    if not rows:
        raise BadDataset(f"{path} has no line below its head")
    numbers, lines = list(rows), list(rows.values())
    for number, line in rows.items():
        if len(line) != len(head):
            raise BadDataset(f"{path}, line {number}: {len(line)} cells, but the head names {len(head)}")
        if not line[single["episode"]].strip():
            raise BadDataset(f"{path}, line {number}: episode is empty")
    steps, final = _steps_and_ends(
        lines, numbers, [*(groups["action"] or [single["action"]]), single["reward"]], single, path
    )

    def column(i: int, chosen: Sequence[int] = steps) -> np.ndarray:
        try:
            return np.array([lines[n][i] for n in chosen], np.float64)
        except ValueError:  # a truth value, or no number at all
            return np.array([_cell(lines[n][i], path, numbers[n], head[i]) for n in chosen], np.float64)

    columns: dict[str, Any] = {name: np.stack([column(i) for i in group], 1) for name, group in groups.items() if group}
    if not groups["action"]:
        action = column(single["action"])
        if (action != np.trunc(action)).any() or (np.abs(action) > MOST).any():
            raise BadDataset(
                f"{path}: 'action' is an index from 0 and must be whole; call continuous actions action_0, action_1, …"
            )
        columns["action"] = action.astype(np.int64)
    for name in ("reward", "terminated", "truncated"):
        columns[name] = column(single[name])
    columns["episode"] = np.array([lines[n][single["episode"]].strip() for n in steps])
    _check_clock(column(single["step"]), columns["episode"], [numbers[n] for n in steps], path)
    used = {*single.values(), *(i for group in groups.values() for i in group)}
    left = [name for i, name in enumerate(head) if i not in used]
    notes = [f"observations hold {', '.join(head[i].removeprefix('obs_') for i in groups['obs'])}"]
    notes += [f"the columns {', '.join(name or 'without a name' for name in left)} are left out"] if left else []
    led = np.stack([column(i, list(final.values())) for i in groups["obs"]], 1)
    return Log(columns, dict(zip(final, led)), notes)


def _steps_and_ends(
    lines: list[list[str]], numbers: list[int], blank: list[int], single: dict[str, int], path: Path
) -> tuple[list[int], dict[int, int]]:
    """Which lines are steps, and, by the step before, which only say where an episode led; `numbers` are theirs in the file."""
    steps: list[int] = []
    final: dict[int, int] = {}
    for n, line in enumerate(lines):
        if any(line[i].strip() for i in blank):
            steps.append(n)
            continue
        label = [lines[k][single["episode"]] for k in (n - 1, n, n + 1) if k < len(lines)]
        if not steps or steps[-1] != n - 1 or label[0] != label[1] or label[1:] == label[:1] * 2:
            raise BadDataset(
                f"{path}, line {numbers[n]}: action and reward are empty; only the line after an episode's last step may be so"
            )
        final[len(steps) - 1] = n
    return steps, final


def _check_head(head: list[str], groups: dict[str, list[int]], single: dict[str, int]) -> None:
    """Raise `BadDataset` unless a table names all that a log needs."""
    if not any(head):
        raise BadDataset(
            "the table is empty; its first line names the columns: episode, step, obs_…, action, reward, …"
        )
    if len(head) == 1 and (marks := [mark for mark in SEPARATORS if mark in head[0]]):
        raise BadDataset(
            f"the table's columns are separated by {SEPARATORS[marks[0]]}; write it with commas, and numbers with points"
        )
    if not single and not any(groups.values()):
        raise BadDataset(
            f"the first line must name the columns (episode, step, obs_…, action, reward, …), but reads {','.join(head)[:60]}"
        )
    if twice := [name for name in head if name and head.count(name) > 1]:
        raise BadDataset(f"the head of the table names {twice[0]!r} twice")
    if not groups["obs"]:
        raise BadDataset("the table has no obs_… columns; add the numbers that a policy is to see, such as obs_speed")
    if not groups["action"] and "action" not in single:
        raise BadDataset("the table has no action; add 'action' (an index from 0) or action_0, action_1, … (numbers)")
    if groups["action"] and "action" in single:
        raise BadDataset("the table has 'action' (an index) and action_… (numbers); keep the ones that are meant")
    seen, led = ([n.removeprefix(f"{g}_") for n in head if n.startswith(f"{g}_")] for g in ("obs", "next_obs"))
    if led and led != seen:
        raise BadDataset("the next_obs_… columns must be those of obs_…, in the same order")
    needed = {"episode": "which episode a line belongs to", "step": "its number in the episode", "reward": "the reward"}
    for name, what in needed.items():
        if name not in single:
            near = difflib.get_close_matches(name, [h.lower() for h in head], n=1)
            hint = f" (or is '{next(h for h in head if h.lower() == near[0])}' meant?)" if near else ""
            raise BadDataset(f"the table has no column '{name}': add {what}{hint}")
    named({**dict.fromkeys(("obs", "action", "reward")), **dict.fromkeys(head)})


def _check_clock(step: np.ndarray, episode: np.ndarray, numbers: list[int], path: Path) -> None:
    """Raise `BadDataset` unless steps are numbered one by one in every episode."""
    same = episode[1:] == episode[:-1]
    jumps = np.flatnonzero(same & (np.diff(step) != 1))
    if len(jumps):
        row = jumps[0]
        raise BadDataset(
            f"{path}, line {numbers[row + 1]}: episode {episode[row]} goes from step {step[row]:g} to {step[row + 1]:g}; "
            "sort by episode and step, and let a new episode begin where steps are missing"
        )


def _cell(text: str, path: Path, number: int, name: str) -> float:
    word = text.strip()
    try:
        return FLAGS[word.lower()] if word.lower() in FLAGS else float(word)
    except ValueError:
        what = f"'{word}' is no number" if word else "is empty"
        raise BadDataset(f"{path}, line {number}: {name} {what}") from None


READERS = {".hdf5": _read_hdf5, ".h5": _read_hdf5, ".npz": _read_npz, ".csv": _read_csv}
"""By the ending of a file's name."""
