"""Addition: carries by hand, fixed lengths, and what counts as right."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palaestra.core.errors import BadSetting
from palaestra.language.tasks.arithmetic import Arithmetic, bare_sum, carries_of, tagged_sum
from tests.language.tasks.laws import holds, scores


@pytest.mark.parametrize(
    "settings",
    [{}, {"digits": 1}, {"digits": 4}, {"scratch": False}, {"fixed": False}, {"fixed": False, "scratch": False}],
)
def test_it_keeps_the_contract_of_generated_tasks(settings):
    holds(Arithmetic(**settings), rows=60 if settings.get("digits") == 1 else 200)


def test_rows_by_hand():
    def row(a, b, **settings):
        found = Arithmetic(**settings).row((a, b), None)
        return found["prompt"] + found["completion"]

    assert row(47, 85) == "47+85=<think>1</think><answer>132</answer>"
    assert row(2, 3) == "02+03=<think>0</think><answer>005</answer>"
    assert row(2, 3, fixed=False) == "2+3=<think></think><answer>5</answer>"
    assert row(95, 7, fixed=False) == "95+7=<think>1</think><answer>102</answer>"
    assert row(999, 1, digits=3) == "999+001=<think>11</think><answer>1000</answer>"
    assert row(2, 3, scratch=False) == "02+03=005"


def test_two_digits_of_fixed_length_are_answered_in_8_tokens():
    task = Arithmetic()
    tokeniser = task.tokeniser()
    assert task.answer_tokens == 8
    assert {len(tokeniser(row["completion"]).input_ids) for row in task.rows("train")[:200]} == {8}
    assert {len(tokeniser(row["prompt"]).input_ids) for row in task.rows("train")[:200]} == {6}
    assert tokeniser.mask_token_id is not None


@given(st.integers(0, 999), st.integers(0, 999))
def test_carries_are_those_of_written_addition(a, b):
    carry, expected = 0, []
    for k in range(3):
        carry = (a // 10**k % 10 + b // 10**k % 10 + carry) // 10
        expected.append(carry)
    assert carries_of(a, b, 3) == expected


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("132", "right"),
        ("0132", "right"),
        (" 132 ", "right"),
        ("131", "wrong"),
        ("", "unparseable"),
        ("1 32", "unparseable"),
    ],
)
def test_a_bare_sum(text, status):
    assert bare_sum(text, {"answer": 132}).status == status
    assert bare_sum("9" * 5000, {"answer": 132}).status == "unparseable"


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("<think>1</think><answer>132</answer>", "right"),
        ("<think>0</think><answer>132</answer>", "right"),  # the thought is the model's own affair
        ("<think>1</think><answer>123</answer>", "wrong"),
        ("<think>1</think><answer></answer>", "unparseable"),
        ("<think>1</think>132", "unparseable"),
        ("<answer>132</answer>", "unparseable"),
        ("<think>1</think><answer>123</answer><answer>132</answer>", "unparseable"),
    ],
)
def test_a_sum_between_tags(text, status):
    assert tagged_sum(text, {"answer": 132}).status == status


def test_the_format_has_a_weight_of_its_own():
    task = Arithmetic(format_weight=0.25)
    row = task.rows("train")[0]
    texts = [row["completion"], "<think></think><answer>x</answer>", "x"]
    assert scores(task, [row] * 3, texts) == {
        "total": [1.25, 0.25, 0.0],
        "correct": [1.0, 0.0, 0.0],
        "format": [1.0, 1.0, 0.0],
    }


def test_settings_that_cannot_be_are_refused():
    for settings in ({"digits": 0}, {"digits": 40}, {"scratch": False, "format_weight": 1.0}):
        with pytest.raises(BadSetting):
            Arithmetic(**settings)
