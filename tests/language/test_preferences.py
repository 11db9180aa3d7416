"""Preferences in rows: every kind is seen as answers with scores, and what is wrong with a row is said."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from palaestra.core.errors import BadDataset
from palaestra.language.preferences import Ranked, best_of, explicit, kind_of, ranked_of


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


@pytest.mark.parametrize(
    ("row", "answers", "scores"),
    [
        ({"completion": "a", "label": np.True_}, ["a"], [1.0]),
        ({"chosen": "a", "rejected": "b"}, ["a", "b"], [1.0, 0.0]),
        ({"chosen": "a", "rejected": "b", "score_chosen": 3, "score_rejected": -1.5}, ["a", "b"], [3.0, -1.5]),
        ({"chosen": "a", "rejected": "b", "margin": 2.0}, ["a", "b"], [1.0, 0.0]),
        ({"chosen": [assistant("a")], "rejected": [assistant("b")]}, ["a", "b"], [1.0, 0.0]),
        ({"completions": ["b", "a", "c"], "scores": [0.1, 2, -3]}, ["b", "a", "c"], [0.1, 2.0, -3.0]),
        ({"completions": [[assistant("b")], "a"], "scores": (0.1, 2)}, ["b", "a"], [0.1, 2.0]),
        ({"completions": ["a", "b"], "scores": [1, 2], "completion": "a"}, ["a", "b"], [1.0, 2.0]),
        ({"completions": ["a", "a"], "scores": [2, 2.00001]}, ["a", "a"], [2.0, 2.00001]),
        ({"completion": "a", "score": 0.25}, ["a"], [0.25]),
        ({"completion": "a", "label": True}, ["a"], [1.0]),
        ({"completion": "a", "label": 0}, ["a"], [0.0]),
        ({"completion": "a", "label": False, "chosen": None, "rejected": None}, ["a"], [0.0]),
    ],
)
def test_every_kind_of_row_is_answers_with_scores_in_its_own_order(row, answers, scores):
    assert ranked_of({"prompt": "p", **row}) == Ranked(answers, scores, [False] * len(answers))


@pytest.mark.parametrize("score", [7.0, 0.0, -7, 1e-9, 1e6])
def test_a_chosen_answer_with_the_score_of_the_rejected_one_is_still_the_better_one(score):
    row = {"prompt": "p", "chosen": "a", "rejected": "b", "score_chosen": score, "score_rejected": score}
    better, worse = torch.tensor(ranked_of(row).scores)
    assert better > worse and better == score
    assert float(better - worse) == pytest.approx(0.0, abs=2e-6 * max(1.0, abs(score)))


def test_answers_that_were_cut_off_are_flagged():
    assert ranked_of({"completions": ["a", "b"], "scores": [1, 2], "truncated": [False, True]}).truncated == [
        False,
        True,
    ]
    assert ranked_of({"completion": "a", "score": 1, "truncated": True}).truncated == [True]
    for flag in (np.bool_(True), np.array(True), np.array([True]), torch.tensor(True), torch.tensor([True])):
        assert ranked_of({"completion": "a", "score": 1, "truncated": flag}).truncated == [True]
    with pytest.raises(BadDataset, match="2 answers and 1 flags"):
        ranked_of({"completions": ["a", "b"], "scores": [1, 2], "truncated": [True]})


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"chosen": "a", "rejected": "a"}, "the same answer as chosen and rejected: 'a'"),
        ({"chosen": "a", "rejected": " a\n"}, "the same answer as chosen and rejected: 'a'"),
        ({"completions": ["a", "b", "a"], "scores": [1, 0, 0]}, "the same answer twice, with scores 1 and 0: 'a'"),
        ({"chosen": "a", "rejected": " \n"}, "an empty answer"),
        ({"chosen": "a"}, "rows need completions and scores; chosen and rejected; completion and score"),
        ({"chosen": "a", "reject": "b"}, "but prompt, chosen, reject (did you mean 'rejected'?); rows need"),
        ({"chosen": "a", "rejected": None}, "but prompt, chosen, rejected (null); rows need"),
        ({"chosen": "a", "rejected": "b", "score_chosen": 1.0}, "not the score of the other answer"),
        ({"chosen": "a", "rejected": "b", "score_chosen": 1, "score_rejected": 2}, "scores the chosen answer 1, below"),
        ({"chosen": "a", "rejected": "b", "score_chosen": math.inf, "score_rejected": 2}, "a score is a finite number"),
        ({"chosen": 3, "rejected": "b"}, "neither text nor an assistant's message: '3'"),
        ({"chosen": [user("a")], "rejected": [assistant("b")]}, "no text of the assistant"),
        ({"completions": ["a", "b"], "scores": [1.0]}, "2 answers and 1 scores"),
        ({"completions": ["a"], "scores": [math.nan]}, "'nan' in scores"),
        ({"completions": ["a"], "scores": ["3"]}, "'3' in scores"),
        (
            {"completions": ["a", "b"], "scores": [1e39, 2e39]},
            "'1e+39' in scores; a score is a finite number, of at most",
        ),
        ({"completion": "a", "score": 10**400}, "in score; a score is a finite number"),
        ({"completions": ["a"], "scores": np.array(1.0)}, "a ndarray as scores; that is a list"),
        ({"completions": [], "scores": []}, "no answers"),
        ({"completions": "ab", "scores": [1, 2]}, "a str as completions"),
        ({"completion": "a", "label": "yes"}, "'yes' as label"),
        ({"completion": "", "score": 1.0}, "an empty answer"),
    ],
)
def test_what_is_wrong_with_a_row_is_said_and_which_row_it_is(row, said):
    with pytest.raises(BadDataset, match="the row with the prompt 'why\\?'") as error:
        ranked_of({"prompt": "why?", **row})
    assert said in str(error.value)
    with pytest.raises(BadDataset, match=r"^row 7 of mine "):
        ranked_of({"prompt": "why?", **row}, "row 7 of mine")


def test_the_prompt_of_two_conversations_in_messages_is_all_but_their_last_answers():
    talk = [user("hello"), assistant("hi"), user("why?")]
    row = explicit({"chosen": [*talk, assistant("because")], "rejected": [*talk, assistant("no")], "more": 1})
    assert row == {"prompt": talk, "chosen": "because", "rejected": "no", "more": 1}
    assert explicit({"prompt": talk, "chosen": [assistant("because")], "rejected": [assistant("no")]})["prompt"] == talk
    assert explicit(row) == row


def test_conversations_beside_their_prompt_as_text_are_read_as_messages():
    row = {"prompt": "why?", "chosen": [user("why?"), assistant("a")], "rejected": [user("why?"), assistant("b")]}
    assert explicit(row) == {"prompt": [user("why?")], "chosen": "a", "rejected": "b"}


def test_turns_that_both_answers_share_belong_to_the_prompt():
    both = [assistant("hi"), user("why?")]
    row = {"prompt": [user("hello")], "chosen": [*both, assistant("a")], "rejected": [*both, assistant("b")]}
    assert explicit(row) == {"prompt": [user("hello"), *both], "chosen": "a", "rejected": "b"}
    with pytest.raises(BadDataset, match="answers of several turns, which differ before the last"):
        explicit({**row, "rejected": [assistant("b")]})


@pytest.mark.parametrize(
    "row",
    [
        {"chosen": [user("a?"), assistant("a")], "rejected": [user("b?"), assistant("b")]},
        {"chosen": [user("a?"), assistant("a")], "rejected": [user("a?"), assistant("x"), user("b?"), assistant("b")]},
        {"prompt": [user("c?")], "chosen": [user("a?"), assistant("a")], "rejected": [user("a?"), assistant("b")]},
        {
            "chosen": "\n\nHuman: a?\n\nAssistant: x\n\nHuman: c?\n\nAssistant: a",
            "rejected": "\n\nHuman: a?\n\nAssistant: y\n\nHuman: c?\n\nAssistant: b",
        },
        {"chosen": "The sky", "rejected": "A sea"},
        {"chosen": "The", "rejected": "Three"},
    ],
)
def test_a_pair_across_prompts_is_refused(row):
    with pytest.raises(BadDataset, match=r"different prompts|not the one which|in common"):
        ranked_of(row)


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt"),
    [
        ("The sky is blue.", "The sky is green.", "The sky is"),
        ("The sky is blue.", "The sky is black.", "The sky is"),
        ("2 + 2 = 4", "2 + 2 = 5 or so", "2 + 2 ="),
        ("Say:\nyes", "Say:\nno", "Say:"),
        ("天空是蓝色的", "天空是绿色的", "天空是"),
        ("Colours. 天空0是蓝色的", "Colours. 天空0是绿色的", "Colours. 天空0是"),
        ("\n\nHuman: a?\n\nAssistant: I am", "\n\nHuman: a?\n\nAssistant: I can", "\n\nHuman: a?\n\nAssistant:"),
        (
            "\n\nHuman: a?\n\nAssistant: x\n\nHuman: b?\n\nAssistant: no",
            "\n\nHuman: a?\n\nAssistant: x\n\nHuman: b?\n\nAssistant: yes",
            "\n\nHuman: a?\n\nAssistant: x\n\nHuman: b?\n\nAssistant:",
        ),
    ],
)
def test_the_prompt_of_two_texts_ends_where_the_answers_begin(chosen, rejected, prompt):
    row = explicit({"chosen": chosen, "rejected": rejected})
    assert row["prompt"] == prompt
    assert [prompt + row["chosen"], prompt + row["rejected"]] == [chosen, rejected]


@given(st.text(), st.text(), st.text())
def test_no_letter_of_two_texts_is_lost_whatever_they_are(prompt, chosen, rejected):
    whole = [prompt + chosen, prompt + rejected]
    try:
        row = explicit({"chosen": whole[0], "rejected": whole[1]})
    except BadDataset:
        return
    assert [row["prompt"] + row["chosen"], row["prompt"] + row["rejected"]] == whole


@pytest.mark.parametrize("asked", ["Is it?", [user("Is it?")]])
def test_no_prompt_is_made_up_where_another_column_may_be_it(asked):
    pair = {"chosen": "It is a good one", "rejected": "It is a bad one"}
    with pytest.raises(
        BadDataset, match=r"has no prompt, but question beside its answers; .*--task.column question, or"
    ):
        explicit({"question": asked, **pair})
    with pytest.raises(BadDataset, match="has nothing as prompt"):
        explicit({"prompt": None, **pair})
    for harmless in ({"score_chosen": 2.0, "score_rejected": 1.0}, {"id": 3, "source": "", "completion": "good one"}):
        assert explicit({**harmless, **pair})["prompt"] == "It is a"
    talk = "\n\nHuman: a?\n\nAssistant:"
    assert explicit({"source": "web", "chosen": talk + " I am", "rejected": talk + " I can"})["prompt"] == talk


def test_the_best_answer_is_the_first_of_those_with_the_highest_score():
    assert best_of(ranked_of({"completions": ["a", "b", "c"], "scores": [0, 2, 2]})) == "b"


def test_a_row_is_of_the_first_kind_whose_columns_it_has():
    assert kind_of({"completion": "a", "label": True, "completions": ["a"], "scores": [1]}) == ("completions", "scores")
    assert kind_of({"prompt": "p", "completion": "a"}) is None
