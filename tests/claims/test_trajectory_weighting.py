"""Trajectory weighting: its verdict on made-up records, and what it measures."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import pytest

from palaestra.claims import trajectory_weighting
from palaestra.claims.claim import Records
from palaestra.claims.trajectory_weighting import MARGINS, MIXED, PURE, label
from palaestra.data.sampling import effective_size, expected_return, positive_sided_variance, read_sampler, weights
from palaestra.data.task import DatasetTask
from palaestra.methods.offline.bc import BC
from palaestra.runs.engine import Engine
from palaestra.runs.run import Run

from ..datasets import random_dataset
from .test_verdicts import made_up, not_held

RETURNS = {"uniform": -1150.0, "aw": -200.0, "rw": -210.0, "top": -200.0}


def compared(returns: Mapping[tuple[str, str], float], scores: Mapping[tuple[str, str], float]) -> Records:
    """Weighting gains where the data are mixed and costs little where they are not, except as given by host and sampler."""
    ends, found = {}, {}
    for host in MARGINS:
        for kind, usual in RETURNS.items():
            ends[label(host, kind, MIXED)] = returns.get((host, kind), usual)
            score = 30.0 if kind == "uniform" else 20.5
            found[label(host, kind, PURE)] = {"score": scores.get((host, kind), score)}
    return made_up(trajectory_weighting.claim, ends, found)


def test_it_holds_where_weighting_gains_on_mixed_data_and_costs_little_elsewhere():
    assert not_held(trajectory_weighting.claim, compared({}, {})) == []


@pytest.mark.parametrize("kind", ["aw", "rw"])
@pytest.mark.parametrize("host", MARGINS)
def test_each_weighting_must_gain_on_each_host(host, kind):
    short = RETURNS["uniform"] + MARGINS[host]
    [sentence] = not_held(trajectory_weighting.claim, compared({(host, kind): short}, {}))
    assert sentence == f"{MIXED}: {host} with {kind} ends more than {MARGINS[host]:g} above uniform on every seed"


def test_one_seed_without_a_gain_is_too_many():
    records = Records(
        dataclasses.replace(record, curve=((2, -1500.0 if record.seed else 500.0),))
        if record.arm == label("td3-bc", "aw", MIXED)
        else record
        for record in compared({}, {})
    )
    [sentence] = not_held(trajectory_weighting.claim, records)
    assert sentence.startswith(f"{MIXED}: td3-bc with aw")


@pytest.mark.parametrize("kind", ["aw", "rw"])
@pytest.mark.parametrize("host", MARGINS)
def test_neither_weighting_may_cost_much_on_data_of_one_policy(host, kind):
    [sentence] = not_held(trajectory_weighting.claim, compared({}, {(host, kind): 20.0}))
    assert sentence == f"{PURE}: {kind} costs {host} less than 10 points on average"


def test_arms_of_a_host_differ_in_the_sampler_alone():
    for scale in trajectory_weighting.claim.scales.values():
        for name, arm in scale.arms.items():
            host, kind, _ = name.split(" ")
            uniform = scale.arms[name.replace(f" {kind} ", " uniform ")]
            sampler = f"{kind}:0.2" if host == "cql" and kind in ("aw", "rw") else kind
            assert arm.method.config == {**uniform.method.config, "sampler": sampler}
            assert (arm.method.name, arm.task, arm.updates, arm.seeds) == (
                host,
                uniform.task,
                uniform.updates,
                uniform.seeds,
            )


@pytest.mark.parametrize("sampler", ["uniform", "rw:0.5", "aw:0.5", "top:0.4"])
def test_a_finished_run_is_measured_by_its_sampler(sampler):
    data = random_dataset("Pendulum-v1", 1000)
    engine = Engine(quiet=True, tensorboard=False, evaluate_episodes=1, compile=False)
    method = BC(network=(8,), batch_size=8, sampler=sampler)
    run = Run(method, DatasetTask(data), updates=5, folder="run", engine=engine).train()
    p = weights(data, *read_sampler(sampler))
    assert trajectory_weighting.measure(run) == {
        "score": pytest.approx((run.metrics[-1]["evaluation/return"] + 1200) / 10.5),
        "return as drawn": pytest.approx(expected_return(data, p)),
        "positive-sided variance": pytest.approx(float(positive_sided_variance(data.returns))),
        "effective steps": pytest.approx(effective_size(p)),
    }
