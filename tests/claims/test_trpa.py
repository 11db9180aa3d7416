"""The verdicts on TRPA, on made-up records: they hold where they should, and each finding can fail by itself."""

from __future__ import annotations

import dataclasses
import json

import pytest

from palaestra.claims.claim import Records
from palaestra.claims.trpa import UPDATES, claim, puzzles
from palaestra.language.policy import LanguagePolicy
from palaestra.language.tasks.knights import Knights
from palaestra.methods.language.trpa import TRPA
from palaestra.runs.engine import Engine
from palaestra.runs.run import Run

from .test_verdicts import made_up, not_held

MEASURES = {
    f"{name}, {label}": {"level 1": one, "ratio of level 1": raised, "ratio of others": rest}
    for label in UPDATES
    for name, one, raised, rest in (("trpa", 0.5, 0.3, -2.0), ("grpo", 0.4, -0.7, -2.5), ("odpo", 0.3, -0.8, -2.0))
}
PUZZLES = {
    "base": {"level 1": 0.4, "level 4": 0.3},
    "trpa": {"level 1": 0.6, "level 4": 0.1, "policy, kl": 0.05},
    "grpo": {"level 1": 0.6, "level 4": 0.1},
    "odpo": {"level 1": 0.3, "level 4": 0.4},
}


def test_the_bandits_claim_holds_where_trpa_is_above_grpo_and_grpo_above_online_dpo():
    assert not_held(claim, made_up(claim, {}, MEASURES)) == []


@pytest.mark.parametrize("label", UPDATES)
@pytest.mark.parametrize(
    ("name", "measure", "value", "count", "words"),
    [
        ("trpa", "level 1", 0.39, 1, "TRPA makes level 1 likelier"),
        ("odpo", "level 1", 0.41, 1, "online DPO"),
        ("grpo", "ratio of level 1", 0.4, 2, "GRPO"),
        ("odpo", "ratio of level 1", 0.31, 2, "online DPO"),
        ("odpo", "ratio of others", -4.0, 1, "further apart"),
        ("grpo", "ratio of others", -3.1, 1, "further apart"),
    ],
)
def test_each_finding_of_the_bandits_can_fail(label, name, measure, value, count, words):
    arm = f"{name}, {label}"
    failed = not_held(claim, made_up(claim, {}, MEASURES | {arm: MEASURES[arm] | {measure: value}}))
    assert 1 <= len(failed) <= count
    assert all(sentence.startswith(label) and words in sentence for sentence in failed)


def test_the_claim_of_puzzles_holds_where_both_learn():
    assert not_held(puzzles, made_up(puzzles, {}, PUZZLES)) == []


@pytest.mark.parametrize(
    ("arm", "measure", "value", "words"),
    [
        ("trpa", "level 1", 0.5, "TRPA solves 0.1 more"),
        ("grpo", "level 1", 0.49, "GRPO solves 0.1 more"),
        ("grpo", "level 1", 0.64, "less than GRPO"),
        ("trpa", "level 4", 0.31, "bad tags"),
        ("trpa", "policy, kl", 1.0, "divergence"),
    ],
)
def test_each_finding_of_the_puzzles_can_fail(arm, measure, value, words):
    failed = not_held(puzzles, made_up(puzzles, {}, PUZZLES | {arm: PUZZLES[arm] | {measure: value}}))
    assert words in " ".join(failed)


def test_a_divergence_that_blows_up_on_one_seed_is_enough():
    records = made_up(puzzles, {}, PUZZLES)
    changed = [
        dataclasses.replace(r, measures={**r.measures, "policy, kl": 3.6}) if r.arm == "trpa" and r.seed else r
        for r in records
    ]
    [sentence] = not_held(puzzles, Records(changed))
    assert "on every seed" in sentence


@pytest.mark.parametrize(("which", "measures"), [(claim, MEASURES), (puzzles, PUZZLES)])
def test_findings_can_be_written_down(which, measures):
    findings = which.scale("small").verdict(made_up(which, {}, measures))
    json.dumps([dataclasses.asdict(finding) for finding in findings])


@pytest.mark.parametrize("settings", [{"people": 3, "noise": 0.35}, {"limit": 4}])
def test_the_run_s_own_puzzles_are_asked_with_its_own_limit(settings, monkeypatch):
    asked, answer = [], LanguagePolicy.answer

    def seen(self, rows, **how):
        asked.append((rows, how))
        return answer(self, rows, **how)

    monkeypatch.setattr(LanguagePolicy, "answer", seen)
    task = Knights(think=False, test_rows=6, **settings)
    engine = Engine(quiet=True, tensorboard=False, evaluate_episodes=1)
    run = Run(TRPA(model="tiny-16x1", prompts=1, group=2), task, updates=1, folder="run", engine=engine).train()
    found = puzzles.measure(run)
    rows, how = asked[-1]
    assert (list(rows), how["max_tokens"], how["greedy"]) == (list(task.rows("test")), task.max_tokens, False)
    assert sum(found[f"level {k}"] for k in (1, 2, 3, 4)) == pytest.approx(1)
