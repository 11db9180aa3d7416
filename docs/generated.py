"""What is made while the site is built: the command line's own help, the result files, and equations as MathML."""

from __future__ import annotations

import contextlib
import html
import io
import os
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

from palaestra.cli.main import COMMANDS, main

ROOT = Path(__file__).parent.parent
EQUATION = re.compile(r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<tex>.*?)\\[)\]]</(?P=tag)>', re.DOTALL)


def on_files(files: Files, config: Any) -> Files:
    files.append(File.generated(config, "cli.md", content=command_line()))
    files.append(File.generated(config, "results.md", content=results()))
    return files


def on_page_content(content: str, **about: Any) -> str:
    """Equations as MathML, which browsers draw by themselves: nothing is fetched and no script runs."""
    return EQUATION.sub(_mathml, content)


def _mathml(found: re.Match[str]) -> str:
    tex = html.unescape(found["tex"]).replace(r"\arg", r"\operatorname{arg}")  # which the converter does not know
    return convert(tex, display="block" if found["tag"] == "div" else "inline")


def command_line() -> str:
    """Every command's `--help`, as it is printed."""
    os.environ.update(COLUMNS="100", NO_COLOR="1")
    parts = [
        "# Command line\n",
        "What each command says of itself. Numbers may be written `3e5`; a flag that belongs to a method is spelt "
        "`--method.lr` under `train` and `--sac.lr` under `compare`. `palaestra train METHOD --help` lists them.\n",
        "The exit code is 0 if all went well, 1 if a run failed or a claim does not hold, 2 for bad input, "
        "3 where training diverged, 130 after Ctrl-C.\n",
    ]
    for name, command in COMMANDS.items():
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            main([name, "--help"])
        parts.append(
            f"## palaestra {name}\n\n{command.does.capitalize()}.\n\n```text\n{said.getvalue().rstrip()}\n```\n"
        )
    return "\n".join(parts)


def results() -> str:
    """What `palaestra reproduce` wrote into `results/`, one section a file."""
    found = sorted((ROOT / "results").glob("*.md"))
    parts = ["# Results of claims\n", "Written by [`palaestra reproduce`](claims.md), which says how to read them.\n"]
    for path in found:
        lowered = re.sub(r"^(#+ )", r"#\1", path.read_text(), flags=re.MULTILINE)
        parts.append(f"{lowered}\n\nFile: `results/{path.name}`.\n")
    return "\n".join(parts if found else [*parts, "None yet."])
