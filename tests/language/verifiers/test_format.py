"""Tags, each exactly once and in order."""

from __future__ import annotations

import pytest

from palaestra.language.verifiers.format import Tagged, between, tags_in_order

GOOD = "<think>a</think><answer>b</answer>"


@pytest.mark.parametrize(
    "text", [GOOD, f"well {GOOD} done", "<think></think><answer></answer>", GOOD.replace("><", ">\n<")]
)
def test_each_tag_once_and_in_order_is_the_format(text):
    assert tags_in_order(text)


@pytest.mark.parametrize("tag", ["<think>", "</think>", "<answer>", "</answer>"])
def test_a_tag_that_is_missing_or_stands_twice_is_not(tag):
    assert not tags_in_order(GOOD.replace(tag, ""))
    assert not tags_in_order(GOOD.replace(tag, tag * 2))
    assert not tags_in_order(GOOD + tag)


@pytest.mark.parametrize(
    "text",
    ["", "<answer>b</answer><think>a</think>", "<think><answer>b</answer></think>", "</think><think></answer><answer>"],
)
def test_other_orders_are_not(text):
    assert not tags_in_order(text)


def test_what_stands_between_tags():
    assert between("<answer> 12 </answer>") == "12"
    assert between("<answer>1</answer> or <answer>2</answer>") == "2"
    assert between("<answer></answer>") == ""
    assert between("<answer>1") is None
    assert between("1</answer>") is None
    assert between("") is None


def test_as_a_reward_it_reads_texts_and_messages():
    messages = [{"role": "assistant", "content": GOOD}]
    assert Tagged()(completions=[GOOD, "b", messages], prompts=["", "", ""], completion_ids=[[1], [2], [3]]) == [
        1.0,
        0.0,
        1.0,
    ]
    assert Tagged(("[", "]"))(completions=["[x]", "]x["]) == [1.0, 0.0]
