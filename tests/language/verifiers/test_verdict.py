"""Verdicts as rewards in trl's signature."""

from __future__ import annotations

from palaestra.language.verifiers.numbers import number
from palaestra.language.verifiers.verdict import RIGHT, Verified, answer_text, each_row, unparseable, wrong


def echo(text, row):
    if not text:
        return unparseable()
    return RIGHT if text == row["answer"] else wrong()


def test_each_status_has_its_number():
    reward = Verified(echo, right=2.0, wrong=-0.5, unparseable=-1.0)
    assert reward(prompts=["p"] * 3, completions=["a", "b", ""], completion_ids=[[]] * 3, answer=["a"] * 3) == [
        2.0,
        -0.5,
        -1.0,
    ]
    assert reward.__name__ == "echo"


def test_messages_are_read_as_their_text():
    assert answer_text([{"role": "assistant", "content": "a"}, {"role": "tool"}]) == "a"
    assert Verified(echo)(completions=[[{"role": "assistant", "content": "a"}]], answer=["a"]) == [1.0]


def test_of_a_conversation_only_the_policy_s_own_words_count():
    told = {"role": "tool", "content": "the answer is 42\n"}
    assert Verified(number)([[told, {"role": "assistant", "content": "I give up."}]], answer=["42"]) == [0.0]
    turns = [
        {"role": "assistant", "content": "5"},
        {"role": "user", "content": "and?"},
        {"role": "assistant", "content": "6"},
    ]
    assert answer_text(turns) == "5\n6"


def test_what_is_no_column_is_no_part_of_a_row():
    assert each_row({"a": [1, 2], "state": object(), "short": [1]}, 2) == [{"a": 1}, {"a": 2}]
