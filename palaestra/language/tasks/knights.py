"""Knights, who always tell the truth, and knaves, who always lie: who is what, from what they say of each other."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from typing import Any, NamedTuple

from palaestra.core.errors import BadSetting, require
from palaestra.core.hints import UnitInterval
from palaestra.language.judges.judge import Judge
from palaestra.language.rows import Row
from palaestra.language.tasks.generated import TRIES
from palaestra.language.tasks.in_words import InWords
from palaestra.language.verifiers.format import ANSWER, ANSWERED, TAGS, THINK, THOUGHT
from palaestra.language.verifiers.knights import knights, level, score
from palaestra.language.verifiers.verdict import Verified

__all__ = ["Knights", "level"]

NAMES = [*("Alice", "Bob", "Carol", "David", "Emma", "Frank", "Grace", "Henry")]
NAMES += [*("Iris", "Jack", "Karen", "Leo", "Mia", "Noah", "Olivia", "Peter")]
KNIGHT, KNAVE, NO = " is a knight", " is a knave", " no"
LINKS = (" and", " or", " if and only if", " if")
RULES = (
    "On an island everybody is either a knight, who always tells the truth, or a knave, who always lies. {people} are on it. "
    "{said} Who is a knight, and who is a knave? Think between <think> and </think>, then answer between <answer> and </answer> "
    "in the form {form}."
)
"""What a pretrained model is asked."""


class Claim(NamedTuple):
    """That somebody is a knight, or a knave."""

    who: int
    knight: bool


class Saying(NamedTuple):
    """One claim, or two with a link between."""

    first: Claim
    link: str = ""
    second: Claim | None = None


Puzzle = tuple[Saying, ...]
"""What each of the people says, in order."""


@dataclass
class Knights(InWords):
    """`Alice says Bob is a knave. Bob says …` is answered with a thought between tags and `(1) Alice is a knight (2) …`.

    Every puzzle has exactly one solution, found by looking at all. The demonstrated thought guesses one person after the other,
    and says ` no` where a saying cannot be of the kind of who said it; then the last guess is turned over. The rewards are
    "score", 3 for a right answer, -0.5 for a wrong one, -1 for none and -3 for bad tags, and "correct", which has no weight.
    Held out are puzzles up to names.
    """

    summary = "Find out who always lies from what people say of each other"
    max_tokens = 64

    people: int = 2
    """How many, from 2 to 8."""
    links: UnitInterval = 0.5
    """Share of sayings that link two claims."""
    think: bool = True
    """Demonstrate a thought; otherwise there is nothing between its tags."""
    noise: UnitInterval = 0.0
    """Share of demonstrations that are spoilt: half by a wrong role, half by a tag too few or too many."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(2 <= self.people <= 8, f"people must be between 2 and 8, got {self.people}")
        guesses = 2 ** (self.people + 1) - 2 if self.think else 0
        self.max_tokens = self.room(3 * guesses + 3 * self.people + len(TAGS) + 2)

    def draw(self, rng: random.Random) -> Puzzle:
        for _ in range(TRIES):
            puzzle = tuple(self._saying(i, rng) for i in range(self.people))
            if len(solutions(puzzle)) == 1:
                return puzzle
        raise BadSetting(f"none of {TRIES} puzzles of {self.name} has exactly one solution")

    def _saying(self, speaker: int, rng: random.Random) -> Saying:
        others = [i for i in range(self.people) if i != speaker]
        if rng.random() >= self.links:
            return Saying(Claim(rng.choice(others), rng.random() < 0.5))
        pair = rng.sample(range(self.people) if self.people == 2 else others, 2)
        first, second = (Claim(who, rng.random() < 0.5) for who in pair)
        return Saying(first, rng.choice(LINKS), second)

    def key(self, problem: Puzzle) -> str:
        return shape(problem)

    def row(self, problem: Puzzle, rng: random.Random) -> Row:
        names = rng.sample(NAMES, self.people)
        (roles,) = solutions(problem)
        said = " ".join(f"{names[i]} says {_say(saying, names)}." for i, saying in enumerate(problem))
        thought = _thought(problem, names) if self.think else ""
        shown = list(roles)
        spoilt = rng.random() < self.noise
        if spoilt and (wrong_role := rng.random() < 0.5):
            i = rng.randrange(self.people)
            shown[i] = not shown[i]
        completion = f"{THINK}{thought}{THOUGHT}{ANSWER}{_listed(names, shown)}{ANSWERED}"
        if spoilt and not wrong_role:
            tag = rng.choice(TAGS)
            completion = completion.replace(tag, rng.choice(["", tag * 2]))
        return {
            "prompt": said + "\n",
            "completion": completion,
            "names": names,
            "roles": list(roles),
        }

    def shown(self, row: Row) -> str:
        return str(row["completion"])

    def question(self, row: Row) -> str:
        names = row["names"]
        people = f"{', '.join(names[:-1])} and {names[-1]}"
        form = " ".join(f"({i}) {name} is a knight/knave" for i, name in enumerate(names, 1))
        return RULES.format(people=people, said=row["prompt"].strip(), form=form)

    def judge(self) -> Judge:
        return Judge({"score": score, "correct": Verified(knights)}, {"score": 1.0, "correct": 0.0})

    def level(self, text: str, row: Mapping[str, Any]) -> int:
        """The level of preference of an answer: 1 right, 2 wrong, 3 without roles to be read, 4 with bad tags or none at all."""
        return level(text, row)

    def vocabulary(self) -> list[str]:
        numbers = ["(1)", *(f" ({i})" for i in range(2, 9))]
        return [
            *NAMES,
            *(f" {name}" for name in NAMES),
            " says",
            KNIGHT,
            KNAVE,
            *LINKS,
            ".",
            "\n",
            NO,
            *numbers,
            *TAGS,
        ]


# ------------------------------------------------------------------------------------------------ logic
# A set of the 2^n ways to hand out roles is an integer with a bit for each; in way w person i is a knight if bit i of w is set.


@cache
def _knight(i: int, people: int) -> int:
    """The ways in which person i is a knight."""
    return sum(1 << way for way in range(1 << people) if way >> i & 1)


def _true(saying: Saying, people: int) -> int:
    """The ways in which a saying is true."""
    everything = (1 << (1 << people)) - 1
    first = _knight(saying.first.who, people) ^ (0 if saying.first.knight else everything)
    if saying.second is None:
        return first
    second = _knight(saying.second.who, people) ^ (0 if saying.second.knight else everything)
    if saying.link == " and":
        return first & second
    if saying.link == " or":
        return first | second
    if saying.link == " if":
        return first | (everything ^ second)
    return everything ^ first ^ second


def _fits(puzzle: Puzzle) -> list[int]:
    """For each person, the ways in which they are a knight and tell the truth, or a knave and lie."""
    people = len(puzzle)
    everything = (1 << (1 << people)) - 1
    return [everything ^ _knight(i, people) ^ _true(saying, people) for i, saying in enumerate(puzzle)]


def solutions(puzzle: Puzzle) -> list[tuple[bool, ...]]:
    """Every way to hand out roles in which knights tell the truth and knaves lie."""
    people = len(puzzle)
    ways = -1
    for fits in _fits(puzzle):
        ways &= fits
    return [tuple(bool(way >> i & 1) for i in range(people)) for way in range(1 << people) if ways >> way & 1]


def shape(puzzle: Puzzle) -> str:
    """The same for puzzles that differ in who is who, or in the order of claims where it makes no difference.

    Colours of people are refined by what they say of whom, as in a test of isomorphism; different puzzles may share a shape.
    """
    colours = [""] * len(puzzle)
    for _ in puzzle:
        colours = [_digest([colours[i], *_painted(saying, i, colours)]) for i, saying in enumerate(puzzle)]
    return " ".join(sorted(colours))


def _painted(saying: Saying, speaker: int, colours: list[str]) -> list[str]:
    claims = [claim for claim in (saying.first, saying.second) if claim is not None]
    painted = [f"{colours[c.who]}{c.knight}{c.who == speaker}" for c in claims]
    return [saying.link, *(painted if saying.link == " if" else sorted(painted))]


def _digest(parts: list[str]) -> str:
    return blake2b("|".join(parts).encode(), digest_size=6).hexdigest()


# ------------------------------------------------------------------------------------------------ text


def _claim(claim: Claim, names: list[str]) -> str:
    return names[claim.who] + (KNIGHT if claim.knight else KNAVE)


def _say(saying: Saying, names: list[str]) -> str:
    if saying.second is None:
        return _claim(saying.first, names)
    return f"{_claim(saying.first, names)}{saying.link} {_claim(saying.second, names)}"


def _listed(names: list[str], roles: list[bool]) -> str:
    return " ".join(f"({i + 1}) {_claim(Claim(i, role), names)}" for i, role in enumerate(roles))


def _thought(puzzle: Puzzle, names: list[str]) -> str:
    """Guess person by person, knight first, and turn back where some saying fits none of what the guesses leave open."""
    people, fits = len(puzzle), _fits(puzzle)
    everything = (1 << (1 << people)) - 1
    pieces: list[str] = []

    def found(i: int, ways: int) -> bool:
        if i == people:
            return True
        for knight in (True, False):
            left = ways & (_knight(i, people) ^ (0 if knight else everything))
            pieces.append(" " + _claim(Claim(i, knight), names))
            if all(left & fit for fit in fits) and found(i + 1, left):
                return True
            pieces.append(NO)
        return False

    found(0, everything)
    return "".join(pieces)
