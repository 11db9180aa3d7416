"""`palaestra data`: make, import, inspect and export logged data."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from palaestra.cli.listing import columns
from palaestra.cli.settings import Parser, add_settings, read_number, read_value, settings_from
from palaestra.core import registry
from palaestra.core.errors import BadDataset, PalaestraError, require, unknown
from palaestra.core.method import make_method

HOLDS, FAILS = 0, 1
LIMITS = ("env", "action_low", "action_high", "action_count")


class Part(NamedTuple):
    """A part of `palaestra data`: what it does, how it is typed."""

    run: Callable[[list[str]], int]
    does: str
    usage: str


def data(arguments: list[str]) -> int:
    """`palaestra data PART …`."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    name, *rest = arguments
    if name not in PARTS:
        raise unknown("part of data", name, PARTS)
    return PARTS[name].run(rest)


def make(arguments: list[str]) -> int:
    """`palaestra data make ENV QUALITY`."""
    method = _value_of("--method", arguments)
    parser = _parser("make")
    parser.add_argument("env", metavar="ENV", help="a Gymnasium id (palaestra tasks) or my_env.py:make")
    parser.add_argument(
        "quality",
        metavar="QUALITY",
        help="random, medium, expert, noisy, medium-replay, full-replay, replay, medium-expert, random-medium-expert, mixed, "
        "random-medium-X or random-expert-X with X such as 0.1",
    )
    parser.add_argument("--seed", metavar="N", help="seed of everything random [0]")
    parser.add_argument(
        "--size", metavar="N", help="steps the dataset has at least [by the environment, 10,000 to 100,000]"
    )
    parser.add_argument(
        "--method", metavar="NAME", help="what behaves: a method that acts [sac, or dqn for discrete actions]"
    )
    parser.add_argument("--steps", metavar="N", help="how long it is trained [by the environment, 5,000 to 1,000,000]")
    parser.add_argument("--name", metavar="NAME", help="what to call the dataset [local:ENV/QUALITY]")
    if method is not None:
        add_settings(parser, registry.method_class(method), "method", f"settings of {method}")
    given = parser.read(arguments)
    from palaestra.data.make import make as run

    behaviour = None
    if method is not None:
        behaviour = make_method(method, settings_from(given, registry.method_class(method), "method."))
    dataset = run(
        given["env"],
        given["quality"],
        seed=read_value([str(given.get("seed", 0))], int, "--seed"),
        size=read_number(given.get("size"), int, "--size"),
        method=behaviour,
        steps=read_number(given.get("steps"), int, "--steps"),
        name=given.get("name"),
    )
    _announce(dataset)
    return 0


def show(arguments: list[str]) -> int:
    """`palaestra data show NAME`."""
    parser = _parser("show")
    parser.add_argument("name", metavar="NAME", help="a dataset (palaestra data list)")
    parser.add_argument("--reference", metavar="NAME", help="a dataset of the same size to measure coverage by")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.add_argument("-o", "--out", metavar="FILE", help="also as one HTML file")
    given = parser.read(arguments)
    from palaestra.data.load import load_dataset
    from palaestra.data.summary import summarise
    from palaestra.report.dataset import summary_text, write_summary

    reference = load_dataset(given["reference"]) if "reference" in given else None
    summary = summarise(load_dataset(given["name"]), reference)
    print(json.dumps(dataclasses.asdict(summary), indent=2) if "json" in given else _printable(summary_text(summary)))
    if "out" in given:
        command = shlex.join(["palaestra", "data", "show", *arguments])
        written = write_summary(summary, given["out"], command)
        if "json" not in given:
            print(f"report: {written}")
    return 0


def list_all(arguments: list[str]) -> int:
    """`palaestra data list`."""
    parser = _parser("list")
    parser.add_argument("--json", action="store_true", help="as JSON")
    as_json = "json" in parser.read(arguments)
    from palaestra.data.load import load_dataset, root, stored

    rows: list[dict[str, Any]] = []
    broken: list[str] = []
    for name in stored():
        try:
            found = load_dataset(name)
        except PalaestraError as error:
            broken.append(str(error))
            continue
        rows.append(
            {
                "name": name,
                "steps": len(found),
                "episodes": len(found.starts),
                "return": float(found.returns.mean()),
                "env": found.env,
            }
        )
    if as_json:
        print(json.dumps(rows, indent=2))
        return 0
    if rows:
        head = ("dataset", "steps", "episodes", "mean return", "environment")
        cells = [
            (r["name"], f"{r['steps']:,}", f"{r['episodes']:,}", f"{r['return']:.1f}", r["env"] or "none") for r in rows
        ]
        print(columns([head, *cells]))
    for sentence in broken:
        print(f"left out: {sentence}")
    print(f"{len(rows)} datasets in {root()}; any local:ENV/QUALITY is made when it is first used")
    return 0


def mix(arguments: list[str]) -> int:
    """`palaestra data mix A B --share X --name NAME`."""
    parser = _parser("mix")
    parser.add_argument("good", metavar="A", help="the dataset that is given a share")
    parser.add_argument("rest", metavar="B", help="the dataset that the rest is from")
    parser.add_argument("--share", metavar="X", required=True, help="share of steps from A, such as 0.1")
    parser.add_argument("--name", metavar="NAME", required=True, help="what to call the mixture")
    parser.add_argument("--size", metavar="N", help="steps of the mixture at least [as many as A has]")
    parser.add_argument("--seed", metavar="N", help="seed of which episodes are drawn [0]")
    given = parser.read(arguments)
    from palaestra.data.load import load_dataset
    from palaestra.data.mixture import mix as run

    mixed = run(
        load_dataset(given["good"]),
        load_dataset(given["rest"]),
        read_value([given["share"]], float, "--share"),
        name=given["name"],
        size=read_number(given.get("size"), int, "--size"),
        seed=read_value([str(given.get("seed", 0))], int, "--seed"),
    )
    _announce(mixed)
    return 0


def label(arguments: list[str]) -> int:
    """`palaestra data label DATASET --name NAME`."""
    parser = _parser("label")
    parser.add_argument("dataset", metavar="DATASET", help="the dataset whose windows are compared")
    parser.add_argument("--name", metavar="NAME", required=True, help="what to call the preferences")
    parser.add_argument(
        "--teacher",
        metavar="WHO",
        help="scripted, or human labels: a file, .npz, .json or .jsonl, or a published folder [scripted]",
    )
    parser.add_argument("--length", metavar="N", help="steps of a window [20; 100 for human labels]")
    parser.add_argument("--seed", metavar="N", help="seed of pairs and labels [0]")
    scripted = parser.add_argument_group("the scripted teacher, who compares rewards")
    scripted.add_argument("--pairs", metavar="N", help="pairs to label [1000]")
    scripted.add_argument(
        "--foresee", metavar="N", help="steps whose rewards are compared, from a window's first [200]"
    )
    scripted.add_argument("--average", action="store_true", help="compare means of rewards, not sums")
    scripted.add_argument("--tie", metavar="X", help="differences of at most X are ties [0]")
    scripted.add_argument("--flip", metavar="P", help="share of strict labels that are turned round [0]")
    given = parser.read(arguments)
    from palaestra.data.load import fresh_folder, load_dataset
    from palaestra.data.preference_files import read_human_labels
    from palaestra.data.preferences import ScriptedTeacher

    folder = fresh_folder(given["name"])
    dataset, who = load_dataset(given["dataset"]), given.get("teacher", "scripted")
    length = read_number(given.get("length"), int, "--length")
    told = {key: given[key] for key in ("foresee", "average", "tie", "flip") if key in given}
    if who == "scripted":
        pairs = read_number(given.get("pairs"), int, "--pairs") or 1000
        seed = read_value([str(given.get("seed", 0))], int, "--seed")
        teacher = ScriptedTeacher(**settings_from(told, ScriptedTeacher))
        preferences = teacher.label(dataset, pairs, length or 20, seed, given["name"])
    else:
        odd = [key for key in ("pairs", "seed", *told) if key in given]
        require(not odd, f"--{odd[0] if odd else ''} is for the scripted teacher, not for labels in a file")
        preferences = dataclasses.replace(read_human_labels(who, dataset, length or 100), name=given["name"])
    preferences.save(folder)
    ties = int((preferences.label == 0.5).sum())
    print(f"{given['name']}: {len(preferences):,} pairs of {dataset.name}, {ties:,} of them ties")
    print(
        f"  learn from it   palaestra train oppo --dataset {given['dataset']} --method.labels {given['name']} --updates 1e5"
    )
    return 0


def import_file(arguments: list[str]) -> int:
    """`palaestra data import FILE --name NAME`."""
    parser = _parser("import")
    parser.add_argument(
        "file", metavar="FILE", help="D4RL's .hdf5, a NumPy archive .npz, or a table .csv of logged episodes"
    )
    parser.add_argument("--name", metavar="NAME", required=True, help="what to call the dataset")
    _add_limits(parser)
    parser.add_argument(
        "--references",
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="returns that count as 0 and 100: a random and an expert policy's",
    )
    given = parser.read(arguments)
    from palaestra.data.checker import check_dataset
    from palaestra.data.importing import import_dataset

    references = None
    if "references" in given:
        low, high = (read_value([text], float, "--references") for text in given["references"])
        references = low, high
    dataset = import_dataset(given["file"], name=given["name"], limits=_limits(given), references=references)
    for note in dataset.about["notes"]:
        print(_printable(f"note: {note}"))
    for sentence in check_dataset(dataset):
        print(_printable(f"- {sentence}"))
    _announce(dataset)
    return 0


def export(arguments: list[str]) -> int:
    """`palaestra data export NAME --minari ID`, or `--jsonl FILE`."""
    parser = _parser("export")
    parser.add_argument(
        "name", metavar="NAME", help="a dataset (palaestra data list), or preferences (palaestra data label)"
    )
    parser.add_argument("--minari", metavar="ID", help="a dataset's id there, such as mine/hopper/medium-v0")
    parser.add_argument("--jsonl", metavar="FILE", help="where preferences go, a line for each pair")
    given = parser.read(arguments)
    require(
        len({"minari", "jsonl"} & given.keys()) == 1,
        "say where it goes: a dataset --minari ID, preferences --jsonl FILE",
    )
    if "jsonl" in given:
        from palaestra.data.preference_files import load_preferences

        preferences = load_preferences(given["name"])
        print(f"wrote {preferences.write(given['jsonl'])}: {len(preferences):,} pairs of {preferences.dataset.name}")
        return 0
    from palaestra.data.load import load_dataset
    from palaestra.data.minari import write_minari

    place = write_minari(load_dataset(given["name"]), given["minari"])
    print(f"wrote {place}: minari.load_dataset('{given['minari']}')")
    return 0


def check(arguments: list[str]) -> int:
    """`palaestra data check FILE-or-NAME`."""
    parser = _parser("check")
    parser.add_argument("name", metavar="NAME", help="a dataset, or a file that is not imported yet")
    _add_limits(parser)
    given = parser.read(arguments)
    name = given["name"]
    from palaestra.data.checker import check_dataset
    from palaestra.data.importing import dataset_from
    from palaestra.data.load import load_dataset
    from palaestra.data.logs import READERS

    file = Path(name).suffix.lower() in READERS and not (Path(name) / "dataset.json").exists()
    try:
        dataset = dataset_from(name, name=name, limits=_limits(given)) if file else load_dataset(name)
        findings = check_dataset(dataset)
        notes = dataset.about.get("notes", []) if file else []
    except BadDataset as error:
        findings, notes = [str(error)], []
    for note in notes:
        print(_printable(f"note: {note}"))
    for sentence in findings:
        print(_printable(f"- {sentence}"))
    print(f"{name}: {len(findings)} problem(s)" if findings else f"{name}: nothing wrong was found")
    return FAILS if findings else HOLDS


PARTS = {
    "make": Part(make, "train a behaviour and log it: random, medium, expert, replays, mixtures", "ENV QUALITY"),
    "import": Part(import_file, "take in D4RL's files, NumPy archives and tables of episodes", "FILE --name NAME"),
    "check": Part(check, "say in words what is wrong with a dataset, or a file to be imported", "NAME"),
    "show": Part(show, "returns, lengths, coverage, quality, copies, and what each sampler would draw", "NAME"),
    "list": Part(list_all, "the datasets there are", ""),
    "mix": Part(mix, "whole episodes of two datasets, by a share", "A B --share X --name NAME"),
    "label": Part(label, "say which of two windows is better, by a scripted teacher or a file", "DATASET --name NAME"),
    "export": Part(export, "write a dataset in Minari's format, or preferences as JSONL", "NAME --minari ID"),
}


def _help() -> str:
    rows = [f"  {f'{name} {part.usage}'.strip():<32} {part.does}" for name, part in PARTS.items()]
    return "\n".join(
        [
            "usage: palaestra data PART …\n",
            "Make, import, inspect and export logged data, which offline methods learn from (train METHOD --dataset NAME).\n",
            "parts (each with --help):",
            *rows,
        ]
    )


def _parser(name: str) -> Parser:
    part = PARTS[name]
    return Parser(f"data {name}", f"{part.does[0].upper()}{part.does[1:]}.")


def _add_limits(parser: Parser) -> None:
    group = parser.add_argument_group("what the file does not say")
    group.add_argument("--env", metavar="ID", help="the environment it is from, to take its spaces and to evaluate on")
    group.add_argument(
        "--action-low", nargs="+", metavar="X", help="least value of each number of an action, or one for all"
    )
    group.add_argument("--action-high", nargs="+", metavar="X", help="greatest value")
    group.add_argument("--action-count", metavar="N", help="how many actions there are, where they are indices")


def _limits(given: Mapping[str, Any]) -> Any:
    from palaestra.data.importing import Limits

    return Limits(**settings_from({name: given[name] for name in LIMITS if name in given}, Limits))


def _value_of(flag: str, arguments: list[str]) -> str | None:
    """The value of a flag, before the others are known."""
    for i, argument in enumerate(arguments):
        if argument == flag and i + 1 < len(arguments):
            return arguments[i + 1]
        if argument.startswith(f"{flag}="):
            return argument.partition("=")[2]
    return None


def _printable(text: str) -> str:
    """Lines without what somebody else's words could do to a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text)


def _announce(dataset: Any) -> None:
    name = shlex.quote(dataset.name)
    print(
        f"{dataset.name}: {len(dataset):,} steps, {len(dataset.starts):,} episodes, mean return {dataset.returns.mean():.1f}"
    )
    print(f"  look at it      palaestra data show {name}")
    print(f"  learn from it   palaestra train bc --dataset {name} --updates 1e5")
