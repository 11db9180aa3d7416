"""Theorems with many proofs: chains of implications, to be followed forward or folded up first."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise
from typing import NamedTuple

from palaestra.core.errors import require
from palaestra.core.hints import UnitInterval
from palaestra.language.judges.judge import Judge
from palaestra.language.rows import Row
from palaestra.language.tasks.in_words import TAGGED, InWords
from palaestra.language.verifiers.proofs import ATOMS, END, RULES, Formula, Line, Literal, proof
from palaestra.language.verifiers.verdict import Verified

CALCULUS = (
    "Prove {goal} from {premises}. Letters stand for statements, ~a for the negation of a (that of ~a is a), and a>b for: "
    "a implies b. A proof is lines, each of a rule, an implication and a semicolon. mp a>b; yields b from a>b and a. mt "
    "a>b; yields ~a from a>b and ~b. hs a>c; yields a>c from a>b and b>c. cp ~b>~a; yields ~b>~a from a>b. What was "
    "yielded can be used like what was given. The last line yields what is to be proved, and qed stands behind it. An "
    "answer is the proof on one line, as in mp a>b;mp b>c;qed, which proves c from a>b, b>c, a. "
)
"""What a pretrained model is asked."""


class Theorem(NamedTuple):
    """Premises in the order in which they are shown, the only literal last, and the chain of literals from that to the goal."""

    premises: tuple[Formula, ...]
    chain: tuple[Literal, ...]


@dataclass
class Proofs(InWords):
    """`~c>~b,a>b,a|-c:` is proved by `mp a>b;mt ~c>~b;qed`, by `cp b>c;hs a>c;mp a>c;qed`, and by others.

    Rules are modus ponens `mp`, modus tollens `mt`, the hypothetical syllogism `hs` and contraposition `cp`; see
    `palaestra.language.verifiers.proofs`. Demonstrations are a mixture of four styles, so that a model that imitates them has a
    habit and rarer ways: "forward" goes from literal to literal, "left" and "right" fold the chain into one implication from
    either end, and "contra" folds the contrapositives. Held out are theorems in every order of their
    premises.
    """

    summary = "Prove a literal from implications, in a calculus that checks every line"
    max_tokens = 20

    least: int = 2
    """The fewest implications between the fact and the goal."""
    most: int = 3
    """The most."""
    negated: UnitInterval = 0.0
    """Share of literals that are negations."""
    turned: UnitInterval = 0.0
    """Share of these implications that are given as their contrapositives."""
    distractors: int = 1
    """Implications beside them."""
    atoms: int = 6
    """How many atoms there are, at least one more than implications between fact and goal."""
    up_to_names: bool = False
    """Hold out theorems with all that differ from them in names of atoms; easy settings have a few dozen of those only."""
    forward: float = 0.8
    """Weight of demonstrations that go forward."""
    left: float = 0.1
    """Weight of those that fold from the left."""
    right: float = 0.07
    """Weight of those that fold from the right."""
    contra: float = 0.03
    """Weight of those that fold contrapositives."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(3 <= self.atoms <= len(ATOMS), f"atoms must be between 3 and {len(ATOMS)}, got {self.atoms}")
        require(
            1 <= self.least <= self.most < self.atoms,
            f"steps go from least to most, from 1 to {self.atoms - 1} with {self.atoms} atoms, got {self.least} to {self.most}",
        )
        require(0 <= self.distractors <= 6, f"distractors must be between 0 and 6, got {self.distractors}")
        weights = [self.forward, self.left, self.right, self.contra]
        require(
            min(weights) >= 0 and sum(weights) > 0,
            f"the weights of styles must not be negative, nor all 0, got {weights}",
        )
        # every implication can be turned, all but one folded, and the last line yields the goal; a line has 3 tokens
        self.max_tokens = self.room(3 * 2 * self.most + 2)

    def draw(self, rng: random.Random) -> Theorem:
        steps = rng.randint(self.least, self.most)
        atoms = rng.sample(range(1, self.atoms + 1), self.atoms)
        chain = tuple(self._signed(atom, rng) for atom in atoms[: steps + 1])
        premises: list[Formula] = []
        for x, y in pairwise(chain):
            premises.append(Formula(-y, -x) if rng.random() < self.turned else Formula(x, y))
        while len(premises) < steps + self.distractors:
            x, y = (self._signed(atom, rng) for atom in rng.sample(atoms, 2))
            if not {Formula(x, y), Formula(-y, -x)} & set(premises):
                premises.append(Formula(x, y))
        rng.shuffle(premises)
        return Theorem((*premises, Formula(0, chain[0])), chain)

    def _signed(self, atom: int, rng: random.Random) -> Literal:
        return -atom if rng.random() < self.negated else atom

    def key(self, problem: Theorem) -> str:
        if self.up_to_names:
            return shape(problem)
        return f"{sorted(map(str, problem.premises))} {problem.chain[-1]}"

    def row(self, problem: Theorem, rng: random.Random) -> Row:
        weights = (self.forward, self.left, self.right, self.contra)
        (style,) = rng.choices((forward, left, right, contra), weights)
        premises = [str(premise) for premise in problem.premises]
        goal = str(Formula(0, problem.chain[-1]))
        return {
            "prompt": f"{','.join(premises)}|-{goal}:",
            "completion": "".join(map(str, style(problem))) + END,
            "premises": premises,
            "goal": goal,
            "steps": len(problem.chain) - 1,
        }

    def judge(self) -> Judge:
        return Judge({"correct": Verified(self.reading(proof))})

    def vocabulary(self) -> list[str]:
        literals = [Formula(0, x) for atom in range(1, self.atoms + 1) for x in (atom, -atom)]
        implications = [Formula(x, y) for _, x in literals for _, y in literals if abs(x) != abs(y)]
        symbols = map(str, [*literals, *implications])
        return [*symbols, *",:;", "|-", *(f"{rule} " for rule in RULES), END]

    def question(self, row: Row) -> str:
        return CALCULUS.format(premises=", ".join(row["premises"]), goal=row["goal"]) + TAGGED

    def plain(self, answer: str, row: Row) -> str:
        return re.sub(r"\s*;\s*", ";", answer)


# ------------------------------------------------------------------------------------------------ styles


def forward(theorem: Theorem) -> list[Line]:
    """From literal to literal."""
    pairs = [Formula(x, y) for x, y in pairwise(theorem.chain)]
    return [Line("mp", p) if p in theorem.premises else Line("mt", Formula(-p.then, -p.given)) for p in pairs]


def left(theorem: Theorem) -> list[Line]:
    """Fold the chain from its first literal on, then one modus ponens."""
    return [*_folded(theorem, theorem.chain), Line("mp", Formula(theorem.chain[0], theorem.chain[-1]))]


def right(theorem: Theorem) -> list[Line]:
    """Fold the chain from its last literal back, then one modus ponens."""
    return [*_folded(theorem, theorem.chain, back=True), Line("mp", Formula(theorem.chain[0], theorem.chain[-1]))]


def contra(theorem: Theorem) -> list[Line]:
    """Fold the contrapositives from the goal's negation on, then one modus tollens."""
    negated = tuple(-x for x in reversed(theorem.chain))
    return [*_folded(theorem, negated), Line("mt", Formula(negated[0], negated[-1]))]


def _folded(theorem: Theorem, chain: tuple[Literal, ...], back: bool = False) -> list[Line]:
    """One implication from the first of a chain to its last, of which each is turned round where it is first needed."""
    lines: list[Line] = []
    pairs = [Formula(x, y) for x, y in pairwise(chain)]
    whole: Formula | None = None
    for pair in reversed(pairs) if back else pairs:
        if pair not in theorem.premises:
            lines.append(Line("cp", pair))
        if whole is not None:
            pair = Formula(pair.given, whole.then) if back else Formula(whole.given, pair.then)
            if pair not in theorem.premises:
                lines.append(Line("hs", pair))
        whole = pair
    return lines


def shape(theorem: Theorem) -> str:
    """The same for theorems that differ in the names of atoms and in the order of premises; others may share it too."""
    premises, goal = theorem.premises, theorem.chain[-1]
    atoms = {abs(x) for premise in premises for x in premise if x}
    colours = {atom: f"{(goal > 0) - (goal < 0) if abs(goal) == atom else ''}" for atom in atoms}
    for _ in atoms:
        seen: dict[int, list[str]] = {atom: [] for atom in atoms}
        for x, y in premises:
            seen[abs(y)].append(f"<{y > 0}{x > 0}{colours[abs(x)] if x else 'fact'}")
            if x:
                seen[abs(x)].append(f">{x > 0}{y > 0}{colours[abs(y)]}")
        colours = {
            atom: blake2b("|".join([colours[atom], *sorted(seen[atom])]).encode(), digest_size=6).hexdigest()
            for atom in atoms
        }
    return " ".join(sorted(colours.values()))
