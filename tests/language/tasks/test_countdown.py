"""CountDown: heuristics by hand, both searches against brute force, demonstrations, and splits."""

from __future__ import annotations

import random

import pytest

from palaestra.core.errors import BadSetting, UnknownName
from palaestra.language.tasks.countdown import CountDown
from palaestra.language.tasks.countdown_search import (
    STRATEGIES,
    Strategy,
    every_path,
    factors,
    h_mult,
    h_sum,
    next_steps,
    reaches,
    search,
    solution,
    trace,
    values,
)
from palaestra.language.verifiers.equations import countdown, read_trace
from tests.language.tasks.laws import holds, scores

FREE = Strategy(prune=False)


def test_heuristics_by_hand():
    assert factors(12) == (2, 3, 4, 6, 12)
    assert h_sum((5, 20), 12) == 7.5
    assert h_mult((5, 20), 12) == 9
    assert h_sum((12,), 12) == h_mult((12,), 12) == 0


def test_two_numbers_have_a_path_for_each_step_between_them():
    assert sum(1 for _ in every_path((60, 12))) == 4  # every quotient is whole


def problems(count, numbers, limit, low, high):
    rng = random.Random(0)
    for _ in range(count):
        yield tuple(sorted(rng.randint(1, limit) for _ in range(numbers))), rng.randint(low, high)


def test_all_ways_to_solve_agree_with_brute_force_on_1000_problems():
    solvable = 0
    for numbers, target in problems(1000, 3, 15, 10, 60):
        ends = {path[-1].result for path in every_path(numbers)}
        assert values(numbers) == ends
        assert reaches(numbers, target) == (target in ends)
        assert search(numbers, target, FREE).solved == (target in ends)
        solvable += target in ends
    assert 100 < solvable < 900


@pytest.mark.parametrize(
    ("numbers", "limit", "ceiling", "count"), [(3, 12, 40, 300), (4, 9, 30, 30), (4, 60, 10**9, 20)]
)
def test_a_ceiling_is_kept_on_the_way(numbers, limit, ceiling, count):
    for given, target in problems(count, numbers, limit, 1, 30):
        ends = {path[-1].result for path in every_path(given, ceiling)}
        assert values(given, ceiling) == ends
        assert reaches(given, target, ceiling) == (target in ends)
        assert reaches(given, 0, ceiling) == (0 in ends)
        if target in ends:
            path = solution(given, target, random.Random(1), ceiling)
            assert max(step.result for step in path) <= ceiling
            assert countdown(" ".join(map(str, path)), {"numbers": list(given), "target": target}).right


def test_solutions_are_not_always_the_same():
    found = {tuple(solution((1, 2, 3, 4), 10, random.Random(seed))) for seed in range(50)}
    assert len(found) > 5


def test_a_search_by_hand():
    found = search((2, 3), 5)
    assert trace(found) == "2+3=5!"  # the heuristic tries the sum first
    assert trace(search((2, 3), 1, FREE)) == "3-2=1!"
    assert trace(search((2, 2), 7, FREE)) == "2+2=4<2/2=1<2-2=0<?"  # 2*2=4 leaves nothing new
    assert trace(search((2, 2), 7, FREE, budget=2)) == "2+2=4<2/2=1?"
    assert trace(search((9, 9), 8)) == "9/9=1<9-9=0<?"  # 18 and 81 are farther from 8 than 0 is


def test_the_budget_is_how_many_steps_are_tried():
    for numbers, target in problems(200, 3, 15, 10, 60):
        found = search(numbers, target, budget=7)
        assert found.nodes <= 7
        assert len(read_trace(trace(found), numbers).visited) == found.nodes
        everything = search(numbers, target)
        assert (everything.nodes <= 7) <= (found.solved == everything.solved)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_traces_replay_without_looking_at_anything_twice(strategy):
    for numbers, target in problems(60, 3, 15, 10, 60):
        for budget in (5, 12, None):
            found = search(numbers, target, strategy, budget)
            text = trace(found)
            replayed = read_trace(text, numbers)
            assert not replayed.unreadable and not replayed.fault
            assert len(set(replayed.visited)) == len(replayed.visited) == found.nodes
            assert (
                countdown(text, {"numbers": list(numbers), "target": target}).right
                == found.solved
                == text.endswith("!")
            )
            if strategy.prune:
                h = h_sum if strategy.heuristic == "sum" else h_mult
                assert all(h(state, target) <= target for state in replayed.visited)


def test_there_are_32_strategies_and_they_leave_different_traces():
    assert len(set(STRATEGIES)) == 32
    texts = {trace(search((3, 5, 8, 11), 47, strategy, 60)) for strategy in STRATEGIES}
    assert len(texts) > 16


def test_thinking_leaves_out_the_first_dead_ends_and_stays_right():
    shorter = 0
    for numbers, target in problems(300, 3, 15, 10, 60):
        found = search(numbers, target, budget=12)
        row = {"numbers": list(numbers), "target": target}
        full, half, none = (trace(found, dropped) for dropped in (0.0, 0.5, 1.0))
        assert full.endswith(half[-5:]) and len(none) <= len(half) <= len(full)
        assert countdown(half, row) == countdown(none, row) or not found.solved
        if found.solved:
            assert countdown(half, row).right and countdown(none, row).right
            assert read_trace(none, numbers).undone == 0
        shorter += len(half) < len(full)
    assert shorter > 50


@pytest.mark.parametrize("form", ["direct", "path", "backtrack", "mix", "think"])
@pytest.mark.parametrize("numbers", [3, 4])
def test_it_keeps_the_contract_of_generated_tasks(form, numbers):
    holds(CountDown(form=form, numbers=numbers), rows=60 if numbers == 4 else 200, right=form in ("direct", "path"))


def test_demonstrated_searches_that_say_so_are_right_and_some_do_not():
    task = CountDown(form="backtrack")
    rows = task.rows("train")[:500]
    right = scores(task, rows, [row["completion"] for row in rows])["correct"]
    assert [bool(score) for score in right] == [row["completion"].endswith("!") for row in rows]
    assert 0.5 < sum(right) / len(rows) < 0.95


def test_forms_show_the_same_problems():
    prompts = [[row["prompt"] for row in CountDown(form=form).rows("train")[:50]] for form in ("direct", "mix")]
    assert prompts[0] == prompts[1]


def test_paths_are_the_solutions_that_searches_find_where_they_find_one():
    task, searches = CountDown(form="path"), CountDown(form="backtrack")
    for row in task.rows("train")[:200]:
        found = searches.searched((tuple(row["numbers"]), row["target"]))
        assert found.solved and row["completion"] == " ".join(str(node.step) for node in found.way())
    test, shown = task.rows("test")[:200], searches.rows("test")[:200]
    assert [row["prompt"] for row in test] == [row["prompt"] for row in shown]
    assert any(row["completion"].endswith("?") for row in shown)  # what searches do not solve is asked all the same


def test_no_order_of_held_out_numbers_with_their_target_is_trained_on():
    def keys(split):
        return {(tuple(sorted(row["numbers"])), row["target"]) for row in CountDown(largest=6).rows(split)[:1000]}

    train, test = keys("train"), keys("test")
    assert len(train) > 200 and test and not train & test


def test_held_out_targets_are_neither_trained_on_nor_in_the_test_of_known_ones():
    task = CountDown(held_targets=0.2)
    train, test, new = ({row["target"] for row in task.rows(s)[:500]} for s in ("train", "test", "new-targets"))
    assert new and not new & train and not new & test
    assert test <= train
    with pytest.raises(UnknownName):
        CountDown().rows("new-targets")


def test_the_published_scale_is_a_setting():
    task = CountDown(numbers=4, largest=99, low=10, high=100, ceiling=9801, held_targets=0.1)
    row = task.rows("train")[0]
    assert len(row["numbers"]) == 4 and 10 <= row["target"] <= 100
    assert row["completion"].count("=") == 3


def test_a_tiny_vocabulary_has_about_110_tokens():
    assert len(CountDown().tokeniser()) == 118
    row = {"prompt": "3 12 7:22=", "completion": "3+7=10 10+12=22"}
    tokeniser = CountDown().tokeniser()
    assert len(tokeniser(row["prompt"]).input_ids) == 8
    assert len(tokeniser(row["completion"]).input_ids) == 11


def test_settings_that_cannot_be_are_refused():
    for settings in ({"numbers": 1}, {"low": 0}, {"low": 9, "high": 8}, {"high": 200}, {"ceiling": 14}, {"budget": 0}):
        with pytest.raises(BadSetting):
            CountDown(**settings)
    for settings in ({"form": "sideways"}, {"heuristic": "none"}):
        with pytest.raises(UnknownName):
            CountDown(**settings)
    with pytest.raises(BadSetting, match="solution"):
        CountDown(numbers=2, largest=1, low=50, high=60).rows("train")[0]


def test_next_steps_take_two_numbers_and_leave_one_fewer():
    found = list(next_steps((1, 2, 3)))
    assert len({step.left for step, _ in found} | {step.right for step, _ in found}) == 3
    assert all(len(left) == 2 and step.result in left for step, left in found)
