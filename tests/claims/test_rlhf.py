"""The verdicts on PPO-max, RTO and SALSA, on made-up records: they hold where they should, and each finding can fail."""

from __future__ import annotations

import dataclasses
import math

import pytest

import palaestra as pal
from palaestra.claims import ppo_max, r_to_q, rto, salsa
from palaestra.claims.reproduce import trials
from palaestra.core.task import as_task

from .test_verdicts import made_up, not_held

CLAIMS = {"ppo-max": ppo_max.claim, "rto": rto.claim, "salsa": salsa.claim}

RETURNS = {
    "ppo-max": {"start": 0.74, "ppo": 0.7, "ppo with kl": 0.71, "ppo-max": 0.83},
    "rto": {
        **{"ppo": 0.93, "ppo longer": 0.95, "ppo from dpo": 0.94},
        **{"rto 0.05": 0.97, "rto 0.2": 0.98, "tokens alone": 0.85, "at the end": 0.97},
    },
    "salsa": {
        **{f"same, {held}, {w:g}": 0.9 for held in ("held to A", "held to B", "salsa") for w in salsa.WEIGHTS},
        **{f"apart, {held}, 0.05": 0.98 for held in ("held to A", "held to B", "salsa")},
        "apart, held to A, 0.2": 0.86,
        "apart, held to B, 0.2": 0.93,
        "apart, salsa, 0.2": 0.95,
    },
}
MEASURES = {
    "ppo-max": {
        "ppo": {"proxy": 1.3, "length": 15.9, "kl": 4.0},
        "ppo with kl": {"proxy": 1.3, "length": 15.6, "kl": 3.1},
        "ppo-max": {"proxy": 1.0, "length": 8.0, "kl": 0.5},
    },
    "rto": {
        "dpo": {"tells": 0.95},
        **{
            arm: {"training": value}
            for arm, value in {
                "ppo": 0.87,
                "rto 0.05": 0.89,
                "rto 0.2": 0.9,
                "tokens alone": 0.8,
                "at the end": 0.88,
            }.items()
        },
    },
    "salsa": {
        "same, salsa, 0.2": {"barrier": 0.01},
        "apart, salsa, 0.2": {"score at 0": 0.77, "score at 0.5": 0.89, "score at 1": 0.77, "kl to the start": 1.2},
        "apart, held to A, 0.2": {"kl to the start": 0.2},
    },
}


def failed(name, returns=None, measures=None):
    told = {
        arm: {**MEASURES[name].get(arm, {}), **(measures or {}).get(arm, {})}
        for arm in CLAIMS[name].scale("small").arms
    }
    return not_held(CLAIMS[name], made_up(CLAIMS[name], RETURNS[name] | (returns or {}), told))


@pytest.mark.parametrize("name", CLAIMS)
def test_it_holds_where_the_paper_s_picture_shows(name):
    assert failed(name) == []


@pytest.mark.parametrize(
    ("name", "returns", "measures", "words"),
    [
        ("ppo-max", {}, {"ppo": {"proxy": 0.9}}, "reaches a higher reward"),
        ("ppo-max", {}, {"ppo": {"length": 13.0}}, "14 tokens or more"),
        ("ppo-max", {}, {"ppo": {"kl": 2.0}}, "5 times as far"),
        ("ppo-max", {"ppo": 0.75}, {}, "worse in the end"),
        ("ppo-max", {"ppo-max": 0.735}, {}, "PPO-max's answers are better in the end than those it began"),
        ("ppo-max", {"ppo with kl": 0.9}, {}, "the divergence alone"),
        ("rto", {}, {"dpo": {"tells": 0.85}}, "tell wrong digits"),
        ("rto", {}, {"rto 0.05": {"training": 0.86}}, "rto 0.05 has more"),
        ("rto", {"ppo longer": 0.975}, {}, "rto 0.05 ends above PPO that has as many answers scored"),
        ("rto", {"ppo from dpo": 0.975}, {}, "rto 0.05 ends above PPO that begins with DPO's policy"),
        ("rto", {}, {"tokens alone": {"training": 0.95}}, "alone are worth less"),
        ("rto", {}, {"at the end": {"training": 0.91}}, "their sum at the end"),
        ("salsa", {f"same, salsa, {w:g}": 0.88 for w in salsa.WEIGHTS}, {}, "at most 0.01 behind"),
        ("salsa", {}, {"same, salsa, 0.2": {"barrier": 0.03}}, "rises by at most"),
        ("salsa", {}, {"apart, salsa, 0.2": {"score at 0": 0.9}}, "the first start"),
        ("salsa", {}, {"apart, salsa, 0.2": {"score at 1": 0.9}}, "the second"),
        ("salsa", {"apart, held to A, 0.2": 0.96}, {}, "PPO held to A"),
        ("salsa", {"apart, held to B, 0.2": 0.96}, {}, "PPO held to B"),
        ("salsa", {}, {"apart, held to A, 0.2": {"kl to the start": 1.3}}, "further from its start"),
    ],
)
def test_each_finding_can_fail_by_itself(name, returns, measures, words):
    [sentence] = failed(name, returns, measures)
    assert words in sentence


def test_both_rewards_of_tokens_must_be_above_ppo():
    sentences = failed("rto", {}, {"ppo": {"training": 0.905}})
    assert [s.split(" has")[0] for s in sentences] == ["rto 0.05", "rto 0.2"]


def test_both_must_end_above_ppo():
    assert len(failed("rto", {"ppo": 0.99})) == 2


def test_the_longer_ppo_has_no_fewer_answers_scored_than_rto_and_dpo_together():
    arms = rto.claim.scale("small").arms

    def scored(label):
        arm = arms[label]
        return arm.updates // (rto.PASSES * rto.PARTS) * arm.method.prompts

    given = rto.DRAWN * len(as_task(arms["dpo"].task, **arms["dpo"].settings).rows("train"))
    assert 0 <= scored("ppo longer") - scored("rto 0.2") - given < rto.ASKED


@pytest.mark.parametrize("name", CLAIMS)
@pytest.mark.parametrize("scale", ["small", "paper"])
def test_what_is_compared_differs_in_nothing_but_what_is_compared(name, scale):
    arms = CLAIMS[name].scale(scale).arms
    told = {label: {**arm.method.config, "updates": arm.updates, "task": arm.task} for label, arm in arms.items()}
    compared = {
        "ppo-max": (["ppo", "ppo with kl", "ppo-max"], {*ppo_max.OFF}),
        "rto": (["ppo", "ppo from dpo", "rto 0.2", "at the end"] if scale == "small" else ["ppo", "rto"], {"dense"}),
        "salsa": (
            ["apart, held to A, 0.2", "apart, salsa, 0.2"] if scale == "small" else ["ppo, 0.2", "salsa, 0.2"],
            set(),
        ),
    }[name]
    first, *others = (told[label] for label in compared[0])
    for other in others:
        shared = set(first) & set(other)
        assert {key for key in shared if first[key] != other[key]} - compared[1] - {"reference", "model"} == set()


@pytest.mark.parametrize(
    ("name", "label"), [("ppo-max", "ppo-max"), ("rto", "rto 0.2"), ("rto", "dpo"), ("salsa", "apart, salsa, 0.2")]
)
def test_an_arm_runs_and_is_measured_at_a_tiny_size(name, label, monkeypatch):
    arms = CLAIMS[name].scale("small").arms
    monkeypatch.setattr(r_to_q, "ASKED", 20)
    monkeypatch.setattr(salsa, "LINED", 10)

    def trained(arm, folder):
        small = {"prompts": 4, "batch_size": 4, "critic_rounds": 0}
        tiny = {key: x for key, x in small.items() if key in arm.method.config} | {"model": "tiny-16x1"}
        policies = {
            key: str(trained(plain(arms[other]), f"{folder}-{key}").folder) for key, other in arm.others.items()
        }
        method = dataclasses.replace(arm.method, **tiny | policies)
        engine = pal.Engine(quiet=True, tensorboard=False, evaluate_episodes=3)
        return pal.Run(method, as_task(arm.task, **arm.settings), updates=2, folder=folder, engine=engine).train()

    found = CLAIMS[name].measure(trained(arms[label], "run"))
    assert set(MEASURES[name][label]) <= set(found) and all(map(math.isfinite, found.values()))


def plain(arm):
    """An arm as if nothing were given to it by others."""
    return dataclasses.replace(arm, begins_with=None, named={})


def test_an_arm_s_policy_can_be_one_of_a_soup_whatever_the_arm_is_called():
    """Which commas part."""
    assert all("," not in str(trial.folder) for trial in trials(salsa.claim, "small"))
