"""The proof world: styles by hand, their mixture, and theorems up to names."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from palaestra.core.errors import BadSetting
from palaestra.language.tasks.proofs import Proofs, Theorem, contra, forward, left, right, shape
from palaestra.language.verifiers.proofs import Formula, formula, is_proof, proofs_of, style_of
from tests.language.tasks.laws import holds

THEOREM = Theorem(tuple(map(formula, ["~c>~b", "a>b", "c>d", "a"])), (1, 2, 3, 4))
HARD = {"most": 4, "negated": 0.5, "turned": 0.3, "distractors": 2}
ONLY = {"forward": 0.0, "left": 0.0, "right": 0.0, "contra": 0.0}


def test_styles_by_hand():
    def text(style):
        return "".join(map(str, style(THEOREM)))

    assert text(forward) == "mp a>b;mt ~c>~b;mp c>d;"
    assert text(left) == "cp b>c;hs a>c;hs a>d;mp a>d;"
    assert text(right) == "cp b>c;hs b>d;hs a>d;mp a>d;"
    assert text(contra) == "cp ~d>~c;hs ~d>~b;cp ~b>~a;hs ~d>~a;mt ~d>~a;"


def test_a_row_by_hand():
    row = Proofs(**{**ONLY, "forward": 1.0}).row(THEOREM, random.Random(0))
    assert row["prompt"] + row["completion"] == "~c>~b,a>b,c>d,a|-d:mp a>b;mt ~c>~b;mp c>d;qed"
    ids = Proofs().tokeniser()(row["prompt"] + row["completion"]).input_ids
    assert len(ids) == 3 * 2 + 4 + 3 * 3 + 1  # an implication is one token


@pytest.mark.parametrize("style", [forward, left, right, contra])
def test_each_style_proves_every_theorem(style):
    task, rng = Proofs(least=1, most=6, atoms=8, negated=0.5, turned=0.5, distractors=4), random.Random(0)
    for _ in range(300):
        theorem = task.draw(rng)
        lines = style(theorem)
        assert is_proof(lines, theorem.premises, Formula(0, theorem.chain[-1]))
        if len(theorem.chain) > 4:
            named = style_of("".join(map(str, lines)))
            assert named == style.__name__ or named == "mixed"


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"least": 1, "most": 6, "atoms": 8, "distractors": 6},
        *({**ONLY, name: 1.0} for name in ONLY),
        {"turned": 1.0},
    ],
)
def test_it_keeps_the_contract_of_generated_tasks(settings):
    holds(Proofs(**settings))


def test_the_mixture_is_as_weighted():
    rows = Proofs(least=3, most=3, distractors=0).rows("train")[:2000]
    counts = Counter(style_of(row["completion"]) for row in rows)
    for style, share in [("forward", 0.8), ("left", 0.1), ("right", 0.07), ("contra", 0.03)]:
        assert counts[style] / 2000 == pytest.approx(share, abs=0.03)


def test_a_theorem_has_several_proofs():
    for row in Proofs().rows("train")[:10]:
        if row["steps"] <= 3:
            assert sum(1 for _ in proofs_of(row["premises"], row["goal"], row["steps"] + 1)) >= 2


def test_no_order_of_the_premises_of_a_held_out_theorem_is_trained_on():
    def theorems(split, **settings):
        return {(*sorted(row["premises"]), row["goal"]) for row in Proofs(**settings).rows(split)[:2000]}

    assert not theorems("train", atoms=4) & theorems("test", atoms=4)


def test_theorems_can_be_held_out_up_to_names():
    def shapes(split):
        task = Proofs(up_to_names=True, **HARD)
        rows = task.rows(split)[:200]
        chains = [(formula(row["premises"][-1]).then, formula(row["goal"]).then) for row in rows]
        return {shape(Theorem(tuple(map(formula, row["premises"])), chain)) for row, chain in zip(rows, chains)}

    assert not shapes("train") & shapes("test")
    holds(Proofs(up_to_names=True, **HARD))


def test_the_shape_of_a_theorem_does_not_depend_on_names_or_order():
    task, rng = Proofs(**HARD), random.Random(0)
    shapes = set()
    for _ in range(200):
        theorem = task.draw(rng)
        names = rng.sample(range(1, 7), 6)

        def renamed(x, names=names):
            return (names[abs(x) - 1] if x > 0 else -names[abs(x) - 1]) if x else 0

        moved = [Formula(renamed(x), renamed(y)) for x, y in theorem.premises]
        rng.shuffle(moved)
        assert shape(Theorem(tuple(moved), tuple(map(renamed, theorem.chain)))) == shape(theorem)
        shapes.add(shape(theorem))
    assert len(shapes) > 180


def test_the_shape_tells_signs_and_goals_apart():
    def of(premises, goal):
        return shape(Theorem(tuple(map(formula, premises)), (formula(goal).then,)))

    assert of(["a", "a>b"], "b") == of(["c>d", "c"], "d")
    assert len({of(["a", "a>b"], "b"), of(["~a", "~a>b"], "b"), of(["a", "a>~b"], "~b"), of(["a", "~b>~a"], "b")}) == 4
    assert of(["a", "a>b", "b>c"], "b") != of(["a", "a>b", "b>c"], "c")


def test_settings_that_cannot_be_are_refused():
    for settings in (
        {"least": 0},
        {"most": 6},
        {"atoms": 9},
        {"atoms": 2},
        {"least": 3, "most": 2},
        {"turned": 2.0},
        {"negated": -0.1},
        {"distractors": -1},
        ONLY,
        {"left": -1.0},
    ):
        with pytest.raises(BadSetting):
            Proofs(**settings)
