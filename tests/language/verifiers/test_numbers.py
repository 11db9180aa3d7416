"""Final answers: where they are found, how numbers are read, and what is equal."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palaestra.language.verifiers.numbers import boxed, final_answer, level, number, read_number, same


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("18", 18),
        (" -18. ", -18),
        ("−18", -18),
        ("$18", 18),
        ("-$18", -18),
        ("\\$18.50", Fraction(37, 2)),
        ("1,080", 1080),
        ("109,200,000", 109200000),
        ("1{,}080", 1080),
        ("1\\,080", 1080),
        ("10,10", None),
        ("18 dollars", 18),
        ("18 dollars per day.", 18),
        ("18\\text{ cm}", 18),
        ("18 \\mathrm{km}", 18),
        ("45^\\circ", 45),
        ("45°", 45),
        ("50%", 50),
        ("50\\%", 50),
        ("0.5", Fraction(1, 2)),
        (".5", Fraction(1, 2)),
        ("5.", 5),
        ("3/4", Fraction(3, 4)),
        ("-3 / 4", Fraction(-3, 4)),
        ("\\frac{3}{4}", Fraction(3, 4)),
        ("\\dfrac{3}{4}", Fraction(3, 4)),
        ("\\frac34", Fraction(3, 4)),
        ("-\\frac{3}{4}", Fraction(-3, 4)),
        ("\\frac{-3}{4}", Fraction(-3, 4)),
        ("1 1/2", Fraction(3, 2)),
        ("1\\frac{1}{2}", Fraction(3, 2)),
        ("-1 1/2", Fraction(-3, 2)),
        ("1e3", 1000),
        ("1.5 \\times 10^{3}", 1500),
        ("2*10^-2", Fraction(1, 50)),
        ("x = 5", 5),
        ("about 5", 5),
        ("**18**", 18),
        ("+7", 7),
        ("1/0", None),
        ("\\frac{1}{0}", None),
        ("", None),
        ("eighteen", None),
        ("3x", None),
        ("x3", None),
        ("2\\sqrt{3}", None),
        ("\\sqrt{3}", None),
        ("3\\pi", None),
        ("5^2", None),
        ("3 + 4", None),
        ("3 4", None),
        ("(3, 4)", None),
        ("3 apples and 4 pears", None),
        ("3.4.5", None),
        ("1e999999999", None),
        ("1e" + "0" * 12 + "99999999999", None),  # whose first digits are small
        ("1e-000000000001", Fraction(1, 10)),
        ("negative 5", -5),
        ("minus \\frac{1}{2}", Fraction(-1, 2)),
        ("$-5 dollars", -5),
        ("not 5", None),
        ("\\text{not }5", None),
        ("5 squared", None),
        ("the square root of 5", None),
        ("5 and a half", None),
        ("5 square feet", 5),
        ("5 dozen", 5),
        ("18cm", 18),
        ("18dollars", 18),
        ("5xy", None),
        ("-6ab", None),
        ("2**3", None),
        ("about **18** dollars", 18),
        ("`18`", 18),
        ("*18*", 18),
        ("9" * 5000, None),
    ],
)
def test_reading_numbers(text, value):
    assert read_number(text) == value


@given(st.integers(-(10**12), 10**12))
def test_every_integer_is_read_with_and_without_commas(value):
    assert read_number(str(value)) == value
    assert read_number(f"{value:,}") == value
    assert read_number(f"${value:,} dollars") == value


@given(st.fractions(max_denominator=1000))
def test_every_fraction_is_read_in_both_notations(value):
    assert read_number(f"{value.numerator}/{value.denominator}") == value
    assert read_number(f"\\frac{{{value.numerator}}}{{{value.denominator}}}") == value


@given(st.decimals(allow_nan=False, allow_infinity=False, places=4, min_value=-(10**6), max_value=10**6))
def test_every_decimal_is_read_exactly(value):
    assert read_number(f"{value:f}") == Fraction(value)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("3 + 4 = 7\n#### 7", "7"),
        ("#### 6\nno:\n#### 7\nthat is it", "7"),
        ("so \\boxed{7}", "7"),
        ("\\boxed{6} or rather \\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\fbox{7}", "7"),
        ("<think>6</think><answer>7</answer>", "7"),
        ("<think>\\boxed{6}</think><answer>\\boxed{7}</answer>", "7"),
        ("\\boxed{6}<answer>7</answer>", "7"),
        ("The answer is 7.", "7."),
        ("Answer: 7", "7"),
        ("the answer is 6, no, the answer is: 7", "7"),
        ("The final answer is $7$. I hope it is correct.", "$7$"),
        ("The answer is 7. Had I added, it would be 8.", "7"),
        ("The answer is St. Louis", "St. Louis"),
        ("so \\boxed{7}, and it stands in \\boxed{}.", "7"),
        ("it is 7", None),
        ("", None),
        ("####", None),
        ("\\boxed{}", None),
        ("\\boxed{7", None),
        ("<answer></answer>", None),
    ],
)
def test_finding_the_final_answer(text, answer):
    assert final_answer(text) == answer


def test_the_last_number_counts_only_where_it_may():
    assert final_answer("5 and then 1,234.", anywhere=True) == "1,234"
    assert final_answer("it is -3", anywhere=True) == "-3"
    assert final_answer("3-4", anywhere=True) is not None
    assert final_answer("it is \N{MINUS SIGN}3", anywhere=True) == "\N{MINUS SIGN}3"
    assert final_answer("it is 1e5", anywhere=True) == "1e5"
    assert final_answer("none", anywhere=True) is None


def test_braces_are_paired():
    assert boxed("\\boxed{\\{1,2\\}}") == "\\{1,2\\}"
    assert boxed("\\boxed {a{b}c}d}") == "a{b}c"


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("18", "18.0"),
        ("0.5", "\\frac{1}{2}"),
        ("1,000", "1000"),
        ("(1, \\frac12)", "(1.0,\\dfrac{1}{2})"),
        ("\\left( 3, 4 \\right)", "(3,4)"),
        ("1, 2", "1,2"),
        ("2\\sqrt{3}", "2 \\sqrt{3}"),
        ("x=5", "5"),
        ("\\text{east}", "east"),
        ("(-\\infty, 2]", "(-\\infty,2]"),
        ("x^2+1", "x^2 + 1"),
    ],
)
def test_equal_answers(a, b):
    assert same(a, b) and same(b, a)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("18", "19"),
        ("0.33", "1/3"),
        ("(1,2)", "(2,1)"),
        ("(1,2)", "[1,2]"),
        ("(1,2]", "(1,2)"),
        ("(1,2)", "(1,2,3)"),
        ("2\\sqrt{3}", "2\\sqrt{5}"),
        ("3x", "3"),
        ("5", "-5"),
        ("east", "west"),
        ("10", "10^2"),
        ("1,2", "(1,2]"),
        ("1, 2", "[1, 2)"),
        ("6", "6xy"),
        ("2ab", "2cd"),
        ("23", "2**3"),
    ],
)
def test_unequal_answers(a, b):
    assert not same(a, b) and not same(b, a)


@pytest.mark.parametrize(
    ("text", "answer", "status"),
    [
        ("#### 18", "18", "right"),
        ("#### $18.00", "18", "right"),
        ("#### 1,800", "1800", "right"),
        ("#### 19", "18", "wrong"),
        ("#### 3x", "18", "wrong"),
        ("18", "18", "unparseable"),
        ("####", "18", "unparseable"),
        ("#### I do not know", "18", "unparseable"),
        ("\\boxed{\\text{odd}}", "odd", "right"),
        ("\\boxed{\\text{even}}", "odd", "wrong"),
        ("#### " + "1" * 9999, "18", "unparseable"),
    ],
)
def test_verdicts(text, answer, status):
    assert number(text, {"answer": answer}).status == status


def test_levels():
    def tagged(answer):
        return f"<think>hm</think><answer>{answer}</answer>"

    row = {"answer": "18"}
    assert [level(text, row) for text in (tagged("18"), tagged("19"), tagged("?"), "#### 18", "")] == [1, 2, 3, 4, 4]


@given(st.text(max_size=80), st.text(alphabet="0123456789.,/\\frac{}boxed#e^* -+", max_size=80))
def test_no_text_breaks_the_reader(any_text, numbers):
    for text in (any_text, numbers, f"#### {numbers}", f"\\boxed{{{numbers}}}"):
        assert number(text, {"answer": "18"}, anywhere=True).status in ("right", "wrong", "unparseable")
