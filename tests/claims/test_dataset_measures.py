"""The map of datasets and agents: its verdict on made-up records, and what it measures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from palaestra.claims import dataset_measures
from palaestra.claims.claim import Records
from palaestra.data.make import make
from palaestra.methods.offline.bc import BC
from palaestra.methods.online.dqn import DQN
from palaestra.runs.engine import Engine
from palaestra.runs.run import Run

from ..datasets import random_dataset
from .test_verdicts import made_up, not_held


def mapped(score: Mapping[tuple[str, str], float], **measures: Mapping[str, float]) -> Records:
    """A map on which cloning is as good as the behaviour, DQN's kin need coverage, and all else scores 0.6."""
    tq = {"random": 0.0, "mixed": 0.01, "replay": 0.3, "noisy": 0.95, "expert": 0.98} | measures.get("tq", {})
    saco = {"random": 1.0, "mixed": 0.9, "replay": 1.0, "noisy": 0.9, "expert": 0.3} | measures.get("saco", {})
    found = {}
    for quality in dataset_measures.QUALITIES:
        for agent in dataset_measures.agents():
            usual = tq[quality] if agent == "bc" else 0.6 * saco[quality]
            value = score.get((agent, quality), usual)
            arm = dataset_measures.label(agent, dataset_measures.SMALL_TASK, quality)
            found[arm] = {"score": value, "tq": tq[quality], "saco": saco[quality]}
    return made_up(dataset_measures.claim, {}, found)


def test_dataset_measures_holds_where_cloning_follows_quality_and_q_learning_coverage():
    assert not_held(dataset_measures.claim, mapped({})) == []


@pytest.mark.parametrize(
    ("records", "words"),
    [
        (mapped({}, saco={"expert": 0.5}), "less than half"),
        (mapped({}, tq={"mixed": -0.01}), "on every seed TQ of expert"),
        (mapped({}, tq={"noisy": 0.98}), "above that of noisy on average"),
        (mapped({("bc", "replay"): 0.45}), "/replay: on every seed cloning scores within 0.1"),
        (mapped({("bc", "expert"): 0.89}), "/expert: on every seed cloning scores at least 0.9"),
        (mapped({("qr-dqn", "noisy"): 0.96}), "/noisy: cloning scores more than qr-dqn"),
        (mapped({("dqn-offline", "expert"): 0.6}), "scores less than 0.5"),
        (mapped({(a, "mixed"): 0.0 for a in ("dqn-offline", "cql-discrete")}), "/mixed: on every seed dqn-offline or"),
    ],
)
def test_each_finding_of_dataset_measures_can_fail(records, words):
    [sentence] = not_held(dataset_measures.claim, records)
    assert words in sentence


def test_coverage_is_compared_among_equally_many_steps_of_which_the_last_ends_an_episode():
    data = random_dataset("CartPole-v1", 450)
    cut = dataset_measures.first_steps(data, 100)
    assert len(cut) == 100
    assert int(((cut.steps.terminated + cut.steps.truncated) > 0).sum()) == len(cut.starts)
    assert torch.equal(cut.steps.obs, data.steps.obs[:100])
    assert float(data.steps.truncated[:100].sum()) == 0


def test_a_finished_run_is_measured_on_its_data_and_on_the_replay_of_the_same_behaviour(monkeypatch):
    monkeypatch.setenv("PALAESTRA_DATA", str(Path("data").absolute()))
    behaviour = DQN(network=(8,), batch_size=8, buffer_size=300, warmup_steps=20)
    for quality in ("random", "replay"):
        name = f"tiny/{quality}/seed0"
        make("CartPole-v1", quality, size=300, method=behaviour, steps=300, name=name, quiet=True)
    engine = Engine(quiet=True, tensorboard=False, evaluate_episodes=2, compile=False)
    found = {}
    for quality in ("random", "replay"):
        run = Run(
            BC(network=(8,), batch_size=8), f"data:tiny/{quality}/seed0", updates=5, folder=quality, engine=engine
        )
        found[quality] = dataset_measures.measure(run.train())
    low, high = run.task.dataset.references
    final = run.metrics[-1]["evaluation/return"]
    assert found["replay"] == {
        "score": pytest.approx((final - low) / (high - low)),
        "tq": pytest.approx((float(run.task.dataset.returns.mean()) - low) / (high - low)),
        "saco": 1.0,
    }
    assert 0.2 < found["random"]["saco"] < 2
