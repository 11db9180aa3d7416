"""A claim is an experiment: it runs, resumes, is judged by its own findings, and leaves a file that says so."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palaestra.claims.claim import Record, Records, difference, estimate, mean, reproduce, run_arm
from palaestra.core import registry
from palaestra.core.errors import PalaestraError, UnknownName

TOY = f"{Path(__file__).with_name('toy.py')}:claim"


def test_a_claim_that_holds_is_reproduced_and_written_down(capsys):
    assert reproduce(TOY, workers=2)
    content = json.loads(Path("results/toy-small.json").read_text())
    assert content["holds"] is True
    assert content["command"].startswith("palaestra reproduce")
    assert {"commits", "machine", "torch", "seconds"} <= set(content)
    plain = content["arms"]["plain"]
    assert plain["seeds"] == [0, 1]
    assert plain["settings"]["rollout_steps"] == 16
    assert plain["measures"]["iterations"]["value"] == 2
    assert plain["return"]["value"] == pytest.approx(np.mean([run["return"] for run in plain["runs"]]))
    page = Path("results/toy-small.md").read_text()
    assert "the claim holds" in page
    assert "| held | the pole stands for a step |" in page
    assert "rollout_steps 16" in page
    assert "lam" not in page, "a default setting needs no mention"
    assert "held      the pole stands" in capsys.readouterr().out


def test_a_claim_that_does_not_hold_says_so_everywhere(capsys):
    assert not reproduce(TOY, scale="paper", workers=1, out="elsewhere")
    content = json.loads(Path("elsewhere/toy-paper.json").read_text())
    assert content["holds"] is False
    assert [finding["held"] for finding in content["findings"]] == [True, False]
    assert "**not held** | plain beats itself" in Path("elsewhere/toy-paper.md").read_text()
    assert "NOT HELD  plain beats itself" in capsys.readouterr().out


def test_finished_runs_are_not_trained_again(monkeypatch):
    first = run_arm(TOY, "small", "plain", 1)
    claim = registry.claim(TOY)
    monkeypatch.setattr(
        type(claim.scale("small").arms["plain"].method), "step", lambda self: pytest.fail("trained again")
    )
    assert run_arm(TOY, "small", "plain", 1) == first


def test_a_seed_is_measured_the_same_alone_or_among_others():
    assert run_arm(TOY, "small", "plain", 0).curve == run_arm(TOY, "paper", "plain", 0).curve
    assert run_arm(TOY, "small", "plain", 0).curve != run_arm(TOY, "small", "plain", 1).curve


def test_an_unknown_claim_or_scale_is_refused_by_name():
    with pytest.raises(UnknownName, match="did you mean 'sac'"):
        reproduce("sacc")
    with pytest.raises(UnknownName, match="did you mean 'small'"):
        reproduce(TOY, scale="smal")
    with pytest.raises(PalaestraError, match="workers must be at least 1"):
        reproduce(TOY, workers=0)


def make(arm: str, *finals: float) -> Records:
    return Records(Record(arm, seed, ((1, 0.0), (2, final)), {"twice": 2 * final}) for seed, final in enumerate(finals))


def test_records_are_selected_by_arm_in_the_order_of_seeds():
    records = Records([*make("a", 1.0, 2.0), *make("b", 5.0)])
    records.reverse()
    assert records.final("a").tolist() == [1.0, 2.0]
    assert records.area("a").tolist() == [0.5, 1.0]
    assert records.measure("b", "twice").tolist() == [10.0]
    with pytest.raises(UnknownName, match="unknown arm 'c'"):
        records.final("c")


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=6))
def test_an_estimate_lies_in_its_interval_and_the_interval_in_the_data(values):
    number = mean(np.array(values))
    slack = 1e-6
    assert min(values) - slack <= number.low <= number.value + slack
    assert number.value - slack <= number.high <= max(values) + slack


def test_arms_are_resampled_apart():
    same = np.array([0.0, 10.0])
    assert difference(same, same).value == 0
    assert difference(same, same).low < 0 < difference(same, same).high
    alone = estimate(lambda a: a.sum() - a.sum(), same)
    assert (alone.low, alone.high) == (0, 0)
