"""The verdicts on CoPG and INPO, on made-up records: they hold where they should, and each finding can fail by itself."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from palaestra.claims import copg, inpo, simpo
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


def copg_failed(changed):
    return not_held(copg.claim, made_up(copg.claim, COPG | changed))


def test_copg_holds_where_each_method_s_best_weight_is_in_the_paper_s_order():
    assert copg_failed({}) == []


COPG_FAILS = {
    "better than its start": {"start": 100.0},
    "at least as high as IPO at its best (ipo 0.3)": {"ipo 0.3": 90.0},
    "at least as high as DPO at its best (dpo 0.1)": {"dpo 0.1": 52.0},
    "small weights are unstable": {"copg 0.03": 55.0},
}


@pytest.mark.parametrize("words", COPG_FAILS)
def test_each_finding_of_copg_can_fail_by_itself(words):
    [sentence] = copg_failed(COPG_FAILS[words])
    assert words in sentence


def test_at_the_paper_s_scale_both_answers_of_the_data_s_pairs_are_scored_and_none_drawn():
    methods = [arm.method for label, arm in copg.paper_arms().items() if label != "start"]
    assert all(method.rescored and not method.drawn for method in methods)


SIMPO = {arm: 50.0 for arm in simpo.small_arms()} | {"start": 10.0, "rrhf 0": 30.0, "simpo 8": 60.0, "tdpo1 1": 55.0}


def simpo_failed(changed):
    return not_held(simpo.claim, made_up(simpo.claim, SIMPO | changed))


def test_simpo_holds_where_it_leads_and_pairs_teach_more_than_the_better_answers_alone():
    assert simpo_failed({}) == []


SIMPO_FAILS = {
    "whichever else is best, at its best (tdpo1 1)": {"tdpo1 1": 70.0},
    "better than its start": {arm: 5.0 for arm in SIMPO if arm.startswith("slic ")},
    "than imitation of the better answers": {"rrhf 0": 90.0},
}


@pytest.mark.parametrize("words", SIMPO_FAILS)
def test_each_finding_of_simpo_can_fail_by_itself(words):
    [sentence] = simpo_failed(SIMPO_FAILS[words])
    assert words in sentence


def test_where_dpo_leads_simpo_lags_behind_it_and_behind_the_best():
    assert len(simpo_failed({"dpo 1": 70.0})) == 2


@pytest.mark.parametrize("arms", [simpo.small_arms, simpo.paper_arms])
def test_every_arm_of_a_loss_is_that_loss(arms):
    for label, arm in arms().items():
        assert label == "start" or label.split()[0] == arm.method.name


NASH_OF_STYLES = {"style A": 0.59242, "style B": 0.1734, "style C": 0.23418}


def inpo_failed(changed):
    apart = {"style A": 0.2, "style B": 0.2, "style C": 0.6}
    measures = {arm: {"from Nash": 0.3, "worst win rate": 0.3, "content": 0.9} | apart for arm in inpo.small_arms()}
    measures["inpo"] = {"from Nash": 0.05, "worst win rate": 0.45, "content": 0.9} | NASH_OF_STYLES
    measures["start"]["content"] = 0.7
    for arm, values in changed.items():
        measures[arm] |= values
    return not_held(inpo.claim, made_up(inpo.claim, {}, measures))


def test_inpo_holds_where_it_alone_ends_near_the_nash_policy():
    assert inpo_failed({}) == []


INPO_FAILS = {
    "within 0.08 of those of the Nash policy of the whole game": {"inpo": {"from Nash": 0.1}},
    "within 0.08 of those of the Nash policy of the styles alone": {"inpo": {"style A": 0.4}},
    "nearer to those of the whole game than DPO in rounds and SPPO, of which sppo comes nearest": {
        "sppo": {"from Nash": 0.01}
    },
    "nearer to those of the styles alone than DPO in rounds and SPPO, of which sppo comes nearest": {
        "sppo": NASH_OF_STYLES,
        "inpo": {"style A": 0.55},
    },
    "of which sppo is the safest": {"sppo": {"worst win rate": 0.5}},
    "without its reference": {"inpo without reference": {"from Nash": 0.01}},
    "the content becomes better": {"inpo": {"content": 0.6}},
}


@pytest.mark.parametrize("words", INPO_FAILS)
def test_each_finding_of_inpo_can_fail_by_itself(words):
    [sentence] = inpo_failed(INPO_FAILS[words])
    assert words in sentence


def test_the_nash_policy_of_the_styles_alone_is_where_the_closed_form_of_its_steps_ends():
    assert inpo.from_nash_of_styles(made_up(inpo.claim, {}, {"inpo": NASH_OF_STYLES}), "inpo") == pytest.approx(
        0, abs=1e-5
    )


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
