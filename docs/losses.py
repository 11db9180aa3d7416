"""Writes the table of all losses of answers into `losses.md`, from what the functions declare: `python docs/losses.py`."""

from __future__ import annotations

import html
import inspect
from pathlib import Path

from palaestra.objectives.answers import losses

PAGE = Path(__file__).with_suffix(".md")
BEGIN, END = "<!-- losses: python docs/losses.py writes this table -->\n\n", "\n\n<!-- end of losses -->"
UNITS = ["pair", "list", "answer"]


def table() -> str:
    """All losses of answers, by what they are counted over."""
    rows = [
        "| loss | of one unit | counted over | needs | tokens | settings | paper |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for loss in sorted(losses().values(), key=lambda loss: (UNITS.index(loss.unit), loss.name)):
        settings = [p for p in inspect.signature(loss.function).parameters.values() if p.default is not p.empty]
        written = ", ".join(f"`{p.name}={p.default}`" for p in settings)
        needs = ", ".join(f"`{need}`" for need in loss.needs)
        paper = loss.source + (f", [{loss.arxiv}](https://arxiv.org/abs/{loss.arxiv})" if loss.arxiv else "")
        rows.append(
            f"| `{loss.name}` | {_code(loss.equation)} | {loss.unit} | {needs} | {loss.reduction} | {written} | {paper} |"
        )
    return "\n".join(rows)


def _code(text: str) -> str:
    """Code in a cell of a table, which a bar would end."""
    return f"`{text}`" if "|" not in text else f"<code>{html.escape(text).replace('|', '&#124;')}</code>"


def page(text: str) -> str:
    """The page with the table as it is now in place of what stands there."""
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + table() + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
