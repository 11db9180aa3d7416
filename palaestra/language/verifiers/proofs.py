"""A calculus of implications between literals, and a checker that looks at every line of a proof.

A literal is an atom, `a` to `h`, or its negation, `~a`; a formula is a literal or an implication, `a>~b`. A proof is lines, and
`qed`: `mp a>b;mp b>c;qed`. A line is a rule and an implication, one to be used or the one that is yielded:

    mp x>y    from x>y and x, y
    mt x>y    from x>y and ~y, ~x
    hs x>z    from x>y and y>z, x>z
    cp ~y>~x  from x>y, ~y>~x
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from functools import lru_cache
from typing import Any, NamedTuple

from palaestra.language.verifiers.verdict import RIGHT, Verdict, unparseable, wrong

ATOMS = "abcdefgh"
RULES = ("mp", "mt", "hs", "cp")
END = "qed"
LITERAL = f"(~?)([{ATOMS}])"
FORMULA = re.compile(f"{LITERAL}(?:>{LITERAL})?")
LINE = re.compile(f"({'|'.join(RULES)}) ({LITERAL}>{LITERAL});")

Literal = int
"""An atom's place in the alphabet from 1 on, negative for its negation."""


class Formula(NamedTuple):
    """`then`, or if `given` is not 0, `given>then`."""

    given: Literal
    then: Literal

    def __str__(self) -> str:
        return (f"{_spelt(self.given)}>" if self.given else "") + _spelt(self.then)


class Line(NamedTuple):
    """A rule and its implication."""

    rule: str
    formula: Formula

    @property
    def yields(self) -> Formula:
        """What the line proves, if it follows."""
        if self.rule == "mp":
            return Formula(0, self.formula.then)
        return Formula(0, -self.formula.given) if self.rule == "mt" else self.formula

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


def follows(line: Line, known: Set[Formula]) -> bool:
    """Whether what a line yields follows by its rule from what is known."""
    rule, (given, then) = line
    if rule == "mp":
        return line.formula in known and Formula(0, given) in known
    if rule == "mt":
        return line.formula in known and Formula(0, -then) in known
    if rule == "hs":
        return any(f.given == given and Formula(f.then, then) in known for f in known)
    return Formula(-then, -given) in known


def consequences(known: Set[Formula]) -> list[Line]:
    """Every line that follows from what is known and yields something else."""
    lines = set()
    for f in known:
        if f.given:
            lines |= {Line("mp", f), Line("mt", f), Line("cp", Formula(-f.then, -f.given))}
            lines |= {Line("hs", Formula(f.given, g.then)) for g in known if g.given == f.then}
    return sorted(line for line in lines if line.yields not in known and follows(line, known))


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
        known.add(line.yields)
    return bool(lines) and lines[-1].yields == goal


def proof(text: str, row: Mapping[str, Any]) -> Verdict:
    """Whether a text proves the row's `goal` from its `premises`; whatever follows the end is wrong, and so is a missing end."""
    lines, rest = read_proof(text)
    if not lines or (rest and not rest.startswith(END)):
        return unparseable(f"{rest[:20]!r} is no line of a proof" if rest else "there is no line")
    known = {formula(premise) for premise in row["premises"]}
    for number, line in enumerate(lines, 1):
        if not follows(line, known):
            return wrong(f"line {number}, {line} does not follow")
        known.add(line.yields)
    if rest != END:
        return wrong(f"something follows the end: {rest[len(END) :][:20]!r}" if rest else f"it does not end with {END}")
    if lines[-1].yields != formula(row["goal"]):
        return wrong(f"it ends with {lines[-1].yields}, not {row['goal']}")
    return RIGHT


def style_of(text: str) -> str:
    """How a proof goes about it.

    "forward" yields literals only; "contra" ends with a modus tollens after it has built implications; "left" builds those from
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
            if line.yields == sought:
                if not any(is_proof(longer[:i] + longer[i + 1 :], given, sought) for i in range(len(done))):
                    yield longer
            elif len(longer) < lines:
                yield from extended(longer, known | {line.yields})

    yield from extended((), given)
