"""CountDown: make a target of some numbers; demonstrations are answers, or the search for them."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal, get_args

from palaestra.core.errors import BadSetting, require, unknown
from palaestra.core.hints import PositiveInt, UnitInterval
from palaestra.language.judges.judge import Judge
from palaestra.language.rows import LazyRows, Row
from palaestra.language.tasks.countdown_search import (
    HEURISTICS,
    STRATEGIES,
    Search,
    Strategy,
    reaches,
    search,
    solution,
    trace,
)
from palaestra.language.tasks.generated import TRIES, is_held_out
from palaestra.language.tasks.in_words import TAGGED, InWords
from palaestra.language.verifiers.equations import countdown
from palaestra.language.verifiers.verdict import Verified

Form = Literal["direct", "path", "backtrack", "mix", "think"]
ANSWERS = ("direct", "path")
"""Forms without a search."""
RULES = (
    "Make {target} of the numbers {numbers}: take two of them, put their sum, difference, product or quotient in their "
    "place, and go on until a single number is left, which is {target}. Every number is to be used, each once; differences "
    "must not be negative, and quotients must be whole. An answer is the steps on one line, as in 8-3=5 5*4=20, which "
    "makes 20 of 3 4 8. "
)
SIGNS = str.maketrans("×÷−–,;", "*/--  ")
"""Other signs that stand for those of a step, and what may stand between steps."""
Problem = tuple[tuple[int, ...], int]
"""Numbers in the order in which they are shown, and a target that they reach."""


@dataclass
class CountDown(InWords):
    """`3 7 12:22=` is answered with `3+7=10 10+12=22`: all numbers become one, two at a time, and it is the target.

    Differences are not negative and quotients are whole. `form` says what is demonstrated: "direct" are the steps of one
    of the solutions alone, "path" those of the solution that a search finds (where it finds none, the problem is not trained on),
    "backtrack" a depth-first search with dead ends, undone by `<`, that ends with `!`, or with `?` where it found nothing within
    its budget; "mix" are searches of 32 kinds, and "think" is "backtrack" without the first of the dead ends. All are judged
    alike. Held out are sets of numbers with their target, in every order; with `held_targets` also targets, whose problems are
    the split "new-targets". As published: `numbers=4, largest=99, low=10, high=100, ceiling=9801, held_targets=0.1`
    (arXiv:2504.07052, on the problems of arXiv:2404.03683).
    """

    summary = "Make a target of all the given numbers, two at a time, with + - * /"
    max_tokens = 12

    numbers: int = 3
    """How many numbers."""
    largest: PositiveInt = 15
    """The largest number given."""
    low: int = 10
    """The smallest target."""
    high: int = 60
    """The largest target."""
    ceiling: int = 100
    """The largest number on the way, and of the vocabulary."""
    form: Form = "direct"
    """What is demonstrated: "direct", "path", "backtrack", "mix" or "think"; asked in words, "direct" alone."""
    heuristic: Literal["sum", "mult"] = "sum"
    """What orders and prunes the search: mean distance to the target, or summed distance to its nearest factors."""
    budget: PositiveInt = 12
    """Steps that a search may try; traces of searches that fail are demonstrated too."""
    dropped: UnitInterval = 0.5
    """Share of the dead ends that "think" leaves out, the first ones."""
    held_targets: float = 0.0
    """Share of the targets that is never trained on."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(2 <= self.numbers <= 6, f"numbers must be between 2 and 6, got {self.numbers}")
        require(
            1 <= self.low <= self.high, f"targets go from low to high and are positive, got {self.low} to {self.high}"
        )
        require(
            max(self.largest, self.high) <= self.ceiling,
            f"the vocabulary ends at ceiling={self.ceiling}, below largest={self.largest} or high={self.high}",
        )
        if self.form not in get_args(Form):
            raise unknown("form", self.form, get_args(Form))
        if self.heuristic not in HEURISTICS:
            raise unknown("heuristic", self.heuristic, HEURISTICS)
        require(0 <= self.held_targets < 1, f"held_targets is a share from 0 and below 1, got {self.held_targets}")
        direct = 5 * (self.numbers - 1) + self.numbers - 2
        # a step of a trace has 5 tokens and an undo; the k numbers that it leaves stand in brackets with spaces between
        searched = self.budget * (6 + 2 * (self.numbers - 1) + 1) + 1
        self.max_tokens = self.room(1 + (direct if self.form in ANSWERS else max(direct, searched)))

    def rows(self, split: str) -> LazyRows:
        if split == "new-targets" and self.held_targets:
            return LazyRows(self.test_rows, lambda i: self._make(split, i))
        return super().rows(split)

    def belongs(self, problem: Problem, split: str) -> bool:
        if self._is_new(problem[1]) or split == "new-targets":
            return self._is_new(problem[1]) and split == "new-targets"
        if not super().belongs(problem, split):
            return False
        return self.form != "path" or split != "train" or self.searched(problem).solved

    def _is_new(self, target: int) -> bool:
        return is_held_out(f"target {target}", self.held_targets)

    def draw(self, rng: random.Random) -> Problem:
        for _ in range(TRIES):
            target = rng.randint(self.low, self.high)
            numbers = tuple(rng.randint(1, self.largest) for _ in range(self.numbers))
            if reaches(tuple(sorted(numbers)), target, self.ceiling):
                return numbers, target
        raise BadSetting(f"none of {TRIES} problems of {self.name} has a solution")

    def key(self, problem: Problem) -> str:
        return f"{sorted(problem[0])} {problem[1]}"

    def row(self, problem: Problem, rng: random.Random) -> Row:
        numbers, target = problem
        return {
            "prompt": f"{' '.join(map(str, numbers))}:{target}=",
            "completion": self.demonstration(problem, rng),
            "numbers": list(numbers),
            "target": target,
        }

    def demonstration(self, problem: Problem, rng: random.Random) -> str:
        """What is shown for a problem."""
        if self.form == "path" and (found := self.searched(problem)).solved:
            return " ".join(str(node.step) for node in found.way())
        if self.form in ANSWERS:
            return " ".join(map(str, solution(tuple(sorted(problem[0])), problem[1], rng, self.ceiling)))
        found = self.searched(problem, rng.choice(STRATEGIES) if self.form == "mix" else None)
        return trace(found, self.dropped if self.form == "think" else 0.0)

    def searched(self, problem: Problem, strategy: Strategy | None = None) -> Search:
        """The search for a problem's target, by the task's own strategy where no other is given."""
        strategy = strategy or Strategy(self.heuristic)
        return search(tuple(sorted(problem[0])), problem[1], strategy, self.budget, self.ceiling)

    def judge(self) -> Judge:
        return Judge({"correct": Verified(self.reading(countdown))})

    def vocabulary(self) -> list[str]:
        return [*map(str, range(self.ceiling + 1)), *"+-*/=: ()<!?"]

    def question(self, row: Row) -> str:
        return RULES.format(target=row["target"], numbers=" ".join(map(str, row["numbers"]))) + TAGGED

    def plain(self, answer: str, row: Row) -> str:
        return answer.translate(SIGNS)
