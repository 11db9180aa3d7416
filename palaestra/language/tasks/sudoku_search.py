"""Sudokus of four or nine digits: full grids, puzzles with one solution, and a solver that leaves a trace."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from hashlib import blake2b
from itertools import product
from math import isqrt
from typing import Literal

from palaestra.language.verifiers.sudoku import DONE, GUESS, ROWS, UNDO

Strategies = Literal["none", "naked", "hidden"]
"""What a solver does before it guesses: nothing, and it takes cells in reading order; cells with one candidate first; also digits
with one place in a unit."""


class Board:
    """Values of cells, 0 where empty, and which digits each row, column and box has, as bits."""

    def __init__(self, size: int, cells: str = ""):
        self.size, self.all = size, (1 << size) - 1
        self.values = [0] * size**2
        self.row, self.column, self.box = [0] * size, [0] * size, [0] * size
        for cell, value in enumerate(cells):
            if value != ".":
                self.put(cell, int(value))

    def put(self, cell: int, value: int) -> None:
        """Fill an empty cell."""
        r, c, b = units(self.size)[cell]
        bit = 1 << (value - 1)
        self.values[cell] = value
        self.row[r] |= bit
        self.column[c] |= bit
        self.box[b] |= bit

    def take(self, cell: int) -> int:
        """Empty a full cell and return what it held."""
        r, c, b = units(self.size)[cell]
        value, self.values[cell] = self.values[cell], 0
        bit = ~(1 << (value - 1))
        self.row[r] &= bit
        self.column[c] &= bit
        self.box[b] &= bit
        return value

    def open(self, cell: int) -> int:
        """What an empty cell could hold, as bits."""
        r, c, b = units(self.size)[cell]
        return self.all & ~(self.row[r] | self.column[c] | self.box[b])

    def empty(self) -> list[int]:
        return [cell for cell, value in enumerate(self.values) if not value]

    def __str__(self) -> str:
        return "".join(str(value or ".") for value in self.values)


@cache
def units(size: int) -> list[tuple[int, int, int]]:
    """Row, column and box of each cell."""
    side = isqrt(size)
    return [(r, c, r // side * side + c // side) for r, c in product(range(size), repeat=2)]


@cache
def members(size: int) -> list[list[int]]:
    """The cells of each row, then of each column, then of each box."""
    return [[cell for cell, at in enumerate(units(size)) if at[kind] == u] for kind in range(3) for u in range(size)]


@cache
def _digits(bits: int) -> tuple[int, ...]:
    return tuple(i + 1 for i in range(9) if bits >> i & 1)


def completions(board: Board, rng: random.Random | None = None) -> Iterator[str]:
    """Every way to fill a board, cells with the fewest candidates first; digits in order, or in a random one."""
    empty = board.empty()
    size, row, column, box = units(board.size), board.row, board.column, board.box

    def fill() -> Iterator[str]:
        if not empty:
            yield str(board)
            return
        fewest, chosen, bits = 99, 0, 0
        for i, cell in enumerate(empty):
            r, c, b = size[cell]
            left = board.all & ~(row[r] | column[c] | box[b])
            count = left.bit_count()
            if count < fewest:
                fewest, chosen, bits = count, i, left
                if count <= 1:
                    break
        if not bits:
            return
        cell = empty[chosen]
        empty[chosen] = empty[-1]
        empty.pop()
        digits = _digits(bits)
        for digit in rng.sample(digits, len(digits)) if rng else digits:
            board.put(cell, digit)
            yield from fill()
            board.take(cell)
        empty.append(cell)
        empty[chosen], empty[-1] = empty[-1], empty[chosen]

    yield from fill()


def full_grid(size: int, rng: random.Random) -> str:
    """A random full grid."""
    return next(completions(Board(size), rng))


def dig(solution: str, givens: int, rng: random.Random) -> str:
    """Empty cells of a full grid in a random order, as long as it stays the only solution and `givens` cells are left.

    If a cell can be emptied, no other digit in it leads to a solution; so only those are tried.
    """
    size = isqrt(len(solution))
    board, left = Board(size, solution), len(solution)
    for cell in rng.sample(range(len(solution)), len(solution)):
        if left == givens:
            break
        value = board.take(cell)
        for digit in _digits(board.open(cell) & ~(1 << (value - 1))):
            board.put(cell, digit)
            # a fresh board, as a search that is left before its end does not tidy up
            other = next(completions(Board(size, str(board))), None)
            board.take(cell)
            if other:
                board.put(cell, value)
                break
        else:
            left -= 1
    return str(board)


@dataclass
class Solved:
    """A search for the solution: `?` before guesses, `<` where one is taken back."""

    pieces: list[str] = field(default_factory=list)
    way: list[str] = field(default_factory=list)  # the cells that were not taken back, in order
    depth: int = 0  # how many guesses were open at most on the way to the solution
    guesses: int = 0
    complete: bool = False  # not cut short


def solve(givens: str, strategies: Strategies = "naked", budget: int | None = None) -> Solved:
    """Fill in what is forced, guess in the first of the cells with the fewest candidates, and undo what contradicts itself.

    With no strategy the next cell is simply the first that is empty. The last candidate of a cell whose others have been
    refuted is forced. A search may fill `budget` cells.
    """
    board, solved = Board(isqrt(len(givens)), givens), Solved()
    filled: list[int] = []
    ways: list[tuple[int, int]] = []  # where on the way a guess began, and how many there are before it
    spent = 0

    def put(cell: int, value: int, mark: str = "") -> bool:
        nonlocal spent
        if budget is not None and spent == budget:
            return False
        spent += 1
        board.put(cell, value)
        filled.append(cell)
        piece = f"{ROWS[units(board.size)[cell][0]]}{units(board.size)[cell][1] + 1}{value}"
        solved.pieces.append(mark + piece)
        solved.way.append(piece)
        return True

    def undo(length: int) -> None:
        solved.pieces.append(UNDO)
        del solved.way[length:]
        while len(filled) > length:
            board.take(filled.pop())

    def search() -> bool | None:
        """Whether the board could be filled; None if the budget was spent."""
        while (forced := _forced(board, strategies)) is not None:
            cell, value = forced
            if not value:
                return False
            if not put(cell, value):
                return None
        empty = board.empty()
        if not empty:
            solved.depth = len(ways)
            return True
        cell = empty[0] if strategies == "none" else min(empty, key=lambda e: board.open(e).bit_count())
        digits, length = _digits(board.open(cell)), len(filled)
        for i, digit in enumerate(digits):
            guess = i < len(digits) - 1
            if not put(cell, digit, GUESS if guess else ""):
                return None
            if guess:
                solved.guesses += 1
                ways.append((cell, digit))
            found = search()
            if found is not False:
                return found
            if guess:
                ways.pop()
                undo(length)
        return False

    solved.complete = search() is True
    return solved


def _forced(board: Board, strategies: Strategies) -> tuple[int, int] | None:
    """A cell and the only digit for it; digit 0 where none is left; None if nothing is forced."""
    if strategies == "none":
        return None
    single = None
    for cell in board.empty():
        bits = board.open(cell)
        if not bits:
            return cell, 0
        if single is None and bits & (bits - 1) == 0:
            single = cell, bits.bit_length()
    if single is not None or strategies != "hidden":
        return single
    for cells in members(board.size):
        once = twice = 0
        for cell in cells:
            bits = (1 << (board.values[cell] - 1)) if board.values[cell] else board.open(cell)
            twice |= once & bits
            once |= bits
        if once != board.all:
            return cells[0], 0
        for cell in cells:
            bits = 0 if board.values[cell] else board.open(cell) & ~twice
            if bits:
                return cell, bits.bit_length()
    return None


def trace(solved: Solved) -> str:
    """A search as text, which ends with `!` if it filled the board."""
    return "".join(solved.pieces) + (DONE if solved.complete else "")


def listed(board: str) -> str:
    """The full cells of a board, one after the other."""
    at = units(isqrt(len(board)))
    return "".join(f"{ROWS[at[i][0]]}{at[i][1] + 1}{value}" for i, value in enumerate(board) if value != ".")


def shape(board: str) -> str:
    """The same for puzzles that differ by names of digits, by order of rows or columns that keeps the boxes, or by transposition.

    Colours of the givens are refined by those in the same row, column and box and with the same digit; others may share a shape.
    """
    at = units(isqrt(len(board)))
    givens = [i for i, value in enumerate(board) if value != "."]
    colours = dict.fromkeys(givens, "")
    for _ in range(3):
        groups: dict[tuple[int, int | str], list[str]] = {}
        for i in givens:
            for kind, unit in enumerate((*at[i], board[i])):
                groups.setdefault((kind, unit), []).append(colours[i])
        said = {name: ",".join(sorted(group)) for name, group in groups.items()}
        colours = {
            i: _digest(
                "|".join(
                    [*sorted((said[0, at[i][0]], said[1, at[i][1]])), said[2, at[i][2]], said[3, board[i]], colours[i]]
                )
            )
            for i in givens
        }
    return " ".join(sorted(colours.values()))


def _digest(text: str) -> str:
    return blake2b(text.encode(), digest_size=6).hexdigest()
