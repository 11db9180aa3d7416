"""The calculus: each rule, proofs that are right, and every way to be wrong."""

from __future__ import annotations

import itertools

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

ROW = {"premises": ["~c>~b", "a", "a>b", "c>d"], "goal": "c"}
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
    ("line", "premises"),
    [
        ("mp b", ["a>b", "a"]),
        ("mp ~b", ["~a>~b", "~a"]),
        ("mt ~a", ["a>b", "~b"]),
        ("mt a", ["~a>~b", "b"]),
        ("mt a", ["~a>b", "~b"]),
        ("hs a>c", ["a>b", "b>c"]),
        ("cp ~b>~a", ["a>b"]),
        ("cp b>a", ["~a>~b"]),
    ],
)
def test_each_rule_yields_what_it_should_and_needs_all_its_premises(line, premises):
    rule, text = line.split()
    parsed = Line(rule, formula(text))
    known = {formula(premise) for premise in premises}
    assert follows(parsed, known)
    assert all(not follows(parsed, known - {premise}) for premise in known)
    assert all(not follows(Line(other, parsed.formula), known) for other in RULES if other != rule)


@given(st.sets(formulas, max_size=6), st.sampled_from(sorted(RULES)), formulas)
def test_what_follows_is_true_wherever_all_that_is_known_is(known, rule, conclusion):
    if not follows(Line(rule, conclusion), known):
        return

    def true(f, values):
        def holds(x):
            return values[abs(x) - 1] == (x > 0)

        return holds(f.then) or (f.given != 0 and not holds(f.given))

    for values in itertools.product([False, True], repeat=4):
        assert true(conclusion, values) or not all(true(f, values) for f in known)


@given(st.sets(formulas, max_size=6))
def test_consequences_are_all_lines_that_follow_and_say_something_new(known):
    literals_or_none = [0, *range(1, 5), *range(-4, 0)]
    every = {Line(rule, Formula(x, y)) for rule in RULES for x in literals_or_none for y in literals_or_none if y}
    assert set(consequences(known)) == {line for line in every if follows(line, known) and line.formula not in known}


@pytest.mark.parametrize(
    "text",
    [
        "mp b;mt c;qed",
        "cp b>c;hs a>c;mp c;qed",
        "cp ~b>~a;hs ~c>~a;mt c;qed",
        "mp b;cp b>c;mp c;qed",
        "mp b;mp b;mt c;qed",
        " mp b;mt c;qed\n",
    ],
)
def test_a_proof_is_right(text):
    assert proof(text, ROW).right


@pytest.mark.parametrize(
    "text",
    [
        "mp b;qed",  # not the goal
        "mt c;qed",  # a line too early
        "mp c;qed",
        "mp b;mp c;qed",  # the wrong rule
        "mp b;mt c;",  # no end
        "mp b;mt c;qedqed",
        "mp b;mt c;qed and more",
        "mp b;mt c;mp d;qed",  # goes on after the goal
        "mp ~b;mt c;qed",
        "hs b>c;mp c;qed",
        "cp c>b;mp b;mt c;qed",  # an unneeded line that does not follow
    ],
)
def test_a_proof_is_wrong(text):
    assert proof(text, ROW).status == "wrong"


@pytest.mark.parametrize(
    "text", ["", "qed", "c", "mp b", "mp b;mt c qed", "mp b; mt c;qed", "xx b;qed", "mp i;qed", "mp b;sorry;qed"]
)
def test_a_text_is_no_proof(text):
    assert proof(text, ROW).status == "unparseable"


def test_the_reason_names_the_line():
    assert "line 2" in proof("mp b;mp c;qed", ROW).why


@pytest.mark.parametrize(
    ("text", "style"),
    [
        ("mp b;mt c;qed", "forward"),
        ("hs a>c;mp c;qed", "left"),
        ("hs a>c;hs a>d;mp d;qed", "left"),
        ("hs b>d;hs a>d;mp d;qed", "right"),
        ("cp ~b>~a;hs ~c>~a;mt c;qed", "contra"),
        ("mp b;hs b>d;mp d;qed", "mixed"),
        ("cp b>c;mp b;mp c;qed", "mixed"),
        ("hs a>c;hs c>e;hs a>e;mp e;qed", "mixed"),
    ],
)
def test_styles(text, style):
    assert style_of(text) == style


def test_all_short_proofs_of_a_theorem_by_hand():
    found = {"".join(map(str, lines)) for lines in proofs_of(["a", "a>b", "b>c"], "c", 2)}
    assert found == {"mp b;mp c;", "hs a>c;mp c;"}
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
