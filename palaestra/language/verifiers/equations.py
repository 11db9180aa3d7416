"""CountDown: combining numbers two at a time, and reading what an answer did, step by step, without ever evaluating it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

from palaestra.language.verifiers.verdict import RIGHT, Verdict, unparseable, wrong

UNDO, DONE, GIVEN_UP = "<", "!", "?"
"""In a trace: the last step is taken back; the target is reached; the search ends without it."""
DIGITS = 9
"""No number of a game is longer."""
PIECES = re.compile(r"\s*(?:([0-9]+)\s*([-+*/])\s*([0-9]+)\s*=\s*([0-9]+)|\(([0-9\s]*)\)|([<!?]))")


class Step(NamedTuple):
    """Two numbers become one."""

    left: int
    sign: str
    right: int
    result: int

    def __str__(self) -> str:
        return f"{self.left}{self.sign}{self.right}={self.result}"


@lru_cache(maxsize=1 << 16)
def combine(a: int, b: int) -> tuple[Step, ...]:
    """All that two numbers can become: sum, product, difference without a sign, and quotient where it is whole."""
    low, high = min(a, b), max(a, b)
    steps = [Step(a, "+", b, a + b), Step(a, "*", b, a * b), Step(high, "-", low, high - low)]
    if low and high % low == 0:
        steps.append(Step(high, "/", low, high // low))
    return tuple(steps)


def holds(step: Step) -> bool:
    """Whether an equation is true, its difference not negative, its quotient whole."""
    a, sign, b, c = step
    if sign == "/":
        return b != 0 and a == b * c
    return c >= 0 and c == {"+": a + b, "-": a - b, "*": a * b}[sign]


@dataclass
class Trace:
    """What a text did with its numbers."""

    path: list[Step] = field(default_factory=list)  # the steps that were not taken back
    left: tuple[int, ...] | None = (
        None  # the numbers at the end of the path, in order; None where a step of it is false
    )
    visited: list[tuple[int, ...]] = field(default_factory=list)  # the numbers after each true step, taken back or not
    undone: int = 0  # how many steps were taken back
    end: str = ""  # `!` or `?`, if one closes the text
    fault: str = ""  # why the path is false
    unreadable: str = ""  # why the text is none of this


def read_trace(text: str, numbers: Sequence[int]) -> Trace:
    """Read steps such as `3+7=10`, taken back by `<`; numbers in brackets repeat what is left and are not looked at.

    A step needs its two numbers among those left, and its equation must hold. Steps that were taken back may be false.
    """
    trace = Trace()
    stack: list[tuple[tuple[int, ...] | None, str]] = [(tuple(sorted(numbers)), "")]
    text, place = text.strip(), 0
    while place < len(text):
        if trace.end:
            trace.unreadable = f"something follows the end {trace.end}"
            return trace
        found = PIECES.match(text, place)
        if not found:
            trace.unreadable = f"{text[place : place + 20].strip()!r} is no step"
            return trace
        place = found.end()
        a, sign, b, c, _, mark = found.groups()
        if mark == UNDO:
            if not trace.path:
                trace.unreadable = "a step is taken back before there is one"
                return trace
            trace.path.pop()
            stack.pop()
            trace.undone += 1
        elif mark:
            trace.end = mark
        elif sign:
            if max(map(len, (a, b, c))) > DIGITS:
                trace.unreadable = f"a number has more than {DIGITS} digits"
                return trace
            step = Step(int(a), sign, int(b), int(c))
            trace.path.append(step)
            stack.append(_apply(step, *stack[-1]))
            if (now := stack[-1][0]) is not None:
                trace.visited.append(now)
    trace.left, trace.fault = stack[-1]
    return trace


def _apply(step: Step, left: tuple[int, ...] | None, fault: str) -> tuple[tuple[int, ...] | None, str]:
    if left is None:
        return None, fault
    rest = list(left)
    for number in (step.left, step.right):
        if number not in rest:
            return None, f"{step} uses {number}, which is not left"
        rest.remove(number)
    if not holds(step):
        return None, f"{step} is false"
    return tuple(sorted([*rest, step.result])), ""


def countdown(text: str, row: Mapping[str, Any]) -> Verdict:
    """Whether a text turns the row's `numbers`, all of them, into its `target`; what it claims does not count."""
    trace = read_trace(text, row["numbers"])
    if trace.unreadable or not (trace.path or trace.end):
        return unparseable(trace.unreadable or "there is no step")
    if trace.fault:
        return wrong(trace.fault)
    if trace.end == GIVEN_UP or trace.left != (row["target"],):
        return wrong(f"it ends with {' '.join(map(str, trace.left or ()))}")
    return RIGHT
