"""`palaestra compare` and `palaestra report`."""

from __future__ import annotations

import itertools
import shlex
from pathlib import Path
from typing import Any

from palaestra.cli.settings import Parser, add_options, add_settings, read_number, read_value, settings_from
from palaestra.cli.train import DATA_FLAGS, MODEL, add_task_settings, checked, task_settings, usual_updates
from palaestra.core import registry
from palaestra.core.errors import require
from palaestra.core.method import Method, make_method
from palaestra.core.task import as_task
from palaestra.data.load import dataset_spec
from palaestra.runs.engine import Engine

FAILED = 1


def compare(arguments: list[str]) -> int:
    """`palaestra compare METHOD … --task ID … --steps N`, or `--dataset NAME … --sampler NAME … --updates N`."""
    command = shlex.join(["palaestra", "compare", *arguments])
    names = []
    while arguments and not arguments[0].startswith("-"):
        names.append(arguments.pop(0))
    given = _compare_parser(names, arguments).read(arguments)
    require(bool(names), "which methods? palaestra compare METHOD METHOD … --task ID --steps N")
    require("task" in given or "dataset" in given, "which task? add --task ID (palaestra tasks), or --dataset NAME")
    tasks = _tasks(given)
    budget = {name: read_number(given.get(name), int, f"--{name}") for name in ("steps", "updates")}
    if not any(budget.values()):
        budget["updates"] = usual_updates(*tasks)
    seeds = [read_value([text], int, "--seeds") for text in given.get("seeds", ["5"])]
    out = Path(given.get("out", "runs"))
    return finish(
        [method for name in names for method in _methods(name, given)],
        tasks,
        out,
        Path(given.get("report", out / "report.html")),
        command,
        seeds=seeds[0] if len(seeds) == 1 else seeds,
        workers=read_number(given.get("workers"), int, "--workers"),
        ray=given.get("ray"),
        **budget,
        **settings_from(given, Engine),
    )


def finish(methods: list[Method], task: Any, out: Path, page: Path, command: str, **options: Any) -> int:
    """Compare, then show the table, what failed, and where the report is; the exit code."""
    from palaestra.runs import compare as comparison

    done = comparison.compare(methods, task, out=out, **options)
    print(done.table())
    for folder, reason in done.failures.items():
        print(f"failed: {folder}: {reason}")
    print(f"report: {done.report(page, command=command)}")
    return FAILED if done.failures else 0


def _compare_parser(names: list[str], arguments: list[str]) -> Parser:
    parser = Parser(
        "compare",
        "Train several methods with the same seeds and budget, then show the table and write the report.\n"
        "The same command goes on where it stopped: finished runs are skipped, others resumed.",
        usage="palaestra compare METHOD [METHOD …] --task ID [ID …] --steps N [options]",
    )
    parser.add_argument("--task", nargs="+", metavar="ID", help="one or several tasks (palaestra tasks)")
    parser.add_argument(
        "--dataset", nargs="+", metavar="NAME", help="data to learn from; --task is then to evaluate on"
    )
    for name, (metavar, text) in {**DATA_FLAGS, "model": ("NAME", MODEL)}.items():
        parser.add_argument(f"--{name}", nargs="+", metavar=metavar, help=f"{text}; one or several")
    parser.add_argument("--seeds", nargs="+", metavar="N", help="how many, or which if there are several numbers [5]")
    parser.add_argument("--steps", metavar="N", help="budget of every run in environment steps, such as 3e5")
    parser.add_argument("--updates", metavar="N", help="budget in updates, instead of or besides steps")
    parser.add_argument("--workers", metavar="N", help="how many runs train at a time [one per core]")
    parser.add_argument(
        "--ray", metavar="ADDRESS", help="a Ray cluster: an address, auto (one that runs here), or local"
    )
    parser.add_argument("--out", metavar="DIR", help="runs are in DIR/<task>/<method>/seed<k> [runs]")
    parser.add_argument("--report", metavar="FILE", help="where the report goes [DIR/report.html]")
    add_options(parser, Engine, "how each run is driven")
    for name in names:
        add_settings(parser, registry.method_class(name), _prefix(name), f"settings of {name}")
    add_task_settings(parser, arguments)
    return parser


def _methods(name: str, given: dict[str, Any]) -> list[Method]:
    """A method with every combination of what the flags for data name; what was said of this method alone goes before them."""
    cls = registry.method_class(name)
    own = settings_from(given, cls, f"{_prefix(name)}.")
    flags = [flag for flag in (*DATA_FLAGS, "model") if flag in given]
    found: list[dict[str, Any]] = []
    for values in itertools.product(*(given[flag] for flag in flags)):
        settings = {**checked(dict(zip(flags, values, strict=True)), cls), **own}
        if settings.get("synthetic") is None:
            settings.pop("guidance", None)  # there is nothing to guide
        if settings not in found:
            found.append(settings)
    methods = [make_method(name, settings) for settings in found]
    for method in methods:
        method.check()
    return methods


def _tasks(given: dict[str, Any]) -> list[Any]:
    """The tasks that the flags name; with data, `--task` is what policies are evaluated on."""
    if "dataset" not in given:
        return [as_task(name, **task_settings(name, given)) for name in given["task"]]
    envs = given.get("task", [None])
    require(len(envs) == 1, "with --dataset, --task is the one environment to evaluate on")
    return [as_task(dataset_spec(name), **({"env": envs[0]} if envs[0] else {})) for name in given["dataset"]]


def _prefix(name: str) -> str:
    return name.rpartition(":")[2]


def report(arguments: list[str]) -> int:
    """`palaestra report RUN … -o report.html`."""
    parser = Parser("report", "Make one self-contained HTML page of some runs, and show their table.")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder, or a folder with runs below it")
    parser.add_argument("-o", "--out", metavar="FILE", default="report.html", help="where it goes [report.html]")
    parser.add_argument("--title", metavar="TEXT", help="its heading [the methods and tasks]")
    given = parser.read(arguments)
    from palaestra.runs.compare import Comparison
    from palaestra.runs.record import load_records

    found = Comparison(load_records(given["runs"]))
    print(found.table())
    command = shlex.join(["palaestra", "report", *arguments])
    print(f"report: {found.report(given['out'], title=given.get('title'), command=command)}")
    return 0
