"""`palaestra reproduce`, `palaestra study` and `palaestra check`."""

from __future__ import annotations

from palaestra.cli.settings import Parser, read_number
from palaestra.core import registry

HOLDS, FAILS = 0, 1


def reproduce(arguments: list[str]) -> int:
    """`palaestra reproduce NAME`."""
    names = ", ".join(registry.table("claims"))
    parser = Parser("reproduce", f"Run a paper's claim and say whether it holds. There are claims of: {names}.")
    parser.add_argument("name", metavar="NAME", help="the paper's method")
    parser.add_argument("--scale", choices=("small", "paper"), default="small", help="[small]: two cores, minutes")
    parser.add_argument("--workers", metavar="N", help="how many runs train at a time [one per core]")
    parser.add_argument("--out", metavar="DIR", help="where the result files go [results]")
    given = parser.read(arguments)
    from palaestra.claims.claim import reproduce as run

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
