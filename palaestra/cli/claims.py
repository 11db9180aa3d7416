"""`palaestra claims`, `palaestra reproduce`, `palaestra study` and `palaestra check`."""

from __future__ import annotations

import json

from palaestra.cli.settings import Parser, read_number
from palaestra.core import registry
from palaestra.core.errors import PalaestraError

HOLDS, FAILS = 0, 1


def claims(arguments: list[str]) -> int:
    """`palaestra claims [--json]`."""
    parser = Parser("claims", "The papers' claims there are, and what it costs to see whether they hold.")
    parser.add_argument("--json", action="store_true", help="as JSON")
    as_json = "json" in parser.read(arguments)
    found = {name: registry.claim(name) for name in registry.table("claims")}
    if as_json:
        rows = [
            {
                "name": name,
                "sentence": claim.sentence,
                "title": claim.paper.title,
                "year": claim.paper.year,
                "arxiv": claim.paper.arxiv,
                "cost": {scale: one.cost for scale, one in claim.scales.items()},
            }
            for name, claim in found.items()
        ]
        print(json.dumps(rows, indent=2))
        return 0
    for name, claim in found.items():
        print(f"{name}: {claim.sentence}\n  {claim.paper.title}, {claim.paper.year}")
        print("".join(f"  {scale:6s} {one.cost}\n" for scale, one in claim.scales.items()))
    print("run one: palaestra reproduce NAME [--scale paper]")
    return 0


def reproduce(arguments: list[str]) -> int:
    """`palaestra reproduce NAME`."""
    names = ", ".join(registry.table("claims"))
    parser = Parser("reproduce", f"Run a paper's claim and say whether it holds. There are claims of: {names}.")
    parser.add_argument("name", nargs="?", metavar="NAME", help="the paper's method (palaestra claims tells of each)")
    parser.add_argument("--scale", choices=("small", "paper"), default="small", help="[small]: two cores, minutes")
    parser.add_argument("--workers", metavar="N", help="how many runs train at a time [one per core]")
    parser.add_argument("--out", metavar="DIR", help="where the result files go [results]")
    given = parser.read(arguments)
    if "name" not in given:
        claims([])
        raise PalaestraError("which claim? palaestra reproduce NAME")
    from palaestra.claims.reproduce import reproduce as run

    workers = read_number(given.get("workers"), int, "--workers")
    return HOLDS if run(given["name"], scale=given["scale"], workers=workers, out=given.get("out")) else FAILS


def study(arguments: list[str]) -> int:
    """`palaestra study FILE`."""
    parser = Parser(
        "study",
        "Train a grid of preference learning: data x algorithm x reward model x prompts, described by a TOML file.\n"
        "What several cells need is trained once. The same command goes on where it stopped, and trains what the file has since.",
    )
    parser.add_argument("file", metavar="FILE", help="the grid (docs/methods/unpacking-dpo-ppo.md shows one)")
    parser.add_argument("--workers", metavar="N", help="how many runs train at a time [one per core]")
    parser.add_argument("--out", metavar="DIR", help="where the tables go [results]")
    given = parser.read(arguments)
    from palaestra.claims.study import study as run
    from palaestra.cli.listing import columns

    grid, records, page = run(given["file"], read_number(given.get("workers"), int, "--workers"), given.get("out"))
    for heading, rows in grid.tables(records).items():
        print(f"{heading}\n{columns(rows, indent=2)}\n")
    print(f"tables: {page}; every number: {page.with_suffix('.csv')}")
    return HOLDS


def check(arguments: list[str]) -> int:
    """`palaestra check TASK`."""
    parser = Parser("check", "Play an environment a little and say in words what is wrong with it.")
    parser.add_argument("task", metavar="TASK", help="a Gymnasium id, or my_env.py:make")
    name = parser.read(arguments)["task"]
    from palaestra.envs.checker import check_env

    complaints = check_env(name)
    for sentence in complaints:
        print(f"- {sentence}")
    print(f"{name}: {len(complaints)} problem(s)" if complaints else f"{name}: nothing wrong was found")
    return FAILS if complaints else HOLDS
