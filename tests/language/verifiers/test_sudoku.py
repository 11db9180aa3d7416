"""Sudoku: replaying answers, and whole boards or single cells that are right."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palaestra.language.verifiers.sudoku import cell_accuracy, cells, is_solved, read_filled, sudoku

SOLUTION = "1234341221434321"
ROW = {"givens": "12343412214343..", "solution": SOLUTION}
NINE = "534678912672195348198342567859761423426853791713924856961537284287419635345286179"


def test_a_board_is_solved_if_every_row_column_and_box_holds_every_digit():
    assert is_solved(SOLUTION) and is_solved(NINE)
    assert not is_solved("1234123412341234")  # rows alone
    assert not is_solved("1234234134124123")  # rows and columns alone
    assert not is_solved("." + SOLUTION[1:])
    assert not is_solved("2" + SOLUTION[1:])
    assert not is_solved(NINE[::-1][:80] + "9")


# the empty cells are d3, which is 2, and d4, which is 1
@pytest.mark.parametrize(
    "text", ["d32d41", "d41d32", " d32 d41! ", "?d32d41!", "?d31<d32d41", "?d31?d42<<d32d41!", "?d31d11e99<d32d41"]
)
def test_a_full_board_without_fault_is_right_however_it_came_about(text):
    assert sudoku(text, ROW).right
    assert cell_accuracy(text, ROW) == 1.0


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("d32", 0.5),  # a cell is empty
        ("?d32d41<", 0.0),  # all is taken back
        ("d31d42", 0.0),  # full, but digits stand twice
        ("d32d32d41", 1.0),  # a cell twice
        ("a12d32d41", 1.0),  # a given once more
        ("d32d41e11", 1.0),  # off the board
        ("d32d45", 0.5),  # a digit that there is not
        ("!", 0.0),
        ("?d31d42<", 0.0),
    ],
)
def test_other_boards_are_wrong_and_cells_count_by_themselves(text, share):
    assert sudoku(text, ROW).status == "wrong"
    assert cell_accuracy(text, ROW) == share


def test_a_replay_counts_guesses_and_keeps_what_was_not_taken_back():
    filled = read_filled("?d31?d42<<d32d41!", ROW["givens"])
    assert (filled.guesses, filled.undone, filled.board, filled.steps) == (2, 2, SOLUTION, [(14, 2), (15, 1)])


@pytest.mark.parametrize(
    "text", ["", "x", "d3", "d32 d4", "d32d41!d32", "<d32d41", "d32<d41", "?d32<<d32d41", "٤", "d32,d41"]
)
def test_a_text_that_fills_nothing_is_unparseable(text):
    assert sudoku(text, ROW).status == "unparseable"


@given(st.text(alphabet="abcdi1234?<! 9", max_size=40))
def test_no_text_breaks_the_reader(text):
    assert sudoku(text, ROW).status in ("right", "wrong", "unparseable")
    assert 0 <= cell_accuracy(text, ROW) <= 1


def test_cells_count_by_themselves():
    assert cells(completions=["d32"], givens=[ROW["givens"]], solution=[SOLUTION]) == [0.5]
    assert read_filled("", ROW["givens"]).board == ROW["givens"]
