"""Sorting digits: answers, noise, and the limit on tokens."""

from __future__ import annotations

import pytest

from palaestra.core.errors import BadSetting, UnknownName
from palaestra.language.tasks.sorting import Sorting, in_order
from tests.language.tasks.laws import holds, scores


def test_it_keeps_the_contract_of_generated_tasks():
    holds(Sorting())


def test_no_order_of_held_out_digits_is_trained_on():
    task = Sorting(most=4)
    train = {row["answer"] for row in task.rows("train")[:2000]}
    test = {row["answer"] for row in task.rows("test")[:500]}
    assert train and test and not train & test


def test_what_is_held_out_does_not_depend_on_the_seed():
    train = {row["answer"] for row in Sorting(most=4, seed=1).rows("train")[:2000]}
    assert not train & {row["answer"] for row in Sorting(most=4, seed=2).rows("test")[:500]}


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("1359", "right"),
        (" 1359\n", "right"),
        ("1395", "wrong"),
        ("135", "wrong"),
        ("13599", "wrong"),
        ("", "unparseable"),
        ("1359=", "unparseable"),
        ("1 3 5 9", "unparseable"),
        ("١٣٥٩", "unparseable"),
    ],
)
def test_an_answer_is_the_digits_and_nothing_else(text, status):
    assert in_order(text, {"answer": "1359"}).status == status


def test_noise_spoils_that_share_of_demonstrations_and_not_the_answers():
    rows = Sorting(noise=0.4).rows("train")[:2000]
    right = sum(row["completion"] == row["answer"] for row in rows) / len(rows)
    assert right == pytest.approx(0.6, abs=0.05)
    assert all(sorted(row["completion"]) == list(row["answer"]) for row in rows)


def test_a_limit_of_7_tokens_cuts_two_of_seven_lengths():
    task = Sorting(limit=7)
    assert task.max_tokens == 7 and Sorting().max_tokens == 9 and Sorting(most=3).max_tokens == 4
    rows = task.rows("train")[:2000]
    cut = sum(len(row["answer"]) + 1 > task.max_tokens for row in rows) / len(rows)
    assert cut == pytest.approx(2 / 7, abs=0.04)


def test_a_judge_gives_1_and_0():
    task = Sorting()
    row = {"prompt": "31=", "answer": "13"}
    assert scores(task, [row, row], ["13", "31"]) == {"total": [1.0, 0.0], "correct": [1.0, 0.0]}


def test_a_setting_out_of_range_is_refused():
    for settings in ({"least": 3, "most": 2}, {"noise": 1.5}, {"limit": -1}, {"held_out": 0.0}, {"train_rows": 0}):
        with pytest.raises(BadSetting):
            Sorting(**settings)
    with pytest.raises(UnknownName):
        Sorting().rows("validation")


def test_a_split_without_problems_is_refused_by_name():
    with pytest.raises(BadSetting, match="test split"):
        Sorting(least=1, most=1, held_out=1e-9).rows("test")[0]
