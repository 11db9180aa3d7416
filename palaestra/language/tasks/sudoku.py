"""Sudoku with four or nine digits; demonstrations are the cells to fill, or a search with guesses that are taken back."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from functools import partial
from math import isqrt
from typing import Literal, get_args

from palaestra.core.errors import BadSetting, require, unknown
from palaestra.language.judges.judge import Judge
from palaestra.language.rows import Row
from palaestra.language.tasks.generated import TRIES
from palaestra.language.tasks.in_words import TAGGED, InWords, tagged
from palaestra.language.tasks.sudoku_search import Solved, Strategies, dig, full_grid, listed, shape, solve, trace
from palaestra.language.verifiers.sudoku import DONE, GUESS, ROWS, UNDO, cell_accuracy, cells, sudoku
from palaestra.language.verifiers.verdict import Verified

GIVENS = {4: (4, 6), 9: (28, 36)}
"""The fewest and the most cells of a puzzle that are given, by size, unless it is told otherwise."""
BUDGET = {4: 32, 9: 800}
"""Cells that a demonstrated search may fill."""
RULES = (
    "Fill this Sudoku of {size} rows and columns, in which . is an empty cell. Every row, every column and every box of "
    "{box} by {box} cells holds each digit from 1 to {size} once.\n{lines}\nAn answer is the whole board on one line, its "
    "rows from top to bottom with a space between them. "
)


@dataclass
class Sudoku(InWords):
    """`a13b24c41d12:` is answered with the empty cells and their values, `a21a32…`, in the order in which a solver finds them.

    `form` "direct" demonstrates that; "backtrack" the whole search: `?` before a guess, `<` where the last one and all after it
    is taken back, `!` when the board is full. Both are judged alike: "correct" is a board without a fault, and "cells" is the
    share of empty cells that are right. Puzzles have exactly one solution. Held out are puzzles up to names of digits and order
    of rows and columns. The column `depth` says how many guesses the solver has open when it finds the solution.
    """

    summary = "Fill a Sudoku of four or nine digits, with or without a trace of the search"
    max_tokens = 37

    size: int = 4
    """How many digits: 4 or 9."""
    form: Literal["direct", "backtrack"] = "direct"
    """What is demonstrated: "direct" or "backtrack"; asked in words, "direct" alone."""
    least_givens: int = 0
    """The fewest cells that are given; 0 stands for 4 of 16, and 28 of 81."""
    most_givens: int = 0
    """The most; 0 stands for 6 of 16, and 36 of 81."""
    strategies: Strategies | Literal["auto"] = "auto"
    """What the solver does before it guesses: "none" takes cells in reading order, "naked" those with one candidate first,
    "hidden" also digits with one place; "auto" is "none" with four digits, where the others need no guess, and else "naked"."""
    least_depth: int = 0
    """Leave out puzzles that the solver finds with fewer open guesses."""
    budget: int = 0
    """Cells that a demonstrated search may fill, after which it is cut; 0 stands for 32, and 800 with nine digits."""
    cell_weight: float = 0.0
    """Weight of the share of right cells as a reward; being right has weight 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.size in GIVENS, f"size must be 4 or 9, got {self.size}")
        for name, known in (("form", ("direct", "backtrack")), ("strategies", ("auto", *get_args(Strategies)))):
            if getattr(self, name) not in known:
                raise unknown(name, getattr(self, name), known)
        low, high = self.givens
        fewest = {4: 4, 9: 17}[self.size]
        require(
            fewest <= low <= high < self.size**2,
            f"givens go from least to most, from {fewest} to {self.size**2 - 1} of {self.size**2} cells, got {low} to {high}",
        )
        require(self.least_depth >= 0 and self.budget >= 0, "least_depth and budget must not be negative")
        direct = 3 * (self.size**2 - low)
        searched = 5 * (self.budget or BUDGET[self.size]) + 1  # a cell has 3 tokens, a mark before and an undo after it
        self.max_tokens = self.room(1 + (direct if self.form == "direct" else max(direct, searched)))

    @property
    def givens(self) -> tuple[int, int]:
        """The fewest and the most cells that are given."""
        low, high = GIVENS[self.size]
        low = self.least_givens or (min(low, self.most_givens) if self.most_givens else low)
        return low, self.most_givens or max(low, high)

    def draw(self, rng: random.Random) -> tuple[str, str]:
        low, high = self.givens
        for _ in range(TRIES):
            solution = full_grid(self.size, rng)
            givens = dig(solution, rng.randint(low, high), rng)
            if len(givens) - givens.count(".") > high:
                continue
            if not self.least_depth or self.solve(givens).depth >= self.least_depth:
                return givens, solution
        raise BadSetting(f"none of {TRIES} puzzles of {self.name} has so few givens or such a depth")

    def solve(self, givens: str, budget: int | None = None) -> Solved:
        """The demonstrated search."""
        strategies = self.strategies
        if strategies == "auto":
            strategies = "none" if self.size == 4 else "naked"
        return solve(givens, strategies, budget)

    def key(self, problem: tuple[str, str]) -> str:
        return shape(problem[0])

    def row(self, problem: tuple[str, str], rng: random.Random) -> Row:
        givens, solution = problem
        budget = (self.budget or BUDGET[self.size]) if self.form == "backtrack" else None
        found = self.solve(givens, budget)
        return {
            "prompt": listed(givens) + ":",
            "completion": trace(found) if self.form == "backtrack" else "".join(found.way),
            "givens": givens,
            "solution": solution,
            "depth": found.depth if found.complete else self.solve(givens).depth,
        }

    def judge(self) -> Judge:
        rewards = {
            "correct": Verified(self.reading(sudoku)),
            "cells": partial(cells, accuracy=self.reading(cell_accuracy)),
        }
        return Judge(rewards, {"correct": 1.0, "cells": self.cell_weight})

    def vocabulary(self) -> list[str]:
        return [*ROWS[: self.size], *"123456789"[: self.size], ":", GUESS, UNDO, DONE]

    def question(self, row: Row) -> str:
        lines = "\n".join(self._lines(row["givens"]))
        return RULES.format(size=self.size, box=isqrt(self.size), lines=lines) + TAGGED

    def shown(self, row: Row) -> str:
        return tagged(" ".join(self._lines(row["solution"])))

    def plain(self, answer: str, row: Row) -> str:
        """The cells that a board fills or changes."""
        board, givens = re.sub(r"[\s|/,;+-]", "", answer), row["givens"]
        if len(board) != len(givens) or not board.isdecimal():
            return answer
        places = [divmod(i, self.size) for i in range(len(board)) if board[i] != givens[i]]
        return "".join(f"{ROWS[r]}{c + 1}{board[r * self.size + c]}" for r, c in places)

    def _lines(self, board: str) -> list[str]:
        return [board[i : i + self.size] for i in range(0, len(board), self.size)]
