"""The calculus: each rule, proofs that are right, and every way to be wrong."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palaestra.language.verifiers.proofs import (
    RULES,
    Formula,
    Line,
    consequences,
    follows,
    formula,
    is_proof,
    proof,
    proofs_of,
    read_proof,
    style_of,
)

ROW = {"premises": ["~c>~b", "a>b", "c>d", "a"], "goal": "c"}
literals = st.integers(1, 4).flatmap(lambda k: st.sampled_from([k, -k]))
formulas = st.builds(Formula, st.one_of(st.just(0), literals), literals)


@given(formulas)
def test_a_formula_is_its_text_again(given_formula):
    assert formula(str(given_formula)) == given_formula


@pytest.mark.parametrize("text", ["", "i", "~~a", "a>", "a>b>c", "a ", "-a", "~"])
def test_other_texts_are_no_formulas(text):
    with pytest.raises(ValueError):
        formula(text)


@pytest.mark.parametrize(
    ("line", "premises", "yields"),
    [
        ("mp a>b", ["a>b", "a"], "b"),
        ("mp ~a>~b", ["~a>~b", "~a"], "~b"),
        ("mt a>b", ["a>b", "~b"], "~a"),
        ("mt ~a>~b", ["~a>~b", "b"], "a"),
        ("mt ~a>b", ["~a>b", "~b"], "a"),
        ("hs a>c", ["a>b", "b>c"], "a>c"),
        ("cp ~b>~a", ["a>b"], "~b>~a"),
        ("cp b>a", ["~a>~b"], "b>a"),
    ],
)
def test_each_rule_yields_what_it_should_and_needs_all_its_premises(line, premises, yields):
    rule, text = line.split()
    parsed = Line(rule, formula(text))
    known = {formula(premise) for premise in premises}
    assert parsed.yields == formula(yields)
    assert follows(parsed, known)
    assert all(not follows(parsed, known - {premise}) for premise in known)
    assert all(not follows(Line(other, parsed.formula), known) for other in RULES if other != rule)


def test_what_follows_is_true_wherever_all_that_is_known_is():
    followed = 0
    implications = [Formula(x, y) for x in (1, -1, 2, -2, 3, -3) for y in (1, -1, 2, -2, 3, -3)]
    everything = [*implications, *(Formula(0, x) for x in (1, -1, 2, -2, 3, -3))]
    rng = random.Random(0)
    for _ in range(300):
        known = set(rng.sample(everything, 4))
        for line in (Line(rule, f) for rule in RULES for f in implications):
            if follows(line, known):
                followed += 1
                must_be_true(line.yields, known)
    assert followed > 300


def must_be_true(conclusion, known):

    def true(f, values):
        def holds(x):
            return values[abs(x) - 1] == (x > 0)

        return holds(f.then) or (f.given != 0 and not holds(f.given))

    for values in itertools.product([False, True], repeat=3):
        assert true(conclusion, values) or not all(true(f, values) for f in known)


@given(st.sets(formulas, max_size=6))
def test_consequences_are_all_lines_that_follow_and_say_something_new(known):
    literals = [*range(1, 5), *range(-4, 0)]
    every = {Line(rule, Formula(x, y)) for rule in RULES for x in literals for y in literals}
    found = consequences(known)
    assert len(set(found)) == len(found)
    assert set(found) == {line for line in every if follows(line, known) and line.yields not in known}


@pytest.mark.parametrize(
    "text",
    [
        "mp a>b;mt ~c>~b;qed",
        "cp b>c;hs a>c;mp a>c;qed",
        "cp ~b>~a;hs ~c>~a;mt ~c>~a;qed",
        "mp a>b;cp b>c;mp b>c;qed",
        "mp a>b;mp a>b;mt ~c>~b;qed",
        " mp a>b;mt ~c>~b;qed\n",
    ],
)
def test_a_proof_is_right(text):
    assert proof(text, ROW).right


@pytest.mark.parametrize(
    "text",
    [
        "mp a>b;qed",  # not the goal
        "mt ~c>~b;qed",  # a line too early
        "mp a>c;qed",  # an implication that is not there
        "mp a>b;mp b>c;qed",  # nor this one, though it is true
        "mp a>b;mp ~c>~b;qed",  # the wrong rule
        "mp a>b;mt ~c>~b;",  # no end
        "mp a>b;mt ~c>~b;qedqed",
        "mp a>b;mt ~c>~b;qed and more",
        "mp a>b;mt ~c>~b;mp c>d;qed",  # goes on after the goal
        "mt a>b;mt ~c>~b;qed",
        "hs b>c;mp b>c;qed",
        "cp c>b;mp a>b;mt ~c>~b;qed",  # an unneeded line that does not follow
        "cp b>c;hs a>c;qed",  # ends with an implication
    ],
)
def test_a_proof_is_wrong(text):
    assert proof(text, ROW).status == "wrong"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "qed",
        "c",
        "mp a>b",
        "mp a>b;mt ~c>~b qed",
        "mp a>b; mt ~c>~b;qed",
        "xx a>b;qed",
        "mp a>i;qed",
        "mp b;qed",
        "sorry;qed",
    ],
)
def test_a_text_is_no_proof(text):
    assert proof(text, ROW).status == "unparseable"


def test_the_reason_names_the_line():
    assert "line 2" in proof("mp a>b;mp b>c;qed", ROW).why


@pytest.mark.parametrize(
    ("text", "style"),
    [
        ("mp a>b;mt ~c>~b;qed", "forward"),
        ("hs a>c;mp a>c;qed", "left"),
        ("hs a>c;hs a>d;mp a>d;qed", "left"),
        ("hs b>d;hs a>d;mp a>d;qed", "right"),
        ("cp ~b>~a;hs ~c>~a;mt ~c>~a;qed", "contra"),
        ("mp a>b;hs b>d;mp b>d;qed", "mixed"),
        ("cp b>c;mp a>b;mp b>c;qed", "mixed"),
        ("hs a>c;hs c>e;hs a>e;mp a>e;qed", "mixed"),
    ],
)
def test_styles(text, style):
    assert style_of(text) == style


def test_all_short_proofs_of_a_theorem_by_hand():
    found = {"".join(map(str, lines)) for lines in proofs_of(["a", "a>b", "b>c"], "c", 2)}
    assert found == {"mp a>b;mp b>c;", "hs a>c;mp a>c;"}
    longer = list(proofs_of(["a", "a>b", "b>c"], "c", 4))
    assert len(longer) == len(set(longer)) > 2
    premises = {formula(p) for p in ["a", "a>b", "b>c"]}
    for lines in longer:
        assert is_proof(lines, premises, formula("c"))
        assert not any(is_proof(lines[:i] + lines[i + 1 :], premises, formula("c")) for i in range(len(lines)))
    assert not list(proofs_of(["a", "b>c"], "c", 3))


@given(st.text(alphabet="mpthsc abc~>;qed", max_size=40))
def test_no_text_breaks_the_reader(text):
    lines, rest = read_proof(text)
    assert "".join(map(str, lines)) + rest == text.strip()
    assert proof(text, ROW).status in ("right", "wrong", "unparseable")
