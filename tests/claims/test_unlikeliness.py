"""The verdicts on unlikeliness, on made-up records: they hold where they should, and each finding can fail by itself."""

from __future__ import annotations

import dataclasses
import json

import pytest

from palaestra.claims.unlikeliness import claim, proofs

from .test_verdicts import made_up, not_held

MEASURES = {
    f"discount {name}": {
        "raised, most likely": most,
        "raised, least likely": least,
        "pass@1": one,
        "pass@64": many,
        "coverage": share,
    }
    for name, most, least, one, many, share in (
        ("0", 0.9, 0.5, 0.7, 0.95, 0.3),
        ("0.25", 0.85, 0.55, 0.68, 0.97, 0.35),
        ("0.5", 0.8, 0.6, 0.6, 0.98, 0.4),
        ("1", 0.4, 0.9, 0.4, 1.0, 0.8),
    )
} | {"4 epochs": {"raised, least likely": 0.7}}

PROOFS = {
    "base": {"pass@1": 0.5, "pass@256": 0.9, "distinct_right": 20.0},
    "grpo": {"pass@1": 0.8, "pass@256": 0.85, "distinct_right": 10.0},
    "unlikeliness": {"pass@1": 0.75, "pass@256": 0.95, "distinct_right": 30.0},
}


def changed(measures, arm, **values):
    renamed = {name.replace("_at_", "@").replace("__", ", ").replace("_", " "): x for name, x in values.items()}
    return measures | {arm: measures[arm] | renamed}


def test_the_bandits_claim_holds_where_likely_answers_are_raised_and_a_discount_mends_it():
    assert not_held(claim, made_up(claim, {}, MEASURES)) == []


def test_at_paper_scale_all_go_through_the_statements_as_often():
    arms = claim.scale("paper").arms
    assert {arm.method.epochs for arm in arms.values()} == {1, 2}
    assert len({arm.updates / arm.method.epochs for arm in arms.values()}) == 1


@pytest.mark.parametrize(
    ("arm", "values", "words"),
    [
        ("discount 0.25", {"raised__most_likely": 0.96}, ["that difference shrinks"]),
        ("discount 0.5", {"pass_at_64": 0.96}, ["pass@64 rises"]),
        ("discount 1", {"coverage": 0.39}, ["coverage"]),
        ("discount 0.25", {"pass_at_1": 0.71}, ["pass@1 falls"]),
        ("discount 0.25", {"pass_at_1": 0.59}, ["pass@1 falls"]),
        ("4 epochs", {"raised__least_likely": 0.49}, ["four epochs"]),
    ],
)
def test_each_finding_of_the_bandits_can_fail(arm, values, words):
    failed = not_held(claim, made_up(claim, {}, changed(MEASURES, arm, **values)))
    assert len(failed) == len(words) and all(word in sentence for word, sentence in zip(words, failed))


def test_grpo_must_be_biased_towards_what_is_likely():
    measures = changed(MEASURES, "discount 0", raised__most_likely=0.69)
    failed = not_held(claim, made_up(claim, {}, measures))
    assert any("likeliest quarter" in sentence for sentence in failed)


def test_the_claim_of_proofs_holds_where_more_is_found_in_many_tries():
    assert not_held(proofs, made_up(proofs, {}, PROOFS)) == []


@pytest.mark.parametrize(
    ("arm", "name", "value", "words"),
    [
        ("grpo", "pass@1", 0.4, "grpo is above base"),
        ("unlikeliness", "pass@1", 0.4, "unlikeliness is above base"),
        ("unlikeliness", "pass@256", 0.84, "pass@256"),
        ("unlikeliness", "distinct_right", 9.0, "different right proofs"),
    ],
)
def test_each_finding_of_the_proofs_can_fail(arm, name, value, words):
    [sentence] = not_held(proofs, made_up(proofs, {}, PROOFS | {arm: PROOFS[arm] | {name: value}}))
    assert words in sentence


@pytest.mark.parametrize(("which", "measures"), [(claim, MEASURES), (proofs, PROOFS)])
def test_findings_can_be_written_down(which, measures):
    findings = which.scale("small").verdict(made_up(which, {}, measures))
    json.dumps([dataclasses.asdict(finding) for finding in findings])
