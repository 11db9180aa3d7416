"""Models that are trained first: `sft:NAME` is the model NAME after supervised learning on the answers that its task brings, and
`rm:NAME` a reward model, which begins as NAME, of the preferences that it brings.

Such a start is an ordinary run, in `runs/starts`. It is made when a run first asks for it, and shared by all that name it with
the same task and seed, so that the methods of a comparison begin alike, and learn from the same reward model. Its folder's name
ends in a hash of what it is made of: another task, other rows and another model, in a folder of the same name, too, have another.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from palaestra.core import files, registry
from palaestra.core.errors import BadSetting
from palaestra.core.method import Method, labelled
from palaestra.core.world import world
from palaestra.language.models import files_digest

if TYPE_CHECKING:
    from palaestra.core.task import Task
    from palaestra.runs.engine import Engine
    from palaestra.runs.run import Run

STARTS = Path("runs") / "starts"
NAME = re.compile(r"(sft|rm):(.+?)(?::(\d+))?")
"""`sft:MODEL`, or `sft:MODEL:UPDATES` where it is not to be as long as the task suggests; `rm:` alike, or `rm:sft:MODEL`."""
KINDS = {"sft": ("sft", "start_updates"), "rm": ("reward-model", "updates")}
"""By what a name begins with, the method, and what a task calls the updates that it suggests."""


def ready(method: Method, task: Task, seed: int, engine: Engine) -> Method:
    """The method with models that exist: starts that its settings name are made first, unless they are there.

    Raises:
        BadSetting: neither the name nor the task says how many updates a start has.
    """
    starts = _named(method)
    if not starts:
        return method
    method.check()
    method.check_task(task)  # before anything is trained in vain
    made = {name: world().alone(partial(_start, found, task, seed, engine)) for name, found in starts.items()}
    return dataclasses.replace(method, **{name: str(folder) for name, folder in made.items()})


def told(method: Method, task: Task) -> list[str]:
    """The starts that `ready` makes unless they are there, in words.

    Raises:
        BadSetting: neither the name nor the task says how many updates a start has.
    """
    made = [start for found in _named(method).values() for start in _first(found)]
    return [f"{start[0]} of {task.name}, {_length(start, task):,} updates" for start in made]


def folders(runs: Sequence[Run]) -> dict[Path, int]:
    """The folders of the starts that runs name, made already or not, and how many updates each has."""
    found: dict[Path, int] = {}
    known: dict[tuple[int, str], tuple[Path, int]] = {}  # one hash of a model for all seeds
    for run in runs:
        for named in (start for found in _named(run.config).values() for start in _first(found)):
            of = (id(run.task), named.string)
            known[of] = known.get(of) or (_folder(named, run.task), _length(named, run.task))
            folder, updates = known[of]
            found[folder / f"seed{run.seed}"] = updates
    return found


def _named(method: Method) -> dict[str, re.Match[str]]:
    """The starts that the settings of a method name, by setting."""
    texts = {name: value for name, value in method.config.items() if isinstance(value, str)}
    return {name: found for name, value in texts.items() if (found := NAME.fullmatch(value))}


def _first(named: re.Match[str]) -> list[re.Match[str]]:
    """A start after those that it begins as itself, in the order in which they are made."""
    before = NAME.fullmatch(named[2])
    return [*(_first(before) if before else []), named]


def _length(named: re.Match[str], task: Task) -> int:
    """How many updates a start has."""
    kind, model, given = named.groups()
    updates = int(given or getattr(task, KINDS[kind][1], None) or 0)
    if not updates:
        raise BadSetting(
            f"{task.name} does not say how long fine-tuning takes; say it yourself, such as {kind}:{model}:400, or give a "
            "model that is trained already"
        )
    return updates


def _start(named: re.Match[str], task: Task, seed: int, engine: Engine) -> Path:
    """The folder of a start's policy."""
    from palaestra.runs.run import Run

    kind, model = named[1], named[2]
    method, updates = KINDS[kind][0], _length(named, task)
    folder = _folder(named, task) / f"seed{seed}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.parent / f".{folder.name}", "w") as door:  # others wait until it is made
        fcntl.flock(door, fcntl.LOCK_EX)
        first = registry.method_class(method)(model=model)
        # On one thread, as the order of sums depends on their number.
        own = dataclasses.replace(engine, threads=1, tensorboard=False, wandb=False, evaluate_every=0, generation="own")
        run = Run(first, task, updates=updates, seed=seed, folder=folder, engine=own)
        _check_same(run)
        if not run.finished:
            run.train(resume=True)
    return folder


def _folder(named: re.Match[str], task: Task) -> Path:
    """Where a start is, a folder for each seed."""
    kind, model = named[1], named[2]
    label = getattr(task, "label", None) or labelled(task.name, task.describe().get("kwargs") or {})
    begun = f"{'' if kind == 'sft' else 'rm-'}{Path(model).name.replace(':', '-')}-{_length(named, task)}"
    return STARTS / label / f"{begun}-{_digest(task, model)}"


def _digest(task: Task, model: str) -> str:
    """What tells a start from others: what its task says of itself, and what is in the folders that its model's name has in it,
    `sft:FOLDER` and `soup:FOLDER*0.3,FOLDER*0.7`, too."""
    parts = dict.fromkeys([model, *re.split(r"[:,*]", model)])
    told = [task.describe(), model, [files_digest(part.strip()) for part in parts]]
    return files.sha256(json.dumps(told, sort_keys=True, default=str).encode())[:8]


def _check_same(run: Run) -> None:
    """Refuse a start that was made, or begun, with other settings, such as an earlier version's."""
    try:
        run.check_same()
    except BadSetting as error:
        raise BadSetting(f"{str(error).rpartition(';')[0]}; move it away, and it is made anew") from None
