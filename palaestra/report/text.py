"""Words and numbers as a report shows them, whatever the runs contain."""

from __future__ import annotations

import math
import re
import unicodedata

from palaestra.report.statistics import FEW_SEEDS, Interval

LONGEST = 160
# Characters that reorder or hide their neighbours, in a browser as in a terminal.
_BIDI = re.compile("[\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")


def clean(value: object, longest: int = LONGEST) -> str:
    """Text from outside made harmless to look at: no control or direction characters, no lone surrogates, not endless."""
    text = str(value)
    shown = text[:longest] + ("…" if len(text) > longest else "")
    shown = _BIDI.sub("\ufffd", shown)
    return "".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cs") else c for c in shown)


def number(value: float | None) -> str:
    """Three significant digits or all of the integer part, with a true minus sign."""
    if value is None or not math.isfinite(value):
        return "–"
    size = abs(value)
    if size >= 1e7 or 0 < size < 1e-3:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{mantissa}e{int(exponent)}".replace("-", "−")
    decimals = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 or size == 0 else 3
    shown = f"{value:,.{decimals}f}".replace("-", "−")
    return shown if size else "0"


def interval(estimate: Interval) -> str:
    """`value [low, high]`, or the value alone where there is no interval; it does not break over lines."""
    return f"{number(estimate.value)} {span(estimate)}".rstrip().replace(" ", "\xa0")


def span(estimate: Interval) -> str:
    """`[low, high]`, or nothing."""
    return f"[{number(estimate.low)}, {number(estimate.high)}]" if math.isfinite(estimate.low) else ""


def duration(seconds: float) -> str:
    """Wall-clock time in the two largest units that matter."""
    if not math.isfinite(seconds):
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def seeds(values: list[int]) -> str:
    """`0-4, 7` for seeds 0 to 4 and 7."""
    parts: list[list[int]] = []
    for value in sorted(set(values)):
        if parts and value == parts[-1][-1] + 1:
            parts[-1].append(value)
        else:
            parts.append([value])
    return ", ".join(f"{p[0]}–{p[-1]}" if len(p) > 2 else ", ".join(map(str, p)) for p in parts)


def few_seeds(fewest: int) -> str | None:
    """A warning where the intervals rest on too little."""
    if fewest >= FEW_SEEDS:
        return None
    if fewest < 2:
        return f"One seed shows nothing about chance, so there is no interval; train at least {FEW_SEEDS}."
    return f"With {fewest} seeds an interval is a rough guide and usually too narrow; train at least {FEW_SEEDS}."


def counted(number: int, noun: str) -> str:
    """How many of something, as in `1 run` and `2 runs`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
