"""The verdicts on PRO and A-LoL, on made-up records: they hold where they should, and each finding can fail by itself."""

from __future__ import annotations

import dataclasses
import math

import pytest

import palaestra as pal
from palaestra.claims import a_lol, pro
from palaestra.claims.claim import Record, Records
from palaestra.core.task import as_task

from .test_verdicts import made_up, not_held

CLAIMS = {"pro": pro.claim, "a-lol": a_lol.claim}
PRO = {
    **{arm: 60.0 for arm in pro.small_arms()},
    "sft 2, 0.002": 70.0,
    "rrhf 2, 10, 0.0005": 75.0,
    "dpo 2, 0.5, 0.0005": 72.0,
    "pro 2, 0.05, 0.002": 80.0,
    "sft 4, 0.0005": 82.0,
    "pro 4, 0.2, 0.0005": 90.0,
    "pro 4, 0.0056, 0.001": 89.0,
    "pro 4, 0.05, 0.001": 88.0,
    "pro 4 with ties, 0.001": 85.0,
}
MIXED = {
    "nll": 0.66,
    "nll on the good half": 0.9,
    "wbc": 0.84,
    "gold": 0.97,
    "r-lol": 0.96,
    **{arm: 0.99 for arm in a_lol.FORMS},
    "dpo, 0.5, 0.001": 0.8,
}


def pro_failed(**returns):
    return not_held(pro.claim, made_up(pro.claim, PRO | returns))


def test_pro_holds_where_it_leads_all_others_and_longer_lists_help():
    assert pro_failed() == []


@pytest.mark.parametrize(
    ("returns", "words"),
    [
        ({"start": 81.0}, "higher than its start"),
        ({"sft 2, 0.0005": 79.99}, "best of them (sft 2, 0.0005) by more than 0.02"),
        ({"rrhf 2, 1, 0.002": 81.0}, "RRHF at its best (rrhf 2, 1, 0.002)"),
        ({"sft 4, 0.002": 91.0}, "with 4 answers PRO leads supervised learning on the best of them (sft 4, 0.002)"),
        ({"rrhf 4, 10, 0.0005": 91.0}, "with 4 answers PRO leads RRHF"),
        ({"dpo 2, 1, 0.002": 81.0}, "DPO at its best (dpo 2, 1, 0.002)"),
        ({"pro 2, 0.0056, 0.0005": 90.0}, "longer lists help"),
        ({"pro 4 with ties, 0.002": 89.0}, "without contrasts of ties"),
        ({"pro 4, 0.0056, 0.001": 79.0}, "where the likelihood weighs as much"),
    ],
)
def test_each_finding_of_pro_can_fail_by_itself(returns, words):
    [sentence] = pro_failed(**returns)
    assert words in sentence


def test_an_interval_is_that_of_differences_seed_by_seed():
    [finding, *_] = pro.small_verdict(made_up(pro.claim, PRO))
    gap = finding.numbers["difference"]
    assert (gap.value, gap.low, gap.high) == (20.0, 20.0, 20.0)  # both seeds differ alike, though they lie far apart


@pytest.mark.parametrize(("arm", "words"), [("start", "before"), ("sft", "best rated"), ("rrhf", "RRHF")])
def test_on_rated_sentences_each_of_three_can_be_ahead_of_pro(arm, words):
    shares = {"start": 0.1, "sft": 0.2, "rrhf": 0.2, "pro": 0.3}

    def lost(**changed):
        measures = {name: {"concepts": share} for name, share in {**shares, **changed}.items()}
        return not_held(pro.commongen, made_up(pro.commongen, {}, measures))

    [sentence] = lost(**{arm: 0.4})
    assert words in sentence and lost() == []


def curves(share=0.5, wide=(), falling=(), **returns):
    """Two seeds per arm, those of DPO and of `wide` arms far apart; `falling` arms end below an earlier evaluation."""
    records = Records()
    for arm in a_lol.small_arms():
        off = 0.06 if arm in wide else 0.05 if arm.startswith("dpo") else 0.001
        measures = {"learnt from": share} if arm in a_lol.FORMS else {}
        for seed, sign in enumerate((-1, 1)):
            end = {**MIXED, **returns}.get(arm, 0.5) + sign * off
            before = end + (0.03 if arm in falling and seed else 0.01)
            records.append(Record(arm, seed, ((1, before), (2, end)), measures))
    return records


def mixed_failed(**how):
    return not_held(a_lol.claim, curves(**how))


def test_a_lol_holds_in_the_order_of_the_paper():
    assert mixed_failed() == []


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"wbc": 0.65}, "wbc scores higher than nll"),
        ({"gold": 0.65}, "gold scores higher than nll"),
        ({"r-lol": 0.65}, "r-lol scores higher than nll"),
        *(
            ({arm: 0.965}, f"{arm} scores higher than what learns from all answers, of which gold")
            for arm in a_lol.FORMS
        ),
        ({"nll on the good half": 0.995}, "the good half alone"),
        ({"share": 0.8}, "at most 75% of the answers"),
        ({"falling": ("a-lol-seq",)}, "more than 0.02 below its best"),
        ({"wide": ("a-lol-kl",)}, "lie closer together than those of DPO at its best (dpo, 0.5, 0.001)"),
    ],
)
def test_each_finding_of_a_lol_can_fail_by_itself(how, words):
    [sentence] = mixed_failed(**how)
    assert words in sentence


@pytest.mark.parametrize("name", CLAIMS)
@pytest.mark.parametrize("scale", ["small", "paper"])
def test_all_methods_have_as_many_updates_and_prompts_as_the_paper_s(name, scale):
    arms = CLAIMS[name].scale(scale).arms
    first = next(arm for label, arm in arms.items() if label.startswith(name))
    for arm in arms.values():
        if arm.begins_with == first.begins_with:
            assert (arm.updates, arm.seeds) == (first.updates, first.seeds)
            assert arm.method.config.get("prompts", first.method.prompts) == first.method.prompts


def test_what_pro_is_compared_with_learns_from_the_same_answers():
    arms = pro.small_arms()
    for label, arm in arms.items():
        if label != "start":
            assert arm.method.drawn == int(label.split()[1].rstrip(","))
            assert arm.settings == pro.SETTINGS and arm.begins_with == "start"


@pytest.mark.parametrize("name", CLAIMS)
def test_the_paper_s_verdicts_name_arms_and_measures_that_there_are(name):
    scale = CLAIMS[name].scale("paper")
    measures = {"reward": 0.5, "learnt from": 0.6}
    records = Records(Record(arm, seed, ((1, 0.5),), measures) for arm in scale.arms for seed in (0, 1))
    assert all(finding.sentence for finding in scale.verdict(records))


def test_pro_learns_from_gaps_of_scores_as_the_reward_model_gives_them_and_not_of_shares():
    arm = a_lol.paper_arms()["pro"]
    assert arm.method.rescored and arm.method.reward_model == a_lol.REWARD_MODEL
    assert arm.settings == a_lol.paper_arms()["a-lol"].settings, "all are evaluated by the same scores"


@pytest.mark.parametrize(
    ("name", "label", "measured"),
    [
        ("pro", "pro 4, 0.05, 0.0005", set()),
        ("a-lol", "a-lol-seq", {"learnt from", "clipped"}),
        ("a-lol", "wbc", {"learnt from"}),
    ],
)
def test_an_arm_runs_and_is_measured_at_a_tiny_size(name, label, measured):
    arm = CLAIMS[name].scale("small").arms[label]
    method = dataclasses.replace(arm.method, model="tiny-16x1", prompts=4)
    engine = pal.Engine(quiet=True, tensorboard=False, evaluate_episodes=3)
    task = as_task(arm.task, **{**arm.settings, "train_rows": 40})
    run = pal.Run(method, task, updates=2, folder="run", engine=engine).train()
    found = CLAIMS[name].measure(run)
    assert set(found) == measured and all(map(math.isfinite, found.values()))
