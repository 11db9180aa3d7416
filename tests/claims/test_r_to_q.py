"""The verdict on From r to Q*, on made-up records, and its measures on tiny models."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

import palaestra as pal
from palaestra.claims import r_to_q
from palaestra.core.task import as_task
from palaestra.language.policy import LanguagePolicy

from .test_verdicts import made_up, not_held

CLAIM = r_to_q.claim
DPO, DEMO, SCRATCH = "dpo", "demonstrations", "demonstrations, from scratch"
LITTLE = "dpo, little weight"
RETURNS = {"start": 0.56, DPO: 0.87, LITTLE: 0.71}
BEAMS = {
    f"{of}beam {w}": value
    for w, logp in zip(r_to_q.WIDTHS, (-1.2, -1.1, -1.0), strict=True)
    for of, value in (("", 0.93), ("log p of ", logp))
}
ENDS = {"tells": 0.97, "reference tells": 0.001, "policy tells": 0.9, "kl from the reference": 6.0}
LOW = {"chosen": -3.3, "rejected": -9.3, "margin": 6.0, **ENDS}
HIGH = {"chosen": -9.0, "rejected": -25.0, "margin": 16.0, **ENDS, "kl from the reference": 15.0}
MEASURES = {
    "start": dict.fromkeys(r_to_q.STATED, 1e-14),
    DPO: LOW | BEAMS,
    LITTLE: HIGH,
    DEMO: {"chosen": -2.0},
    SCRATCH: {"chosen": 0.5},
}


def failed(returns=None, measures=None):
    told = {arm: {**MEASURES[arm], **(measures or {}).get(arm, {})} for arm in MEASURES}
    return not_held(CLAIM, made_up(CLAIM, RETURNS | (returns or {}), told))


def test_it_holds_where_the_paper_s_picture_shows():
    assert failed() == []


@pytest.mark.parametrize(
    ("returns", "measures", "words"),
    [
        ({}, {DPO: {"tells": 0.89}}, "log-ratios tell wrong digits"),
        ({}, {DPO: {"reference tells": 0.2}}, "the credit is not fluency"),
        ({}, {DPO: {"chosen": 0.1}}, "chosen and rejected ones alike"),
        ({}, {DPO: {"rejected": -3.0}}, "chosen ones less so"),
        ({}, {SCRATCH: {"chosen": -2.4}}, "fall less from scratch"),
        ({"start": 0.9}, {}, "better than its start's"),
        ({}, {LITTLE: {"tells": 0.8}}, "with little weight the margin is larger"),
        ({}, {LITTLE: {"margin": 5.0}}, "with little weight the margin is larger"),
        ({LITTLE: 0.88}, {}, "but sampled answers are worse"),
        ({}, {LITTLE: {"kl from the reference": 5.0}}, "of which the divergence"),
        ({}, {LITTLE: {"chosen": -3.0}}, "of which the divergence"),
        ({}, {DPO: {"log p of beam 2": -1.3}}, "ever likelier"),
        *(({}, {"start": {name: 1e-3}}, sentence) for name, sentence in r_to_q.STATED.items()),
    ],
)
def test_each_finding_can_fail_by_itself(returns, measures, words):
    [sentence] = failed(returns, measures)
    assert words in sentence


def test_what_a_beam_is_worth_decides_nothing():
    assert failed({}, {DPO: {"beam 5": 0.1}}) == []


@pytest.mark.parametrize("seed", range(3))
def test_what_the_paper_states_of_trees_holds_exactly(seed):
    found = r_to_q.exact(seed)
    assert set(found) == set(r_to_q.STATED) and max(found.values()) < 1e-10


@pytest.mark.parametrize(
    ("broken", "noticed"),
    [
        ("implicit_reward", {"credit", "answers"}),
        ("shaped", {"credit", "shaping"}),
        ("reward_of", {"bijection"}),
        ("beam", {"search"}),
        ("dpo", {"dpo"}),
    ],
)
def test_a_wrong_formula_is_noticed(broken, noticed, monkeypatch):
    right = getattr(r_to_q, broken)

    def wrong(*given, **settings):
        found = right(*given, **settings)
        if broken == "beam":
            return found._replace(prefix=found.prefix + 1)
        if broken == "dpo":
            return 1.01 * found + 0.01 * given[0].logp
        return [1.01 * x for x in found] if isinstance(found, list) else 1.01 * found

    monkeypatch.setattr(r_to_q, broken, wrong)
    assert {name for name, error in r_to_q.exact(0).items() if error > r_to_q.EXACT} == noticed


def test_a_policy_that_dislikes_wrong_digits_tells_them_and_one_that_is_its_reference_does_not():
    task = as_task("noisy-sort", biased=True)
    torch.manual_seed(0)
    policy = LanguagePolicy.make("tiny-16x1", task)
    found = r_to_q.told(policy, policy, task, 0)
    assert found["tells"] == 0.5 and found["kl from the reference"] == 0
    torch.manual_seed(1)
    other = LanguagePolicy.make("tiny-16x1", task)
    found = r_to_q.told(other, policy, task, 0)
    assert found["kl from the reference"] > 0 and 0 <= found["tells"] <= 1


def test_arms_differ_in_nothing_but_what_is_compared():
    arms = CLAIM.scale("small").arms
    for first, second, differ in ((DPO, LITTLE, {"beta"}), (DPO, DEMO, {"drawn"}), (DEMO, SCRATCH, set())):
        one, other = arms[first].method.config, arms[second].method.config
        assert {name for name in one if one[name] != other[name]} == differ
        assert (arms[first].updates, arms[first].settings) == (arms[second].updates, arms[second].settings)
    assert arms[DEMO].begins_with == "start" and arms[SCRATCH].begins_with is None
    paper = CLAIM.scale("paper").arms
    assert paper["dpo"].method.config == paper["dpo without a start"].method.config


@pytest.mark.parametrize("label", ["start", DPO, SCRATCH])
def test_an_arm_runs_and_is_measured_at_a_tiny_size(label, monkeypatch):
    monkeypatch.setattr(r_to_q, "ASKED", 20)
    arm = CLAIM.scale("small").arms[label]
    tiny = {key: 8 for key in ("prompts", "batch_size") if key in arm.method.config} | {"model": "tiny-16x1"}
    engine = pal.Engine(quiet=True, tensorboard=False, evaluate_episodes=3)
    method = dataclasses.replace(arm.method, **tiny)
    run = pal.Run(method, as_task(arm.task, **arm.settings), updates=2, folder="run", engine=engine).train()
    found = CLAIM.measure(run)
    assert set(MEASURES[label]) <= set(found) and all(map(math.isfinite, found.values()))
