"""The verdict on DNO, on made-up records: it holds where it should, and each finding can fail by itself."""

from __future__ import annotations

import pytest

from palaestra.claims import dno
from palaestra.claims.claim import Record, Records
from palaestra.methods.preference.dno import DNO
from palaestra.methods.preference.iterated_dpo import IteratedDPO

from .test_verdicts import not_held

BEST = {"dno 1": 0.95, "restrictive 0.3": 0.90, "spin 0.1": 0.91, "offline dpo 0.3": 0.8, "iterated dpo 0.1": 0.85}
ROUNDS = {"start": (0.57,), "dno 1": (0.75, 0.92, 0.94), "dno, constant rate": (0.75, 0.92, 0.88)}
WON = (60.0, 300.0, 700.0)


def failed(best=None, rounds=None, won=WON):
    records = Records()
    for arm in dno.small_arms():
        for seed, offset in enumerate((-0.01, 0.01)):
            scores = (ROUNDS | (rounds or {})).get(arm, (0.6, 0.6, 0.6))
            measures = {}
            if arm not in ("start", "teacher"):
                measures = {"best round": (BEST | (best or {})).get(arm, 0.7) + offset}
                measures |= {f"won from the teacher in round {i}": x for i, x in enumerate(won, 1)}
            curve = tuple((150 * (i + 1), score + offset) for i, score in enumerate(scores))
            records.append(Record(arm, seed, curve, measures))
    return not_held(dno.claim, records)


def test_it_holds_where_a_policy_that_may_beat_its_teacher_goes_furthest():
    assert failed() == []


FAILS = {
    "the best round of dno 1 scores higher than that of restrictive 0.3": {"best": {"dno 1": 0.89}},
    "the best round of restrictive 0.3 scores higher than that of offline dpo 0.3": {"best": {"restrictive 0.3": 0.79}},
    "the best round of spin 0.1 scores higher than that of offline dpo 0.3": {"best": {"spin 0.1": 0.79}},
    "DNO's first two rounds each score higher than what they began with": {"rounds": {"dno 1": (0.75, 0.74, 0.94)}},
    "at a constant learning rate the third round scores lower than the second": {
        "rounds": {"dno, constant rate": (0.75, 0.92, 0.93)}
    },
    "from round to round the policy's answers win more pairs from the teacher's": {"won": (60.0, 300.0, 200.0)},
}


@pytest.mark.parametrize("sentence", FAILS)
def test_each_finding_can_fail_by_itself(sentence):
    assert failed(**FAILS[sentence]) == [sentence]


def test_every_method_counts_at_the_best_of_its_weights():
    assert len(failed({"offline dpo 1": 0.93})) == 2
    assert failed({"offline dpo 1": 0.93, "restrictive 3": 0.94, "spin 0.3": 0.94}) == []


def test_dpo_in_rounds_decides_nothing():
    assert failed({"iterated dpo 1": 0.99}) == []


def test_the_first_round_must_gain_too():
    [sentence] = failed(rounds={"dno 1": (0.5, 0.92, 0.94)})
    assert "first two rounds" in sentence


def test_arms_differ_in_what_is_compared_alone():
    arms = dno.small_arms()
    rounds = [a for label, a in arms.items() if label not in ("start", "teacher")]
    assert len({a.updates for a in rounds}) == 1
    for arm in rounds:
        method = arm.method
        method.check()
        assert method.prompts * arm.updates == 1800 * method.epochs * method.minibatches  # prompts in a whole run
        assert isinstance(method, DNO | IteratedDPO) and (method.margin, method.bar) == (0.4, 0.6)


def test_the_paper_s_arms_are_ones_that_can_be_built():
    for arm in dno.paper_arms().values():
        arm.method.check()
        assert not isinstance(arm.method, DNO) or arm.method.teacher == "column:completion"
