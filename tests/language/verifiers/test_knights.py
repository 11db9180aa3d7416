"""Levels of answers about knights and knaves."""

from __future__ import annotations

import pytest

from palaestra.language.verifiers.knights import SCORES, knights, level, roles_in, score

ROW = {"names": ["Alice", "Bob"], "roles": [True, False]}
GOOD = "(1) Alice is a knight (2) Bob is a knave"


def tagged(answer, thought="hm"):
    return f"<think>{thought}</think><answer>{answer}</answer>"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (tagged(GOOD), 1),
        (tagged("Bob is a KNAVE,\nand Alice  is a Knight."), 1),
        (tagged(GOOD, thought="Alice is a knave Bob is a knave no"), 1),
        (tagged("(1) Alice is a knight (2) Bob is a knight"), 2),
        (tagged("(1) Alice is a knight"), 3),  # incomplete
        (tagged("Alice is a knight or Alice is a knave"), 3),  # both for one person
        (tagged(GOOD + " Bob is a knight"), 3),  # a word too many
        (tagged("Alice is a knight Bobby is a knave"), 3),  # another name
        (tagged("Alice was a knight Bob is a knave"), 3),
        (tagged("Alice is a knighthood Bob is a knave"), 3),
        (tagged("?"), 3),
        (GOOD, 4),
        ("", 4),
        (f"<answer>{GOOD}</answer>", 4),
        (tagged(GOOD) + "<answer>", 4),
        (f"<answer>{GOOD}</answer><think></think>", 4),
    ],
)
def test_levels(text, expected):
    assert level(text, ROW) == expected
    assert knights(text, ROW).status == {1: "right", 2: "wrong"}.get(expected, "unparseable")
    assert score(completions=[text], prompts=["p"], **{key: [value] for key, value in ROW.items()}) == [
        SCORES[expected]
    ]


@pytest.mark.parametrize("nothing", ["", " \n"])
def test_nothing_between_good_tags_is_on_the_last_level_though_it_loses_less_than_bad_tags(nothing):
    assert level(tagged(nothing), ROW) == level("", ROW) == 4
    assert knights(tagged(nothing), ROW).status == "unparseable"
    columns = {key: [value] * 2 for key, value in ROW.items()}
    assert score(completions=[tagged(nothing), ""], prompts=["p"] * 2, **columns) == [-1.0, -3.0]


def test_scores_are_those_of_the_paper():
    assert SCORES == {1: 3.0, 2: -0.5, 3: -1.0, 4: -3.0}


def test_a_name_within_another_is_not_that_name():
    assert roles_in("Ann is a knight. Joann is a knave.", ["Ann", "Joann"]) == [True, False]
