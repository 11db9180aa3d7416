"""Sudoku: all grids of four digits, puzzles with one solution, traces that replay, and puzzles up to their symmetries."""

from __future__ import annotations

import itertools
import random

import pytest

from palaestra.core.errors import BadSetting, UnknownName
from palaestra.language.tasks.sudoku import Sudoku
from palaestra.language.tasks.sudoku_search import Board, completions, dig, full_grid, shape, solve, trace
from palaestra.language.verifiers.sudoku import is_solved, read_filled, sudoku
from tests.language.tasks.laws import holds, scores


def every_grid():
    rows = ["".join(row) for row in itertools.permutations("1234")]
    for chosen in itertools.product(rows, repeat=4):
        if is_solved("".join(chosen)):
            yield "".join(chosen)


GRIDS = sorted(every_grid())


def test_there_are_288_grids_of_four_digits_and_the_solver_finds_them_all():
    assert len(GRIDS) == 288
    assert sorted(completions(Board(4))) == GRIDS
    assert sorted(completions(Board(4), random.Random(0))) == GRIDS


def test_the_solver_agrees_with_brute_force_on_puzzles_with_any_number_of_solutions():
    rng = random.Random(0)
    for _ in range(100):
        grid = rng.choice(GRIDS)
        shown = "".join(value if rng.random() < 0.35 else "." for value in grid)
        fits = [g for g in GRIDS if all(s in (".", v) for s, v in zip(shown, g))]
        assert sorted(completions(Board(4, shown))) == fits


@pytest.mark.parametrize(("size", "givens", "count"), [(4, 4, 50), (4, 8, 50), (9, 30, 3)])
def test_puzzles_have_one_solution_and_no_fewer_givens_than_asked_for(size, givens, count):
    for seed in range(count):
        rng = random.Random(seed)
        solution = full_grid(size, rng)
        assert is_solved(solution)
        puzzle = dig(solution, givens, rng)
        assert len(puzzle) - puzzle.count(".") >= givens
        assert list(completions(Board(size, puzzle))) == [solution]


def test_grids_are_random():
    assert len({full_grid(4, random.Random(seed)) for seed in range(500)}) > 200


@pytest.mark.parametrize("strategies", ["none", "naked", "hidden"])
@pytest.mark.parametrize("size", [4, 9])
def test_searches_end_at_the_solution_and_their_traces_replay(size, strategies):
    task = Sudoku(size=size, strategies="hidden")
    for row in task.rows("train")[: 100 if size == 4 else 5]:
        found = solve(row["givens"], strategies, 5000)
        if not found.complete:
            assert strategies == "none" and size == 9
            continue
        text = trace(found)
        replayed = read_filled(text, row["givens"])
        assert replayed.board == row["solution"] and not replayed.fault
        assert replayed.guesses == found.guesses >= found.depth
        assert replayed.undone <= found.guesses
        assert sudoku(text, row).right and sudoku("".join(found.way), row).right
        assert len(found.way) == row["givens"].count(".")


def test_puzzles_of_four_digits_need_guesses_only_in_reading_order():
    rows = Sudoku().rows("train")[:300]
    assert all(solve(row["givens"], "naked").guesses == 0 for row in rows)
    traces = [trace(solve(row["givens"], "none")) for row in rows]
    assert sum("<" in text for text in traces) > 50


def test_a_search_by_hand():
    assert trace(solve("12343412214343..")) == trace(solve("12343412214343..", "none")) == "d32d41!"
    assert trace(solve("12343412214343..", budget=1)) == "d32"


def test_a_wrong_guess_is_taken_back_and_the_last_candidate_is_none():
    # a1 could be 1 or 2; with 1 there is nothing left for a2, which sees 4 and 1 in its row and 4, 2 and 3 in its column
    found = solve("...43421.2434312", "none")
    assert trace(found) == "?a11<a12a21a33c11!"
    assert (found.guesses, found.depth) == (1, 0)
    assert trace(solve("...43421.2434312", "naked")) == "a21a12a33c11!"
    # with the names of 1 and 2 exchanged the first guess is right
    found = solve("...43412.1434321", "none")
    assert trace(found) == "?a11a22a33c12!"
    assert (found.guesses, found.depth) == (1, 1)


@pytest.mark.parametrize(
    "settings", [{}, {"form": "backtrack"}, {"strategies": "naked"}, {"least_givens": 8, "most_givens": 10}]
)
def test_it_keeps_the_contract_of_generated_tasks(settings):
    holds(Sudoku(**settings), right=settings.get("form") != "backtrack")


def test_it_keeps_the_contract_with_nine_digits():
    holds(Sudoku(size=9, form="backtrack"), rows=8, right=False)
    holds(Sudoku(size=9), rows=8)


def test_traces_are_right_where_they_say_so_and_cut_where_the_budget_ends():
    rows = Sudoku(form="backtrack", budget=16).rows("train")[:300]
    texts = [row["completion"] for row in rows]
    right = scores(Sudoku(), rows, texts)["correct"]
    assert [bool(score) for score in right] == [text.endswith("!") for text in texts]
    assert 0.3 < sum(right) / 300 < 0.99


def symmetric(board, rng):
    """The same puzzle, written differently."""
    size, side = (4, 2) if len(board) == 16 else (9, 3)
    names = dict(zip("123456789"[:size], rng.sample("123456789"[:size], size)), **{".": "."})

    def order():
        return [b * side + i for b in rng.sample(range(side), side) for i in rng.sample(range(side), side)]

    rows, columns = order(), order()
    moved = ["".join(names[board[r * size + c]] for c in columns) for r in rows]
    if rng.random() < 0.5:
        moved = ["".join(row[c] for row in moved) for c in range(size)]
    return "".join(moved)


@pytest.mark.parametrize(("size", "count"), [(4, 100), (9, 5)])
def test_the_shape_of_a_puzzle_does_not_depend_on_its_symmetries(size, count):
    task, rng, shapes = Sudoku(size=size), random.Random(0), set()
    for _ in range(count):
        puzzle, solution = task.draw(rng)
        assert shape(symmetric(puzzle, rng)) == shape(puzzle)
        assert is_solved(symmetric(solution, rng))
        shapes.add(shape(puzzle))
    assert len(shapes) > count / 2


def test_givens_and_depth_are_as_asked_for():
    rows = Sudoku(least_givens=5, most_givens=5).rows("train")[:50]
    assert {16 - row["givens"].count(".") for row in rows} == {5}
    assert min(row["depth"] for row in Sudoku(least_depth=2).rows("train")[:50]) >= 2


def test_cells_are_a_reward_of_their_own():
    task = Sudoku(cell_weight=0.5)
    row = task.rows("train")[0]
    first = row["completion"][:3]
    found = scores(task, [row] * 2, [row["completion"], first])
    share = 1 / row["givens"].count(".")
    assert found["total"] == pytest.approx([1.5, share / 2])
    assert found["cells"] == pytest.approx([1.0, share])


def test_settings_that_cannot_be_are_refused():
    for settings in (
        {"size": 6},
        {"least_givens": 3},
        {"least_givens": 7, "most_givens": 6},
        {"most_givens": 16},
        {"budget": -1},
    ):
        with pytest.raises(BadSetting):
            Sudoku(**settings)
    for settings in ({"form": "sideways"}, {"strategies": "x-wing"}):
        with pytest.raises(UnknownName):
            Sudoku(**settings)
