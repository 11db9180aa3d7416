"""`palaestra train`."""

from __future__ import annotations

import dataclasses
import itertools
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from palaestra.cli.settings import Parser, add_options, add_settings, read_number, read_value, settings_from
from palaestra.core import registry
from palaestra.core.errors import PalaestraError, UnknownName, require, unknown
from palaestra.core.method import Budget, make_method
from palaestra.core.task import as_task
from palaestra.core.world import started
from palaestra.data.load import dataset_spec
from palaestra.data.task import DatasetTask
from palaestra.report.text import clean, number
from palaestra.runs import threads
from palaestra.runs.begin import from_folder
from palaestra.runs.engine import Engine, make_engine
from palaestra.runs.folder import load_config
from palaestra.runs.log import ANSWERS
from palaestra.runs.metrics import read_rows
from palaestra.runs.run import Run
from palaestra.runs.trust import refuse_foreign_code

TRUST = "execute the method or task file that a run names, although you did not start it here"
DATA_FLAGS = {
    "sampler": ("NAME", "which logged steps are drawn: uniform, rw, aw or top (aw:0.05, top:0.2)"),
    "synthetic": ("RUN", "a run of pgd, whose synthetic steps are learnt from too"),
    "guidance": ("X", "how strongly those are guided to the policy that learns [1]"),
}
"""Settings of every offline method that have a short flag: what it takes, and its help."""
MODEL = "the language model to begin with: a hub name, a folder (a run's, too), stories260K, or tiny-WIDTHxLAYERS (from scratch)"
CONFIG = ("palaestra", "method", "settings", "task", "budget", "seed", "engine")


def train(arguments: list[str]) -> int:
    """`palaestra train METHOD --task ID --steps N`, or `palaestra train --resume FOLDER`."""
    method = arguments.pop(0) if arguments and not arguments[0].startswith("-") else None
    given = _train_parser(method, arguments).read(arguments)
    folder = given.get("resume")
    if isinstance(folder, str):
        require(method is None, "give either a method to train or the folder of a run to --resume, not both")
        run, resume = _resumed(folder, given), True
    else:
        run, resume = _planned(method, given), folder is True
    if resume:
        run.check_same()
    if resume and run.finished:
        print(f"{run.folder} is finished already")
    else:
        run.config.check_task(run.task)
        _announce(run)
        run.train(resume=resume, overwrite="overwrite" in given)
        print(f"finished {run.title} in {run.record['seconds']:.0f} s{_last_return(run)}")
        if (run.folder / ANSWERS).exists():
            show(read_rows(run.folder / ANSWERS)[-2:])
    where = shlex.quote(str(run.folder))
    play = "" if run.config.evaluates_on(run.task) else " --task ID"
    if not play or (run.config.evaluates and isinstance(run.task, DatasetTask)):
        answers = run.config.learns_from == "prompts" and run.config.name != "reward-model"
        print(f"  evaluate it  palaestra evaluate {where} {'--samples 8' if answers else '--episodes 20'}{play}")
    print(f"  see it       palaestra report {where} -o report.html")
    return 0


def _train_parser(method: str | None, arguments: list[str]) -> Parser:
    parser = Parser(
        "train",
        "Train one method on one task. METHOD is a name (palaestra methods) or my_method.py:MyMethod.\n"
        "palaestra train METHOD --help lists its settings too.",
        usage=f"palaestra train {method or 'METHOD'} --task ID --steps N [options]\n"
        "       palaestra train --config FILE\n"
        "       palaestra train --resume FOLDER",
    )
    parser.add_argument("--task", metavar="ID", help="a Gymnasium id (palaestra tasks) or my_env.py:make")
    parser.add_argument("--dataset", metavar="NAME", help="data to learn from; --task is then what to evaluate on")
    parser.add_argument("--model", metavar="NAME", help=MODEL)
    for name, (metavar, text) in DATA_FLAGS.items():
        parser.add_argument(f"--{name}", metavar=metavar, help=text)
    parser.add_argument("--steps", metavar="N", help="budget in environment steps, such as 1e6")
    parser.add_argument("--updates", metavar="N", help="budget in updates, instead of or besides steps")
    parser.add_argument("--seed", metavar="N", help="seed of everything random [0]")
    parser.add_argument("--config", metavar="FILE", help="a YAML file such as a run's config.yaml; flags override it")
    parser.add_argument("--out", metavar="DIR", help="the run's folder [runs/<task>/<method>/seed<seed>]")
    parser.add_argument(
        "--resume",
        nargs="?",
        const=True,
        metavar="FOLDER",
        help="go on from the newest checkpoint, if there is one; with FOLDER alone, of the run in it, perhaps for more --steps",
    )
    parser.add_argument("--overwrite", action="store_true", help="start again where a run stands already")
    parser.add_argument("--trust", action="store_true", help=TRUST)
    add_options(parser, Engine, "how the run is driven")
    if method is not None:
        add_settings(parser, registry.method_class(method), "method", f"settings of {method}")
    add_task_settings(parser, arguments)
    return parser


def add_task_settings(parser: Parser, arguments: list[str]) -> None:
    """A flag `--task.<field>` for every setting of the registered task that `--task` names, if it has any."""
    named = [*itertools.pairwise(arguments), *(a.split("=", 1) for a in arguments if a.startswith("--task="))]
    for flag, name in named:
        cls = task_class(name) if flag == "--task" else None
        if cls is not None:
            add_settings(parser, cls, "task", f"settings of {name}")


def task_class(name: str) -> type | None:
    """The class of a registered task whose settings are fields."""
    tasks = registry.table("tasks")
    made = registry.locate(tasks[name]) if name in tasks else None
    return made if isinstance(made, type) and dataclasses.is_dataclass(made) else None


def task_settings(name: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """What the flags `--task.<field>` say of the registered task `name`."""
    cls = task_class(name) if isinstance(name, str) else None
    return {} if cls is None else settings_from(given, cls, "task.")


def _resumed(folder: str, given: Mapping[str, Any]) -> Run:
    budget = _budget(given)
    extra = sorted(set(given) - {"resume", "trust", *budget, *(f.name for f in dataclasses.fields(Engine))})
    require(not extra, f"a run is resumed as it was started: leave out {', '.join(f'--{name}' for name in extra)}")
    stored = load_config(Path(folder) / "config.yaml") if (Path(folder) / "config.yaml").exists() else {}
    options = {**stored.get("engine", {}), "quiet": False, **settings_from(given, Engine)}
    run = from_folder(folder, make_engine(options), "trust" in given, **budget)
    own = [name for name, value in run.config.config.items() if value == "custom"]
    require(
        not own, f"{folder} has your own {', '.join(own)}: resume it from Python, by the same call with resume=True"
    )
    return run


def _planned(method: str | None, given: dict[str, Any]) -> Run:
    """The run that flags and a config file describe; flags win."""
    config = load_config(given["config"]) if "config" in given else {}
    for key in config:
        if key not in CONFIG:
            raise unknown(f"entry of {given['config']}:", key, CONFIG)
    if "config" in given and "trust" not in given and (Path(given["config"]).parent / "run.json").exists():
        refuse_foreign_code(Path(given["config"]).parent, config)
    if method is None:
        method = config.get("method")
    elif config.get("method", method) != method:
        raise PalaestraError(f"{given['config']} is for {config['method']}, not {method}")
    if method is None:
        raise PalaestraError("which method? palaestra train METHOD --task ID --steps N (palaestra methods lists them)")
    stored = _part(config, "task", {"spec": config["task"]} if isinstance(config.get("task"), str) else None)
    data = "dataset" in given
    spec = dataset_spec(given["dataset"]) if data else given.get("task", stored.get("spec"))
    require(spec is not None, "which task? add --task ID (palaestra tasks lists them), or --dataset NAME")
    kwargs = stored.get("kwargs") or {} if spec == stored.get("spec") else {}
    if data and "task" in given:
        kwargs = {"env": given["task"]}
    kwargs = {**kwargs, **task_settings(spec, given)}
    cls = registry.method_class(method)
    settings = {**checked(_part(config, "settings"), cls), **settings_from(given, cls, "method.")}
    settings |= checked({name: given[name] for name in (*DATA_FLAGS, "model") if name in given}, cls)
    budget = checked(_part(config, "budget"), Budget)
    for unit in budget:
        if unit not in ("steps", "updates"):
            raise unknown("budget:", unit, ("steps", "updates"))
    budget = _budget(given) or budget
    task = as_task(spec, **kwargs)
    if not any(budget.values()):
        budget = {"updates": usual_updates(task)}
    seed = read_value([str(given.get("seed", config.get("seed", 0)))], int, "--seed")
    engine = make_engine({**checked(_part(config, "engine"), Engine), **settings_from(given, Engine)})
    try:
        chosen = make_method(method, settings)
    except UnknownName:
        cls().check_task(task)  # a method that does not fit at all has other settings, too
        raise
    chosen.check()
    return Run(
        chosen,
        task,
        seed=seed,
        folder=given.get("out"),
        engine=engine,
        **budget,
    )


def _budget(given: Mapping[str, Any]) -> dict[str, Any]:
    """The budget that flags give, if they do."""
    return {name: read_number(given[name], int, f"--{name}") for name in ("steps", "updates") if name in given}


def usual_updates(*tasks: Any) -> int:
    """The budget of a run on these tasks that is given none.

    Raises:
        BadSetting: they do not say, or not the same.
    """
    usual = {getattr(task, "updates", None) for task in tasks}
    require(len(usual) == 1 and None not in usual, "how long? add --steps N (or --updates N), for example --steps 3e5")
    return int(usual.pop())


def _part(config: Mapping[str, Any], name: str, instead: dict[str, Any] | None = None) -> dict[str, Any]:
    part = instead if instead is not None else config.get(name) or {}
    require(isinstance(part, dict), f"'{name}' in the config file should hold names and values, got {part!r}")
    return part


def checked(part: Mapping[str, Any], cls: type) -> dict[str, Any]:
    """Values of flags or of a YAML file, each read as the type of its field (YAML takes 1e-3 for text); unknown names stay."""
    return {**part, **settings_from(part, cls)}


def _announce(run: Run) -> None:
    """The resolved configuration."""
    size = " or ".join(f"{n:,} {unit}" for unit, n in dataclasses.asdict(run.budget).items() if n)
    settings = "  ".join(f"{name}={_text(value)}" for name, value in run.config.config.items())
    count = run.engine.threads or threads.choose(run.config)
    print(f"{run.title}: {size}, in {run.folder}")
    whole_words = textwrap.TextWrapper(110, "  ", "  ", break_long_words=False, break_on_hyphens=False)
    print(whole_words.fill(settings))
    compiled = ", losses compiled" if run.engine.compile else ""
    precision = run.engine.precision
    rounded = {"highest": "", "bfloat16": ", passes in bfloat16"}.get(precision, f", products of {precision} precision")
    together = f" in each of {started()} processes" if started() > 1 else ""
    print(f"  threads={count} of {threads.available()} cores{together}{compiled}{rounded}", flush=True)


def _text(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)


def _last_return(run: Run) -> str:
    found = [row["evaluation/return"] for row in run.metrics if "evaluation/return" in row]
    return f", evaluation return {number(found[-1])}" if found else ""


def show(examples: Sequence[Mapping[str, Any]]) -> None:
    """Answers as text that a terminal can be shown, whatever a model said."""
    for example in examples:
        prompt, answer = (" ".join(example[part].split()) for part in ("prompt", "answer"))
        print(f"  {clean(prompt, 60)} → {clean(answer, 80)}  ({example['score']:g})")
