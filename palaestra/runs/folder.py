"""A run's folder: its name, its lock, and the files that say what was run."""

from __future__ import annotations

import fcntl
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from palaestra.core import files
from palaestra.core.errors import BadSetting, PalaestraError, RunBusy
from palaestra.core.method import Method, labelled

if TYPE_CHECKING:
    from palaestra.core.task import Task


LOCK = ".lock"
"""The file by which a process holds a run's folder."""
LARGEST_CONFIG = 64_000
"""Bytes of a `config.yaml`, and values in it once its aliases are followed."""
DEEPEST_CONFIG = 50
"""Levels of values within values in a `config.yaml`."""


def load_config(path: str | Path) -> dict[str, Any]:
    """A `config.yaml` as a dictionary; a file that is not one is refused, whatever it holds."""
    path = Path(path)
    if not path.exists():
        raise PalaestraError(f"there is no file {path}")
    data = files.read_bytes(path)
    try:
        content = yaml.load(data.decode(), _Loader) if len(data) <= LARGEST_CONFIG else None
    except (yaml.YAMLError, ValueError) as error:
        raise BadSetting(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict) or not _few(content):
        raise BadSetting(f"{path} is not a palaestra config")
    return content


class _Loader(yaml.SafeLoader):
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Values within values are read so deep and no deeper: each level costs more than the one before."""
        self.depth += 1
        if self.depth > DEEPEST_CONFIG:
            raise yaml.YAMLError(f"values lie more than {DEEPEST_CONFIG} levels deep")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Merge keys are not known: merged with itself again and again, a mapping of a few bytes fills the memory."""


def _few(content: Any) -> bool:
    """Whether a value has not too many parts, each counted as often as it would be printed."""
    waiting, count = [content], 1
    while waiting:
        value = waiting.pop()
        parts = [*value, *value.values()] if isinstance(value, dict) else value
        if isinstance(parts, (list, tuple, set)):
            count += len(parts)
            if count > LARGEST_CONFIG:
                return False
            waiting.extend(parts)
    return True


def read_record(folder: Path) -> dict[str, Any]:
    """`run.json` of a run folder, or an empty dictionary."""
    path = folder / "run.json"
    return files.read_json(path) if path.exists() else {}


def default_folder(task: Task, method: Method, seed: int, root: str | Path = "runs") -> Path:
    """`runs/<task>/<method>/seed<seed>`; the task with its keyword arguments, the method with its changed settings."""
    label = getattr(task, "label", None) or labelled(task.name, task.describe().get("kwargs") or {})
    parts = label, method.label
    clean = [re.sub(r"[^A-Za-z0-9._=-]+", "-", part) for part in parts]
    return Path(root) / clean[0] / clean[1] / f"seed{seed}"


def make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise files.disk_error(error, folder) from error


def clear(folder: Path) -> None:
    """Empty a run's folder; one that holds something else is left alone."""
    others = [path.name for path in folder.iterdir() if path.name != LOCK]
    if others and "config.yaml" not in others:
        raise BadSetting(f"{folder} holds no run (config.yaml is missing), so --overwrite leaves it as it is")
    for name in others:
        _remove(folder / name)


@contextmanager
def undone_unless_begun(folder: Path, made: Sequence[Path]) -> Iterator[None]:
    """What a start puts into its folder is taken away again if it fails before its first step, when a run has its `run.json`;
    so is what was `made` for this start, the folder and those above it, as far as nothing else is in them by now."""
    before = set() if made else {path.name for path in folder.iterdir()}
    try:
        yield
    except BaseException:
        if not (folder / "run.json").exists():
            for path in [path for path in folder.iterdir() if path.name not in before]:
                _remove(path)
            with suppress(OSError):
                for path in made:
                    path.rmdir()
        raise


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold the folder for this process; the lock goes with the process, however it ends."""
    try:
        file = open(folder / LOCK, "w")  # noqa: SIM115
    except OSError as error:
        raise files.disk_error(error, folder) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunBusy(
                f"another process is training in {folder}; wait for it, or choose another folder with --out"
            ) from None
        yield


def plain_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as YAML holds them; a user's own network is named, not stored."""
    plain = {}
    for name, value in settings.items():
        if callable(value):
            value = "custom"
        plain[name] = list(value) if isinstance(value, tuple) else value
    return plain


def difference(before: Any, now: Any) -> str:
    if isinstance(before, dict) and isinstance(now, dict):
        changed = [k for k in {**before, **now} if before.get(k) != now.get(k)]
        return ", ".join(f"{k} {before.get(k)!r} then, {now.get(k)!r} now" for k in changed)
    return f"{before!r} then, {now!r} now"
