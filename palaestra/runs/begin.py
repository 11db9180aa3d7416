"""How runs begin: a new one with `train`, one that was stopped `from_folder`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from palaestra.core.errors import BadCheckpoint, PalaestraError
from palaestra.core.method import Method, make_method
from palaestra.core.task import as_task
from palaestra.runs.engine import Engine, make_engine
from palaestra.runs.folder import load_config
from palaestra.runs.run import Run
from palaestra.runs.trust import refuse_foreign_code


def train(
    method: Method | str,
    task: Any,
    *,
    steps: float | None = None,
    updates: float | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    **engine: Any,
) -> Run:
    """Train `method` on `task` and return the finished run.

    `method` is an instance such as `SAC(lr=3e-4)` or a name; `task` a Gymnasium id, a factory, or a `Task`; the other
    keyword arguments are those of `Engine`. Without `out`, results go to `runs/<task>/<method>/seed<seed>`.
    """
    chosen = make_method(method) if isinstance(method, str) else method
    run = Run(chosen, task, steps=steps, updates=updates, seed=seed, folder=out, engine=make_engine(engine))
    return run.train(resume=resume, overwrite=overwrite)


def from_folder(
    folder: str | Path,
    engine: Engine | None = None,
    trust: bool = False,
    *,
    steps: float | None = None,
    updates: float | None = None,
) -> Run:
    """The run that a folder holds, ready to `train(resume=True)`, `evaluate()` or show its `policy`.

    With `steps` or `updates`, that is its budget from now on, by which a finished run may go on.
    Its method and task are imported if they are of the user's own. Where somebody else started it, only with `trust`.

    Raises:
        Untrusted: the folder names code to execute, and is not of a run that this user started on this machine.
        BadCheckpoint: its config.yaml does not describe a run.
    """
    folder = Path(folder)
    path = folder / "config.yaml"
    if not path.exists():
        raise PalaestraError(f"{folder} is not a run (config.yaml is missing)")
    content = load_config(path)
    if not trust:
        refuse_foreign_code(folder, content)
    try:
        return Run(
            make_method(content["method"], content["settings"]),
            as_task(content["task"]["spec"], **content["task"].get("kwargs", {})),
            **(content["budget"] if steps is updates is None else {"steps": steps, "updates": updates}),
            seed=content["seed"],
            folder=folder,
            engine=engine or make_engine(content["engine"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadCheckpoint(f"{path} does not describe a run ({error!r})") from error
