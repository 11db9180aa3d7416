"""`palaestra methods` and `palaestra tasks`: what there is."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from palaestra.cli.settings import Parser, add_settings
from palaestra.cli.train import task_class
from palaestra.core import registry
from palaestra.core.method import Method, methods_for
from palaestra.envs.catalogue import catalogue

SHORT = {
    "box": "continuous",
    "discrete": "discrete",
    "multi_discrete": "multi-discrete",
    "multi_binary": "multi-binary",
    "text": "text",
}


def methods(arguments: list[str]) -> int:
    """`palaestra methods [--json]`."""
    parser = Parser("methods", "The methods there are. `reuse` is how often each environment step is learnt from.")
    parser.add_argument("--json", action="store_true", help="as JSON")
    as_json = "json" in parser.read(arguments)
    rows = [_about(name) for name in registry.table("methods")]
    if as_json:
        print(json.dumps(rows, indent=2))
        return 0
    for family in dict.fromkeys(row["family"] for row in rows):
        members = [row for row in rows if row["family"] == family]
        table = [("method", "actions", "reuse", "what it is, and its paper")]
        for row in members:
            actions = ", ".join(SHORT.get(kind, kind) for kind in row["actions"])
            source = f"arXiv {row['arxiv']}" if row["arxiv"] else ""
            table.append((row["name"], actions, f"{row['reuse']:g}x", row["summary"]))
            table.append(("", "", "", ", ".join(part for part in (row["title"], str(row["year"]), source) if part)))
        print(f"{family}\n{columns(table, indent=2)}")
    print("\nreuse: how often each environment step is learnt from, a rough measure of cost")
    print("settings of a method: palaestra train METHOD --help")
    return 0


def _about(name: str) -> dict[str, Any]:
    cls = registry.method_class(name)
    return {
        "name": name,
        "class": cls.__name__,
        "title": cls.paper.title,
        "year": cls.paper.year,
        "arxiv": cls.paper.arxiv,
        "url": cls.paper.url,
        "family": cls.family,
        "actions": list(cls.action_kinds),
        "masks_actions": cls.masks_actions,
        "summary": cls.summary,
        "reuse": _reuse(cls()),
    }


def _reuse(method: Method) -> float:
    """How often each environment step is learnt from: replayed, or passed over."""
    config = method.config
    if "updates_per_round" in config:
        drawn = config["batch_size"] * config["updates_per_round"]
        return drawn / (config["num_envs"] * config["steps_per_round"])
    return config.get("epochs") or config.get("inner_steps") or 1


def tasks(arguments: list[str]) -> int:
    """`palaestra tasks [NAME …] [--json]`."""
    parser = Parser("tasks", "The tasks there are, or those called NAME, and the methods that fit them.")
    parser.add_argument("names", nargs="*", metavar="NAME", default=[], help="show this one and its settings")
    parser.add_argument("--json", action="store_true", help="as JSON")
    given = parser.read(arguments)
    listed = catalogue(given["names"])
    fits = {kind: methods_for(kind) for kind in SHORT}
    if "json" in given:
        rows = [{**item._asdict(), "methods": fits.get(item.action_kind, [])} for item in listed]
        print(json.dumps(rows, indent=2))
        return 0
    for group in dict.fromkeys(item.group for item in listed):
        table = [("task", "what it is" if group in ("text", "comparisons") else "observations", "actions")]
        table += [(item.name, item.observations, item.actions) for item in listed if item.group == group]
        print(f"{group}\n{columns(table, indent=2)}\n")
    for kind in dict.fromkeys(item.action_kind for item in listed if item.action_kind):
        print(f"methods for {SHORT.get(kind, kind)} actions: {', '.join(fits.get(kind, [])) or 'none yet'}")
    for name in given["names"]:
        if (cls := task_class(name)) is not None:
            settings = Parser("tasks", "", usage=argparse.SUPPRESS, add_help=False)
            add_settings(settings, cls, "task", f"settings of {name}")
            print(f"\n{settings.format_help().strip()}")
    if not given["names"]:
        print("any Gymnasium id and any `file.py:factory` is a task; palaestra tasks NAME shows one")
    return 0


def columns(rows: Sequence[Sequence[str]], indent: int = 0) -> str:
    """Rows of text in aligned columns, the first row the header."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    return "\n".join(" " * indent + line for line in lines)
