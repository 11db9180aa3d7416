"""What every task in text has: how it is evaluated, by whom, and which of two answers is better."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from palaestra.core.errors import PalaestraError
from palaestra.language.judges.judge import Judge
from palaestra.language.sample import Sample, distinct
from palaestra.language.task import TextTask
from palaestra.language.tasks.cyclic_style import CyclicStyle
from palaestra.language.tasks.prompts import PromptTask
from palaestra.language.tasks.sorting import Sorting


def length(completions, **columns):
    return [float(len(text)) for text in completions]


def brief(completions, **columns):
    return [-float(len(text)) for text in completions]


def quarter(rows, first, second):
    return torch.full((len(rows),), 0.25)


@dataclass
class Talk(TextTask):
    def rows(self, split):
        return [{"prompt": f"{split} {i}"} for i in range(9)]

    def judge(self):
        return Judge(length)


@dataclass
class Brief(Talk):
    sampled = True

    def gold(self):
        return Judge(brief)


class Parrot:
    """Says one word for every prompt that it is given."""

    def answer(self, rows, greedy=False, **how):
        self.greedy, none = greedy, torch.zeros(0)
        return [Sample(none.long(), none.bool(), none, none, 0, "word" * len(rows), False, row) for row in rows]


@pytest.mark.parametrize(("task", "greedy", "returns"), [(Talk(), True, [12.0] * 3), (Brief(), False, [-12.0] * 3)])
def test_gold_is_what_evaluation_measures_and_greedily_unless_the_task_is_sampled(task, greedy, returns):
    policy = Parrot()
    assert task.evaluate(policy, 3, seed=0).returns == returns
    assert policy.greedy is greedy


@pytest.mark.parametrize(
    ("texts", "n", "share"),
    [([[1, 2], [2, 3]], 1, 3 / 4), ([[1, 2, 3], [1, 2]], 2, 2 / 3), ([[1, 1, 1, 1]], 2, 1 / 3), ([[1], []], 2, 0.0)],
)
def test_distinct_n_is_the_share_of_different_n_grams_among_all_within_texts(texts, n, share):
    assert distinct([torch.tensor(text, dtype=torch.int64) for text in texts], n) == pytest.approx(share)


def test_a_task_without_held_out_prompts_is_not_asked_for_answers_to_them():
    task = Sorting(test_rows=0)
    for ask in (lambda: task.evaluate(Parrot(), 3, seed=0), lambda: task.answered(Parrot(), 3, seed=0)):
        with pytest.raises(PalaestraError, match="sorting-test_rows=0 has no held-out prompts"):
            ask()


def test_evaluations_say_how_varied_answers_are():
    assert Talk().evaluate(Parrot(), 3, seed=0).measures == {"distinct_1": 0.0, "distinct_2": 0.0, "distinct_3": 0.0}


def test_the_answer_with_the_better_score_of_the_judge_is_preferred():
    rows = Brief().rows("test")[:3]
    assert Brief().pair_judge()(rows, ["aa", "a", "b"], ["a", "aaa", "c"]).tolist() == [1.0, 0.0, 0.5]


def test_two_answers_of_an_evaluation_are_compared_by_gold_unless_the_task_compares_them_itself():
    rows = Brief().rows("test")[:3]
    assert Brief().gold_pair_judge()(rows, ["aa", "a", "b"], ["a", "aaa", "c"]).tolist() == [0.0, 1.0, 0.5]
    own = PromptTask(rows, reward=length, compare=quarter, held_out=0.0)
    assert own.gold_pair_judge()(rows, ["aa", "a", "b"], ["a", "aaa", "c"]).tolist() == [0.25] * 3
    assert CyclicStyle().gold_pair_judge()([{"prompt": "fk", "answer": "fkkf"}], ["Afkkf"], ["Bfkkf"]).item() > 0.7
