"""Styles that beat each other in a circle: who is preferred, by how much, and what demonstrations show."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palaestra.core.errors import BadSetting
from palaestra.language.judges.kinds import asymmetry
from palaestra.language.tasks.cyclic_style import CyclicStyle, content, style_of
from tests.language.tasks.laws import holds

ROW = {"prompt": "fk", "answer": "fkkf"}
ANSWERS = st.text("ABCfk", max_size=7)


def preferred(first: str, second: str, **how) -> float:
    return CyclicStyle(**how).pair_judge()([ROW], [first], [second]).item()


def test_it_keeps_the_contract_of_generated_tasks():
    holds(CyclicStyle(), rows=100, right=False, part="content")
    holds(CyclicStyle(noise=0.0), rows=100, part="content")


@pytest.mark.parametrize(("first", "second"), [("A", "B"), ("B", "C"), ("C", "A")])
def test_styles_beat_each_other_in_a_circle_whatever_they_say(first, second):
    assert preferred(f"{first}ffff", f"{second}fkkf") == pytest.approx(0.8)
    assert preferred(f"{second}fkkf", f"{first}ffff") == pytest.approx(0.2)
    assert preferred(f"{first}fkkf", f"{second}fkkf", prefer=1.0) == 1.0


def test_of_the_same_style_the_one_with_better_content_is_preferred():
    assert preferred("Afkkf", "Afkkk") == 1.0 and preferred("Afkkk", "Afkkf") == 0.0
    assert preferred("Afkkf", "Afkkff") == 1.0
    assert preferred("Afkkf", "Afkkf") == 0.5


def test_what_has_no_style_loses_to_what_has():
    assert preferred("fkkf", "Affff") == 0.0 and preferred("A", "") == 1.0
    assert preferred("fkkf", "ffff") == 1.0 and preferred("", "") == 0.5


@given(st.lists(st.tuples(ANSWERS, ANSWERS), min_size=1, max_size=20))
@settings(max_examples=30)
def test_the_judge_is_antisymmetric(pairs):
    first, second = zip(*pairs)
    assert asymmetry(CyclicStyle().pair_judge(), [ROW] * len(pairs), first, second) < 1e-6


def test_the_table_of_styles_is_the_cyclic_game():
    table = CyclicStyle().table()
    assert table.flatten().tolist() == pytest.approx([0.5, 0.8, 0.2, 0.2, 0.5, 0.8, 0.8, 0.2, 0.5])


@pytest.mark.parametrize(
    ("text", "style", "share"),
    [("Bfkkf", "B", 1.0), ("Bfkk", "B", 0.6), ("fkkf", "", 1.0), ("", "", 0.0), ("BB", "B", 0.0)],
)
def test_an_answer_is_a_style_and_content(text, style, share):
    assert style_of(text) == style and content(text, "fkkf") == pytest.approx(share)


def test_demonstrations_have_the_styles_and_the_errors_that_were_asked_for():
    rows = CyclicStyle(noise=0.5).rows("train")
    shown = [row["completion"] for row in rows]
    count = Counter(map(style_of, shown))
    assert [count[style] / len(rows) for style in "ABC"] == pytest.approx([0.6, 0.3, 0.1], abs=0.03)
    right = sum(content(text, row["answer"]) for text, row in zip(shown, rows)) / len(rows)
    assert right == pytest.approx((4 * (1 - 0.5 * 15 / 16) + 1) / 5, abs=0.02)


def test_pairs_of_demonstrations_are_won_as_often_as_the_judge_says():
    task = CyclicStyle()
    judge = task.pair_judge()
    rows = task.rows("train")
    first, second = zip(*(row["completions"] for row in rows))
    expected = judge(list(rows), first, second)
    won = [row["scores"][0] for row in rows]
    assert all(sum(row["scores"]) == 1.0 for row in rows)
    strict = [i for i, chance in enumerate(expected.tolist()) if chance in (0.0, 1.0)]
    assert strict and all(won[i] == expected[i] for i in strict)
    favoured = [won[i] for i, chance in enumerate(expected.tolist()) if abs(chance - 0.8) < 1e-6]
    assert sum(favoured) / len(favoured) == pytest.approx(0.8, abs=0.05)


def test_a_setting_out_of_range_is_refused():
    for wrong in ({"prefer": 1.5}, {"noise": -0.1}, {"styles": (1.0, 0.0)}, {"styles": (0.5, 0.5, 0.5)}):
        with pytest.raises(BadSetting):
            CyclicStyle(**wrong)
