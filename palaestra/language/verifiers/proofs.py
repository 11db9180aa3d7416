"""A calculus of implications between literals, and a checker that looks at every line of a proof.

A literal is an atom, `a` to `h`, or its negation, `~a`; a formula is a literal or an implication, `a>~b`. A proof is lines,
each a rule and what it yields from premises and earlier lines, and `qed`: `mp b;hs b>d;mp d;qed`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from palaestra.language.verifiers.verdict import RIGHT, Verdict, unparseable, wrong

ATOMS = "abcdefgh"
RULES = {
    "mp": "from x>y and x, y",
    "mt": "from x>y and ~y, ~x",
    "hs": "from x>y and y>z, x>z",
    "cp": "from x>y, ~y>~x",
}
END = "qed"
LITERAL = f"(~?)([{ATOMS}])"
FORMULA = re.compile(f"{LITERAL}(?:>{LITERAL})?")
LINE = re.compile(f"({'|'.join(RULES)}) ({FORMULA.pattern});")

Literal = int
"""An atom's place in the alphabet from 1 on, negative for its negation."""


class Formula(NamedTuple):
    """`then`, or if `given` is not 0, `given>then`."""

    given: Literal
    then: Literal

    def __str__(self) -> str:
        return (f"{_spelt(self.given)}>" if self.given else "") + _spelt(self.then)


class Line(NamedTuple):
    """What a rule yields."""

    rule: str
    formula: Formula

    def __str__(self) -> str:
        return f"{self.rule} {self.formula};"


def _spelt(literal: Literal) -> str:
    return ("~" if literal < 0 else "") + ATOMS[abs(literal) - 1]


def _literal(sign: str, atom: str) -> Literal:
    return (ATOMS.index(atom) + 1) * (-1 if sign else 1)


@lru_cache(maxsize=1 << 12)
def formula(text: str) -> Formula:
    """A formula from its text.

    Raises:
        ValueError: it is none.
    """
    found = FORMULA.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no formula")
    a, b, c, d = found.groups()
    return Formula(_literal(a, b), _literal(c, d)) if d else Formula(0, _literal(a, b))


def follows(line: Line, known: Iterable[Formula]) -> bool:
    """Whether the rule of a line yields its formula from those that are known."""
    known = known if isinstance(known, set | frozenset) else set(known)
    rule, (given, then) = line
    if rule == "mp":
        return not given and any(f.then == then and f.given and Formula(0, f.given) in known for f in known)
    if rule == "mt":
        return not given and any(f.given == -then and Formula(0, -f.then) in known for f in known)
    if rule == "hs":
        return bool(given) and any(f.given == given and Formula(f.then, then) in known for f in known)
    return rule == "cp" and bool(given) and Formula(-then, -given) in known


def consequences(known: Iterable[Formula]) -> Iterator[Line]:
    """Every line that follows from what is known and yields what is not."""
    known = set(known)
    lines = set()
    for f in known:
        if not f.given:
            continue
        lines.add(Line("cp", Formula(-f.then, -f.given)))
        lines.update(Line("hs", Formula(f.given, g.then)) for g in known if g.given == f.then)
        if Formula(0, f.given) in known:
            lines.add(Line("mp", Formula(0, f.then)))
        if Formula(0, -f.then) in known:
            lines.add(Line("mt", Formula(0, -f.given)))
    yield from sorted(line for line in lines if line.formula not in known)


def read_proof(text: str) -> tuple[list[Line], str]:
    """The lines of a text, and what comes after the last."""
    text, lines, place = text.strip(), [], 0
    while found := LINE.match(text, place):
        lines.append(Line(found[1], formula(found[2])))
        place = found.end()
    return lines, text[place:]


def is_proof(lines: Sequence[Line], premises: Iterable[Formula], goal: Formula) -> bool:
    """Whether every line follows and the last one is the goal."""
    known = set(premises)
    for line in lines:
        if not follows(line, known):
            return False
        known.add(line.formula)
    return bool(lines) and lines[-1].formula == goal


def proof(text: str, row: Mapping[str, Any]) -> Verdict:
    """Whether a text proves the row's `goal` from its `premises`; whatever follows the end is wrong, and so is a missing end."""
    lines, rest = read_proof(text)
    if not lines or (rest and not rest.startswith(END)):
        return unparseable(f"{rest[:20]!r} is no line of a proof" if rest else "there is no line")
    known = {formula(premise) for premise in row["premises"]}
    for number, line in enumerate(lines, 1):
        if not follows(line, known):
            return wrong(f"line {number}, {line} does not follow")
        known.add(line.formula)
    if rest != END:
        return wrong(f"something follows the end: {rest[len(END) :][:20]!r}" if rest else f"it does not end with {END}")
    if lines[-1].formula != formula(row["goal"]):
        return wrong(f"it ends with {lines[-1].formula}, not {row['goal']}")
    return RIGHT


def style_of(text: str) -> str:
    """How a proof goes about it.

    "forward" finds literals only; "contra" ends with a modus tollens after it has built implications; "left" builds those from
    one antecedent on, "right" from one consequent back, and "mixed" does neither. One built implication counts as "left".
    """
    lines, _ = read_proof(text)
    built = [line.formula for line in lines if line.rule == "hs"]
    if not built:
        return "forward" if all(line.rule in ("mp", "mt") for line in lines) else "mixed"
    if lines[-1].rule == "mt":
        return "contra"
    if any(line.rule in ("mp", "mt") for line in lines[:-1]):
        return "mixed"
    if len({f.given for f in built}) == 1:
        return "left"
    return "right" if len({f.then for f in built}) == 1 else "mixed"


def proofs_of(premises: Iterable[str], goal: str, lines: int) -> Iterator[tuple[Line, ...]]:
    """Every proof of at most so many lines of which none can be left out."""
    given, sought = frozenset(map(formula, premises)), formula(goal)

    def extended(done: tuple[Line, ...], known: frozenset[Formula]) -> Iterator[tuple[Line, ...]]:
        for line in consequences(known):
            longer = (*done, line)
            if line.formula == sought:
                if not any(is_proof(longer[:i] + longer[i + 1 :], given, sought) for i in range(len(done))):
                    yield longer
            elif len(longer) < lines:
                yield from extended(longer, known | {line.formula})

    yield from extended((), given)
