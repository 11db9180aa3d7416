"""Backtracking or many answers: what is measured by hand, and verdicts on made-up records."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from palaestra.claims import backtrack
from palaestra.claims.backtrack import as_many, before_success, jaccard, looked_at, undone, within
from palaestra.claims.claim import Records
from palaestra.core.method import Budget
from palaestra.core.task import as_task
from palaestra.language.compute import Shape
from palaestra.language.sample import Sample
from palaestra.language.tasks.countdown_search import search
from palaestra.language.verifiers.equations import read_trace
from palaestra.methods.language.sft import SFT

from .test_verdicts import made_up, not_held

MEASURES = {
    "countdown direct": {**{f"pass@{k}": 0.5 for k in backtrack.TRIES}, "pass@64": 0.9, "tokens": 10.0, "flops": 100.0},
    "countdown path": {**{f"pass@{k}": 0.5 for k in backtrack.TRIES}, "tokens": 10.0, "flops": 100.0},
    "countdown direct, grpo": {"pass@1": 0.5, "pass@64": 0.8},
    "countdown backtrack": {"greedy": 0.4, "greedy tokens": 45.0, "greedy flops": 480.0},
}
SUDOKU = {
    "sudoku direct": {**{f"pass@{k}": 0.3 for k in backtrack.TRIES}, "pass@16": 0.5, "tokens": 10.0, "flops": 100.0},
    "sudoku backtrack": {"greedy": 0.4, "greedy in 48": 0.1, "greedy tokens": 45.0, "greedy flops": 480.0},
}


def records(**changes) -> Records:
    measures = {arm: {**values, **changes.get(arm, {})} for arm, values in MEASURES.items()}
    return made_up(backtrack.claim, {}, measures)


def test_it_holds_where_many_answers_beat_a_trace_and_grpo_narrows():
    assert not_held(backtrack.claim, records()) == []


@pytest.mark.parametrize(
    ("arm", "measured", "words"),
    [
        ("countdown direct", {"pass@1": 0.6}, "does not lower pass@1"),
        ("countdown direct, grpo", {"pass@64": 0.9}, "lowers pass@64"),
    ],
)
def test_each_finding_can_fail(arm, measured, words):
    [sentence] = not_held(backtrack.claim, records(**{arm: measured}))
    assert words in sentence


def test_at_sudoku_more_is_better_and_one_trace_best():
    assert not_held(backtrack.sudoku, made_up(backtrack.sudoku, {}, SUDOKU)) == []
    for arm, measured, words in (
        ("sudoku backtrack", {"greedy in 48": 0.4}, "whole traces"),
        ("sudoku direct", {"pass@16": 0.3}, "16 direct answers"),
        ("sudoku direct", {"tokens": 15.0, "pass@3": 0.5}, "fit into its tokens"),
        ("sudoku direct", {"tokens": 15.0, "pass@4": 0.5}, "fit into its operations"),
    ):
        changed = SUDOKU | {arm: SUDOKU[arm] | measured}
        [sentence] = not_held(backtrack.sudoku, made_up(backtrack.sudoku, {}, changed))
        assert words in sentence


def test_a_trace_that_is_right_as_often_decides_all_comparisons():
    assert len(not_held(backtrack.claim, records(**{"countdown backtrack": {"greedy": 0.5}}))) == 4


def test_as_many_direct_answers_are_counted_as_fit_into_a_trace():
    found = records(**{"countdown direct": {"pass@4": 0.71, "pass@3": 0.61, "pass@1": 0.51}})
    assert as_many(found, "countdown direct", "countdown backtrack", "tokens").tolist() == [0.71, 0.71]  # 45 / 10
    dearer = records(**{"countdown direct": {"pass@3": 0.61, "flops": 130.0}})
    assert as_many(dearer, "countdown direct", "countdown backtrack", "flops").tolist() == [0.61, 0.61]  # 480 / 130


def test_where_not_one_direct_answer_fits_into_a_trace_none_is_right():
    longer = records(**{"countdown direct": {"tokens": 45.1, "pass@1": 0.51}})
    assert as_many(longer, "countdown direct", "countdown backtrack", "tokens").tolist() == [0.0, 0.0]
    as_long = records(**{"countdown direct": {"tokens": 45.0, "pass@1": 0.51}})
    assert as_many(as_long, "countdown direct", "countdown backtrack", "tokens").tolist() == [0.51, 0.51]


VARIANTS = {
    "countdown backtrack": {"greedy": 0.5, "likeness to the search": 0.8},
    "countdown mix": {"greedy": 0.6},
    "countdown think": {"greedy": 0.6},
    "countdown backtrack, grpo": {"greedy": 0.6, "likeness to the search": 0.7},
}


def test_the_variants_hold_where_each_is_better_than_one_search_imitated():
    assert not_held(backtrack.variants, made_up(backtrack.variants, {}, VARIANTS)) == []


@pytest.mark.parametrize(
    ("arm", "measured", "words"),
    [
        ("countdown mix", {"greedy": 0.5}, "many kinds"),
        ("countdown think", {"greedy": 0.5}, "first dead ends"),
        ("countdown backtrack, grpo", {"greedy": 0.5, "likeness to the search": 0.7}, "right more often"),
        ("countdown backtrack, grpo", {"greedy": 0.6, "likeness to the search": 0.8}, "less like"),
    ],
)
def test_each_finding_on_variants_can_fail(arm, measured, words):
    [sentence] = not_held(backtrack.variants, made_up(backtrack.variants, {}, VARIANTS | {arm: measured}))
    assert words in sentence


# ------------------------------------------------------------------------------------------------------- measurements


def said(text, tokens, right, prompt=3, numbers=(3, 7)):
    mask = torch.cat([torch.zeros(prompt), torch.ones(tokens)]).bool()
    zeros = torch.zeros(len(mask))
    row = {"numbers": list(numbers), "target": 10}
    return Sample(zeros.long(), mask, zeros, zeros, prompt, text, False, row, reward=float(right))


def test_what_is_cut_off_is_wrong_and_costs_what_was_generated():
    samples = [said("", 10, True), said("", 20, True), said("", 40, False)]
    shape = Shape(100, 1, 1)
    found = within(samples, np.array([True, True, False]), shape, 40)
    assert found["greedy"] == pytest.approx(2 / 3)
    assert found["greedy tokens"] == pytest.approx(70 / 3)
    assert found["greedy in 16"] == pytest.approx(1 / 3)
    assert found["greedy in 32"] == pytest.approx(2 / 3)
    assert found["flops in 16"] == pytest.approx(
        np.mean([shape.generation_flops(3, 10), 2 * shape.generation_flops(3, 16) / 2, shape.generation_flops(3, 16)])
    )
    assert "greedy in 48" not in found


def test_mistakes_before_success_are_wrong_answers_before_the_first_right_one():
    right = torch.tensor([[False, False, True], [True, False, True], [False, False, False]])
    assert before_success(right) == 1.0
    assert before_success(torch.zeros(2, 3).bool()) == 0.0


def test_what_a_right_trace_took_back_is_counted_and_what_a_wrong_one_did_is_not():
    samples = [said("3*7=21<3+7=10!", 12, True), said("3+7=10!", 6, True), said("7-3=4<3*7=21<?", 14, False)]
    assert undone(samples) == 0.5


def test_likeness_is_of_the_numbers_that_were_looked_at():
    found = search((3, 7), 10, budget=5)
    assert (10,) in looked_at(found.root)
    assert jaccard(set(read_trace("3+7=10!", (3, 7)).visited), {(10,), (4,)}) == 0.5
    assert jaccard(set(), set()) == 1.0
    assert jaccard({1}, {2}) == 0.0


def test_a_demonstration_is_all_alike_to_its_own_search():
    task = as_task("countdown", form="backtrack")
    for row in task.rows("train")[:20]:
        found = search(tuple(sorted(row["numbers"])), row["target"], budget=task.budget, ceiling=task.ceiling)
        assert jaccard(set(read_trace(row["completion"], row["numbers"]).visited), looked_at(found.root)) == 1.0


@pytest.mark.parametrize("task", ["countdown", "sudoku"])
@pytest.mark.parametrize("form", ["direct", "backtrack"])
def test_a_finished_run_is_measured(task, form, monkeypatch):
    monkeypatch.setattr(backtrack, "PROBLEMS", 2)
    monkeypatch.setattr(backtrack, "DRAWN", {"direct": 16, "path": 16})
    method = SFT(model="tiny-16x1").bind(as_task(task, form=form), 0, Budget(updates=1))
    run = dataclasses.make_dataclass("Finished", ["method", "seed"])(method, 0)
    found = backtrack.measure(run)
    names = {
        "pass@1",
        "pass@16",
        "tokens",
        "flops",
        "greedy",
        "greedy tokens",
        "greedy flops",
        "mistakes",
    }
    assert names <= set(found)
    assert all(isinstance(value, float) and value == value for value in found.values())
    assert ("likeness to the search" in found) == (task == "countdown")
