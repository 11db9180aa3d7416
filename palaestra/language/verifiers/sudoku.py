"""Sudoku: boards as text, and what an answer filled in.

A board is its cells in reading order, `.` where one is empty. A cell is a row letter and a column digit, followed by its value:
`b13` puts 3 into the first cell of the second row.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isqrt
from typing import Any

from palaestra.language.verifiers.verdict import RIGHT, Verdict, answer_text, each_row, unparseable, wrong

ROWS = "abcdefghi"
GUESS, UNDO, DONE = "?", "<", "!"
"""In a trace: the next cell is a guess; the last guess and all after it is taken back; the board is full."""
PIECES = re.compile(r"\s*(?:(\?)?([a-i])([1-9])([1-9])|([<!]))")


@dataclass
class Filled:
    """What a text did with a board."""

    board: str  # as it is at the end
    fault: str = ""  # a cell that was filled twice, or is not on the board
    guesses: int = 0
    undone: int = 0  # how many guesses were taken back
    unreadable: str = ""  # why the text is none of this
    steps: list[tuple[int, int]] = field(default_factory=list)  # cells and values that were not taken back, in order


def read_filled(text: str, givens: str) -> Filled:
    """Replay a text on the board of the givens. What was taken back may be wrong."""
    size = isqrt(len(givens))
    filled = Filled(givens)
    done: list[tuple[int, int, bool, str]] = []  # cell, value, whether it was a guess, what is wrong with it
    board, text, place, ended = list(givens), text.strip(), 0, False
    while place < len(text):
        found = PIECES.match(text, place)
        if ended or not found:
            filled.unreadable = (
                f"{text[place : place + 20].strip()!r} is no cell" if not ended else "something follows the end"
            )
            return filled
        place = found.end()
        guess, row, column, value, mark = found.groups()
        if mark == UNDO:
            if not any(was_guess for _, _, was_guess, _ in done):
                filled.unreadable = "a guess is taken back before there is one"
                return filled
            was_guess = False
            while not was_guess:
                cell, _, was_guess, fault = done.pop()
                if not fault:
                    board[cell] = "."
            filled.undone += 1
        elif mark:
            ended = True
        else:
            r, c, v = ROWS.index(row), int(column) - 1, int(value)
            cell = r * size + c
            if max(r, c) >= size or v > size:
                fault = f"{row}{column}{value} is not of this board"
            else:
                fault = "" if board[cell] == "." else f"{row}{column} is filled already"
            if not fault:
                board[cell] = value
            done.append((cell, v, bool(guess), fault))
            filled.guesses += bool(guess)
    filled.board = "".join(board)
    filled.fault = next((fault for *_, fault in done if fault), "")
    filled.steps = [(cell, value) for cell, value, _, fault in done if not fault]
    return filled


def is_solved(board: str) -> bool:
    """Whether every row, column and box holds every digit."""
    size = isqrt(len(board))
    box = isqrt(size)
    digits = set("123456789"[:size])
    rows = [board[r * size : (r + 1) * size] for r in range(size)]
    columns = [board[c::size] for c in range(size)]
    boxes = [
        "".join(rows[r + i][c : c + box] for i in range(box)) for r in range(0, size, box) for c in range(0, size, box)
    ]
    return all(set(unit) == digits for unit in (*rows, *columns, *boxes))


def sudoku(text: str, row: Mapping[str, Any]) -> Verdict:
    """Whether a text fills the board of the row's `givens` without a fault."""
    filled = read_filled(text, row["givens"])
    if filled.unreadable or not text.strip():
        return unparseable(filled.unreadable or "there is no cell")
    if filled.fault:
        return wrong(filled.fault)
    if "." in filled.board:
        return wrong(f"{filled.board.count('.')} cells are empty")
    return RIGHT if is_solved(filled.board) else wrong("a digit stands twice in a row, column or box")


def cell_accuracy(text: str, row: Mapping[str, Any]) -> float:
    """The share of the empty cells that a text fills as the row's `solution` does; 0 if it cannot be read."""
    filled = read_filled(text, row["givens"])
    empty = [i for i, given in enumerate(row["givens"]) if given == "."]
    if filled.unreadable or not empty:
        return 0.0
    return sum(filled.board[i] == row["solution"][i] for i in empty) / len(empty)


def cells(
    completions: Sequence[Any],
    accuracy: Callable[[str, Mapping[str, Any]], float] = cell_accuracy,
    **columns: Any,
) -> list[float]:
    """A reward function: the accuracy of cells."""
    rows = each_row(columns, len(completions))
    return [accuracy(answer_text(completion), row) for completion, row in zip(completions, rows)]
