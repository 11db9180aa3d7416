"""The verdicts on CoPG and INPO, on made-up records: they hold where they should, and each finding can fail by itself."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from palaestra.claims import copg, inpo
from palaestra.language.tasks.cyclic_style import CyclicStyle
from palaestra.objectives.games import regularised_nash

from .test_verdicts import made_up, not_held

COPG = {
    "start": 10.0,
    **{arm: 20.0 for arm in copg.small_arms() if arm != "start"},
    "copg 0.06": 60.0,
    "copg 0.1": 55.0,
    "ipo 0.1": 50.0,
    "dpo 0.3 slow": 40.0,
}


def copg_failed(**returns):
    changed = {
        name.replace("_", " ").replace("p1", "0.1").replace("p03", "0.03").replace("p3", "0.3"): x
        for name, x in returns.items()
    }
    return not_held(copg.claim, made_up(copg.claim, COPG | changed))


def test_copg_holds_where_each_method_s_best_weight_is_in_the_paper_s_order():
    assert copg_failed() == []


def test_copg_must_answer_better_than_its_start():
    (sentence,) = copg_failed(start=100.0)
    assert "better than its start" in sentence


def test_copg_must_not_fall_behind_the_best_ipo():
    (sentence,) = copg_failed(ipo_p3=90.0)
    assert "at least as high as IPO at its best (ipo 0.3)" in sentence


def test_ipo_must_not_fall_behind_the_best_dpo_at_either_rate():
    (sentence,) = copg_failed(dpo_p1=52.0)
    assert "at least as high as DPO at its best (dpo 0.1)" in sentence


def test_copg_must_be_worse_at_the_smallest_weight():
    (sentence,) = copg_failed(copg_p03=55.0)
    assert "small weights are unstable" in sentence


NASH_OF_STYLES = {"style A": 0.59242, "style B": 0.1734, "style C": 0.23418}


def inpo_failed(**changed):
    apart = {"style A": 0.2, "style B": 0.2, "style C": 0.6}
    measures = {arm: {"from Nash": 0.3, "worst win rate": 0.3, "content": 0.9} | apart for arm in inpo.small_arms()}
    measures["inpo"] = {"from Nash": 0.05, "worst win rate": 0.45, "content": 0.9} | NASH_OF_STYLES
    measures["start"]["content"] = 0.7
    for name, value in changed.items():
        arm, _, measure = name.partition("__")
        measures[arm.replace("_", " ")][measure.replace("_", " ")] = value
    return not_held(inpo.claim, made_up(inpo.claim, {}, measures))


def test_inpo_holds_where_it_alone_ends_near_the_nash_policy():
    assert inpo_failed() == []


def test_inpo_must_end_near_the_nash_policy_of_the_whole_game():
    (sentence,) = inpo_failed(inpo__from_Nash=0.1)
    assert "within 0.08 of those of the Nash policy of the whole game" in sentence


def test_inpo_must_end_near_the_nash_policy_of_the_styles_alone():
    (sentence,) = inpo_failed(inpo__style_A=0.4)
    assert "within 0.08 of those of the Nash policy of the styles alone" in sentence


def test_no_other_method_may_end_nearer_to_that_of_the_whole_game():
    (sentence,) = inpo_failed(sppo__from_Nash=0.01)
    assert "the whole game than" in sentence and "of which sppo comes nearest" in sentence


def test_no_other_method_may_end_nearer_to_that_of_the_styles_alone():
    near = {f"sppo__{style.replace(' ', '_')}": share for style, share in NASH_OF_STYLES.items()}
    (sentence,) = inpo_failed(**near, inpo__style_A=0.55)
    assert "the styles alone than" in sentence and "of which sppo comes nearest" in sentence


def test_the_nash_policy_of_the_styles_alone_is_where_the_closed_form_of_its_steps_ends():
    assert inpo.from_nash_of_styles(made_up(inpo.claim, {}, {"inpo": NASH_OF_STYLES}), "inpo") == pytest.approx(
        0, abs=1e-5
    )


def test_no_other_method_may_be_safer():
    (sentence,) = inpo_failed(sppo__worst_win_rate=0.5)
    assert "of which sppo is the safest" in sentence


def test_without_its_reference_inpo_must_end_further_away():
    (sentence,) = inpo_failed(inpo_without_reference__from_Nash=0.01)
    assert "without its reference" in sentence


def test_the_content_must_become_better():
    (sentence,) = inpo_failed(inpo__content=0.6)
    assert "content" in sentence


def said(counts):
    """Answers to `fk` by how often each was given."""
    row = {"answer": "fkkf"}
    return [SimpleNamespace(text=text, row=row) for text, count in counts.items() for _ in range(count)]


def test_the_nash_policy_of_answers_alike_in_content_is_that_of_the_styles():
    task = CyclicStyle()
    found = inpo.nash_styles(task, said({"Afkkf": 60, "Bfkkf": 30, "Cfkkf": 10, "fkkf": 7}))
    alone = regularised_nash(task.table().double(), torch.tensor([0.6, 0.3, 0.1]).double(), inpo.TAU)
    torch.testing.assert_close(found, alone)


def test_content_moves_the_nash_policy_since_it_pays_within_a_style_alone():
    task = CyclicStyle()
    found = inpo.nash_styles(task, said({"Afkkf": 60, "Bfkkf": 15, "Bfkaa": 15, "Cfkkf": 10}))
    alone = inpo.nash_styles(task, said({"Afkkf": 60, "Bfkkf": 30, "Cfkkf": 10}))
    assert float((found - alone).abs().max()) > 1e-3
    assert float(found.sum()) == pytest.approx(1.0)
