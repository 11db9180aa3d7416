"""What is made while the site is built: the command line's own help, the result files, the losses, and equations as MathML."""

from __future__ import annotations

import contextlib
import html
import inspect
import io
import os
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

from palaestra.cli.main import COMMANDS, main
from palaestra.objectives.answers import losses

ROOT = Path(__file__).parent.parent
EQUATION = re.compile(r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<tex>.*?)\\[)\]]</(?P=tag)>', re.DOTALL)


def on_files(files: Files, config: Any) -> Files:
    files.append(File.generated(config, "cli.md", content=command_line()))
    files.append(File.generated(config, "results.md", content=results()))
    return files


def on_page_markdown(markdown: str, **about: Any) -> str:
    return markdown.replace("<!-- losses -->", table_of_losses(), 1)


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
        "The exit code is 0 if all went well, 1 if a run failed or a claim does not hold, 2 for bad input, 130 after Ctrl-C.\n",
    ]
    for name, command in COMMANDS.items():
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            main([name, "--help"])
        parts.append(
            f"## palaestra {name}\n\n{command.does.capitalize()}.\n\n```text\n{said.getvalue().rstrip()}\n```\n"
        )
    return "\n".join(parts)


def table_of_losses() -> str:
    """All losses of answers, by what they are counted over."""
    rows = [
        "| loss | of one unit | counted over | needs | tokens | settings | paper |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for loss in sorted(losses().values(), key=lambda loss: ["pair", "list", "answer"].index(loss.unit)):
        settings = [p for p in inspect.signature(loss.function).parameters.values() if p.default is not p.empty]
        written = ", ".join(f"`{p.name}={p.default}`" for p in settings)
        needs = ", ".join(f"`{need}`" for need in loss.needs)
        paper = loss.source + (f", [{loss.arxiv}](https://arxiv.org/abs/{loss.arxiv})" if loss.arxiv else "")
        rows.append(
            f"| `{loss.name}` | `{loss.equation}` | {loss.unit} | {needs} | {loss.reduction} | {written} | {paper} |"
        )
    return "\n".join(rows)


def results() -> str:
    """What `palaestra reproduce` wrote into `results/`, one section a file."""
    found = sorted((ROOT / "results").glob("*.md"))
    parts = ["# Results of claims\n", "Written by [`palaestra reproduce`](claims.md), which says how to read them.\n"]
    for path in found:
        lowered = re.sub(r"^(#+ )", r"#\1", path.read_text(), flags=re.MULTILINE)
        parts.append(f"{lowered}\n\nFile: `results/{path.name}`.\n")
    return "\n".join(parts if found else [*parts, "None yet."])
