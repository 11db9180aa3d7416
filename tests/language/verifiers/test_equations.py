"""CountDown's steps: what two numbers become, and what a text did with its numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palaestra.language.verifiers.equations import combine, countdown, holds, read_trace

ROW = {"numbers": [12, 3, 7], "target": 22}


@pytest.mark.parametrize(("pair", "results"), [((6, 3), [9, 18, 3, 2]), ((3, 7), [10, 21, 4]), ((0, 5), [5, 0, 5])])
def test_two_numbers_become_their_sum_product_difference_and_whole_quotient(pair, results):
    assert [step.result for step in combine(*pair)] == results
    assert sorted(step.result for step in combine(*reversed(pair))) == sorted(results)


@given(st.integers(0, 500), st.integers(0, 500))
def test_every_step_of_two_numbers_is_true_and_uses_both(a, b):
    for step in combine(a, b):
        assert holds(step)
        assert sorted((step.left, step.right)) == sorted((a, b))


@pytest.mark.parametrize(
    "text",
    [
        "3+7=10 10+12=22",
        "7+3=10 12+10=22",
        " 3 + 7 = 10\n10+12 =22 ",
        "3+7=10(10 12)10+12=22!",
        "3*7=21(12 21)12+21=33<21-12=9<<3+7=10(10 12)10+12=22!",
        "9*9=7<3+7=10 10+12=22",  # what was taken back may be false
        "3+7=10(1 2 3)10+12=22",  # brackets are remarks
        "12+3=15 15+7=22",
    ],
)
def test_a_text_that_gets_there_is_right(text):
    assert countdown(text, ROW).right


@pytest.mark.parametrize(
    "text",
    [
        "3+7=10",  # on the way
        "3+7=10 10+12=23",  # a false sum that ends elsewhere
        "3+7=11 11+11=22",  # a false sum that ends right, with a number twice
        "7+7=14 14+8=22",  # numbers that were not given
        "3*7=22",  # a false product that ends right
        "10+12=22",  # a number before it is made
        "3-7=4 4+12=16",  # a difference below 0
        "7/3=2 2*12=24",  # a quotient that is not whole
        "3+7=10 10+12=22 22-0=22",  # a step too many
        "3+7=10 10+12=22<",  # taken back at the end
        "3+7=10 10+12=22?",  # got there and says it did not
        "3+7=10!",  # claims to be there
        "12/0=22 3*7=21",
        "!",
        "?",
    ],
)
def test_a_text_that_does_not_get_there_is_wrong_whatever_it_claims(text):
    assert countdown(text, ROW).status == "wrong"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "22",
        "3+7",
        "3+7=",
        "3+7=10 10+12=22 done",
        "3+7=10 10+12=22! 1+1=2",
        "<3+7=10 10+12=22",
        "3+7=-10",
        "__import__('os')",
        "3**7=2187",
        "3+7=10,10+12=22",
        "(12 10) x",
        "3+7=" + "1" * 5000,
        "٣+7=10",
        "(10 12)",
    ],
)
def test_a_text_that_is_no_sequence_of_steps_is_unparseable(text):
    assert countdown(text, ROW).status == "unparseable"


def test_a_quotient_of_nothing_and_a_number_left_alone_are_judged_like_others():
    assert countdown("5-5=0 0+9=9", {"numbers": [5, 5, 9], "target": 9}).right
    assert countdown("5-5=0 9/0=9", {"numbers": [5, 5, 9], "target": 9}).status == "wrong"
    assert countdown("5-5=0 0/9=0", {"numbers": [5, 5, 9], "target": 0}).right


def test_a_number_that_is_given_twice_is_used_twice_and_not_thrice():
    assert countdown("5+5=10 10+5=15", {"numbers": [5, 5, 5], "target": 15}).right
    assert countdown("5+5=10 10+5=15", {"numbers": [5, 5, 1], "target": 15}).status == "wrong"


def test_a_trace_tells_what_was_visited_and_how_often_it_turned_back():
    trace = read_trace("3*7=21(12 21)12+21=33<21-12=9<<3+7=10(10 12)", [12, 3, 7])
    assert trace.visited == [(12, 21), (33,), (9,), (10, 12)]
    assert trace.undone == 3
    assert trace.left == (10, 12)
    assert [str(step) for step in trace.path] == ["3+7=10"]
    assert trace.end == ""


@given(st.text(alphabet="0123456789+-*/=()<!? x", max_size=60))
def test_no_text_breaks_the_reader(text):
    assert countdown(text, ROW).status in ("right", "wrong", "unparseable")


def test_long_texts_are_read_in_linear_time():
    assert countdown(" " * 200_000, ROW).status == "unparseable"
    assert read_trace("3+7=10<" * 30_000, [3, 7]).undone == 30_000
