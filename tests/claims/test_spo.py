"""SPO's verdict on made-up records, and what it measures of a finished run."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from palaestra.claims import spo
from palaestra.claims.claim import Records
from palaestra.core.task import as_task
from palaestra.methods.preference.reward_agent import RewardAgent
from palaestra.methods.preference.spo import SPO
from palaestra.runs.engine import Engine
from palaestra.runs.run import Run

from .test_verdicts import made_up, not_held

MEASURES = {
    "spo ring": {"entropy": 1.8},
    "reward-agent ring": {"sectors": 2.5},
    "spo noisy": {"return": -6.0},
    "reward-agent noisy": {"return": -6.5},
    "spo non-markovian": {"obeys": 0.9},
    "reward-agent non-markovian": {"obeys": 0.5},
}


def test_it_holds_where_self_play_keeps_the_ring_and_is_not_behind():
    assert not_held(spo.claim, made_up(spo.claim, {}, MEASURES)) == []


@pytest.mark.parametrize(
    ("changed", "finding"),
    [
        ({"spo ring": {"entropy": 1.6}}, "the ends of self-play have more than 80%"),
        ({"reward-agent ring": {"sectors": 3.1}}, "on 3 sectors at most"),
        ({"spo noisy": {"return": -6.6}}, "a fifth of the answers wrong"),
        ({"spo non-markovian": {"obeys": 0.5}}, "keep to the rule of the last quarter"),
    ],
)
def test_each_finding_can_fail_by_itself(changed, finding):
    (failed,) = not_held(spo.claim, made_up(spo.claim, {}, {**MEASURES, **changed}))
    assert finding in failed


def test_the_papers_scale_asks_of_each_robot_and_judge():
    scale = spo.claim.scale("paper")
    records = Records()
    for record in made_up(spo.claim, {}, MEASURES)[:1]:
        for arm in scale.arms:
            value = 10.0 if arm.startswith("spo") else 5.0
            found = {"obeys": value / 10}
            records.append(replace(record, arm=arm, curve=((1, value),), measures=found))
    assert all(finding.held for finding in scale.verdict(records)) and len(scale.verdict(records)) == 9


def test_entropy_is_that_of_the_share_in_each_sector():
    assert spo.entropy_of(torch.full((8,), 1 / 8)) == pytest.approx(math.log(8))
    assert spo.entropy_of(torch.tensor([0.5, 0.5, 0.0])) == pytest.approx(math.log(2))


def measured(method: object, **task: object) -> dict[str, float]:
    engine = Engine(quiet=True, tensorboard=False, evaluate_episodes=1)
    run = Run(method, as_task("judged", **task), steps=400, folder="run", engine=engine).train()  # type: ignore[arg-type]
    return spo.measure(run)


def test_on_the_ring_the_last_third_of_past_policies_is_judged_together():
    small = {"network": (8,), "num_envs": 4, "rollout_steps": 20, "epochs": 1}
    found = measured(SPO(**small, queue=3, iterates=5), **spo.JUDGES["ring"])
    assert 1 <= found["sectors"] <= 8 and found["sectors"] == pytest.approx(math.exp(found["entropy"]))
    assert 0 <= found["beaten by"] <= 1 and found["judge calls"] > 0


def test_elsewhere_what_it_earns_and_whether_it_keeps_the_rule():
    small = {"network": (8,), "num_envs": 4, "rollout_steps": 20, "epochs": 1}
    found = measured(RewardAgent(**small), **spo.JUDGES["non-markovian"])
    assert found["return"] < found["early return"] < 0 <= found["obeys"] <= 1
