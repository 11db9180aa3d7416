"""A read-out of tokens as one self-contained HTML file, and as text for a terminal."""

from __future__ import annotations

import textwrap
from pathlib import Path

from palaestra.core import files
from palaestra.language.readout import Reading, Readout
from palaestra.report.html import Html, document, h, outside, table
from palaestra.report.text import clean, number
from palaestra.report.tokens import ABOUT, MIDDLE, drawn, level, notes, signed, visible

WIDTH = 100
"""Of lines in a terminal."""
SHADES = (202, 208, 215, 222, 230, 0, 195, 153, 117, 75, 33)
"""Of a terminal's 256 colours those of the levels, from orange to blue."""
HEAD = ("answers", "number", "score", "sum of rewards", "log p", "log p of the reference")


def write_readout(readout: Readout, out: Path, command: str) -> Path:
    """Write a read-out as one self-contained HTML file; `command` is what would make it again."""
    title = f"Tokens of {clean(readout.policy)}"
    models = [("policy", readout.policy), ("reference", readout.reference), ("beta", f"{readout.beta:g}")]
    facts = [(name, value) for name, value in [*models, ("task", readout.task)] if value]
    body = [
        h("header", h("h1", "What each token is worth"), h("p", outside(readout.policy), class_="lead")),
        h(
            "main",
            h("section", h("p", ABOUT), drawn(readout)),
            h("section", h("h2", "In the mean"), table(list(HEAD), _means(readout))),
            h("section", h("h2", "What was asked"), table(["what", "is"], [[n, outside(v, 400)] for n, v in facts])),
            h("p", "Made by ", h("code", clean(command, 2000)), class_="muted"),
        ),
    ]
    files.write_text(out, document(title, Html("".join(body))))
    return out


def readout_text(readout: Readout, colour: bool = False) -> str:
    """A read-out for a terminal: tokens above their rewards, with shades behind them if it takes colours."""
    lines = []
    for answer in readout.answers:
        score = "" if answer.score is None else f", score {number(answer.score)}"
        about = f"{clean(answer.what, 60)}{score}, sum {signed(answer.total)}"
        lines += [f"{clean(answer.prompt, 60)}  {about}", *_aligned(answer, readout.scale, colour), ""]
    head, *rows = [list(HEAD), *_means(readout)]
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    for row in [head, *rows]:
        lines.append("  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:]))]))
    lines += ["", *textwrap.wrap(_in_words(readout), WIDTH)]
    return "\n".join([*lines, *(line for note in notes(readout) for line in textwrap.wrap(note, WIDTH))])


def _aligned(answer: Reading, scale: float, colour: bool) -> list[str]:
    """Lines of tokens and lines of rewards, one below the other, folded."""
    lines, above, below, used = list[str](), "  ", "  ", 2
    for token, reward in zip(answer.tokens, answer.rewards):
        shown, value = visible(token), signed(reward)
        wide = max(len(shown), len(value))
        if used + wide > WIDTH and used > 2:
            lines += [above.rstrip(), below.rstrip()]
            above, below, used = "  ", "  ", 2
        shade = level(reward, scale)
        painted = f"\x1b[48;5;{SHADES[shade]};38;5;16m{shown:>{wide}}\x1b[0m" if shade != MIDDLE else f"{shown:>{wide}}"
        above += f"{painted if colour else f'{shown:>{wide}}'} "
        below += f"{value:>{wide}} "
        used += wide + 1
    return [*lines, above.rstrip(), below.rstrip()]


def _in_words(readout: Readout) -> str:
    return (
        f"The numbers are beta = {readout.beta:g} times how much likelier the policy ({clean(readout.policy, 80)}) finds a token "
        f"than the reference ({clean(readout.reference, 80)}), in nats. The lowest are what preferences blame."
    )


def _means(readout: Readout) -> list[list[str]]:
    """Means over answers of one kind: whether what was chosen, too, has become less likely."""
    rows = []
    for what, answers in readout.kinds().items():
        scores = [a.score for a in answers if a.score is not None]
        sums = ([a.total for a in answers], [sum(a.logp) for a in answers], [sum(a.ref_logp) for a in answers])
        means = [sum(values) / len(values) for values in sums]
        score = number(sum(scores) / len(scores)) if scores else "–"
        rows.append([clean(what, 60), str(len(answers)), score, signed(means[0]), *map(number, means[1:])])
    return rows
