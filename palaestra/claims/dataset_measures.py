"""Which property of a dataset decides what can be learnt from it: how good its behaviour was, or how much of the world it shows.

Nine agents for discrete actions learn from five datasets of each behaviour. Trajectory quality (TQ) and state-action coverage
(SACo) are measured on the same data; scores are returns on the scale where random actions have 0 and the best online policy 1.
Small scale: CartPole-v1, 20,000 steps a dataset, the paper's networks and budgets made smaller alike.
Paper scale: the two of its tasks that Gymnasium has, 100,000 steps a dataset and five updates for each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from palaestra.claims.claim import Arm, Claim, Finding, Records, Scale, above, estimate, mean
from palaestra.core.method import Method
from palaestra.data.dataset import Dataset
from palaestra.data.load import load_dataset
from palaestra.data.measures import coverage, trajectory_quality
from palaestra.methods.offline.bc import BC
from palaestra.methods.offline.bcq import BCQ
from palaestra.methods.offline.bve import BVE
from palaestra.methods.offline.cql_discrete import CQLDiscrete
from palaestra.methods.offline.crr import CRR
from palaestra.methods.offline.dqn_offline import DQNOffline
from palaestra.methods.offline.mce import MCE
from palaestra.methods.offline.qr_dqn import QRDQN
from palaestra.methods.offline.rem import REM
from palaestra.runs.run import Run

QUALITIES = ("random", "mixed", "replay", "noisy", "expert")
UNCONSTRAINED = ("dqn-offline", "qr-dqn", "rem")
NEAR = 0.1
"""How far cloning may be from the behaviour's own quality."""
GOOD, POOR = 0.9, 0.5
"""Scores at which an agent has learnt the task, and below which it has failed."""


def agents(**settings: object) -> dict[str, Method]:
    """The nine agents, with some settings of all of them changed."""
    classes: dict[str, Callable[..., Method]] = {
        "bve": BVE,
        "mce": MCE,
        "dqn-offline": DQNOffline,
        "qr-dqn": QRDQN,
        "rem": REM,
        "bcq": BCQ,
        "cql-discrete": CQLDiscrete,
        "crr": CRR,
    }
    like = {"network": (256, 256, 256), "activation": "selu", "lr": 1e-4, "batch_size": 128, **settings}
    return {"bc": BC(**like, acts="sample"), **{name: cls(**settings) for name, cls in classes.items()}}  # type: ignore[arg-type]


def measure(run: Run) -> dict[str, float]:
    """Score of the final policy, and the two measures of the data it was learnt from."""
    data: Dataset = run.task.dataset  # type: ignore[attr-defined]
    assert data.references is not None
    task, _, seed = run.task.source.rsplit("/", 2)  # type: ignore[attr-defined]
    reference = load_dataset(f"{task}/replay/{seed}")
    size = min(len(data), len(reference))
    final = [row["evaluation/return"] for row in run.metrics if "evaluation/return" in row][-1]
    return {
        "score": data.score(final) / 100,
        "tq": trajectory_quality(data.returns, *data.references),
        "saco": coverage(first_steps(data, size), first_steps(reference, size)),
    }


def first_steps(data: Dataset, size: int) -> Dataset:
    """The first steps, the last episode cut off: coverage grows with size, so that only equal sizes compare."""
    steps = data.steps[:size]
    truncated = steps.truncated.clone()
    truncated[-1] = 1 - steps.terminated[-1]
    return replace(data, steps=steps.replace(truncated=truncated), starts=data.starts[data.starts < size])


def arms(task: str, methods: dict[str, Method], updates: int, seeds: int) -> dict[str, Arm]:
    """Every agent on every dataset of a task; the seed is that of the behaviour too."""
    return {
        label(name, task, quality): Arm(method, f"{task}/{quality}/seed{{seed}}", updates=updates, seeds=seeds)
        for quality in QUALITIES
        for name, method in methods.items()
    }


def label(agent: str, task: str, quality: str) -> str:
    """What an arm is called."""
    return f"{agent} {task.partition(':')[2]} {quality}"


def verdict(task: str, records: Records) -> list[Finding]:
    """What the paper says of its map, on one task."""

    def score(agent: str, quality: str) -> np.ndarray:
        return records.measure(label(agent, task, quality), "score")

    tq, saco = (
        {quality: records.measure(label("bc", task, quality), name) for quality in QUALITIES} for name in ("tq", "saco")
    )
    others = np.min([saco[quality] for quality in QUALITIES[:-1]], axis=0)
    ordered = (
        (tq["expert"] >= tq["noisy"])
        & (tq["noisy"] > tq["replay"])
        & (tq["replay"] > tq["mixed"])
        & (tq["mixed"] >= tq["random"])
    )
    findings = [
        Finding(
            f"{task}/expert: on every seed it shows less than half as many state-action pairs as any other dataset",
            bool((saco["expert"] < 0.5 * others).all()),
            {quality: mean(saco[quality]) for quality in QUALITIES},
        ),
        Finding(
            f"{task}: on every seed TQ of expert >= noisy > replay > mixed >= random",
            bool(ordered.all()),
            {quality: mean(tq[quality]) for quality in QUALITIES},
        ),
        above(f"{task}: TQ of expert is above that of noisy on average", tq["expert"], tq["noisy"]),
    ]
    for quality in QUALITIES:
        distance = np.abs(score("bc", quality) - tq[quality])
        findings.append(
            Finding(
                f"{task}/{quality}: on every seed cloning scores within {NEAR:g} of TQ",
                bool((distance < NEAR).all()),
                {"distance": mean(distance), "largest": estimate(np.max, distance)},
            )
        )
    for quality in ("noisy", "expert"):
        cloned = score("bc", quality)
        findings.append(
            Finding(
                f"{task}/{quality}: on every seed cloning scores at least {GOOD:g}",
                bool((cloned >= GOOD).all()),
                {"score": mean(cloned), "lowest": estimate(np.min, cloned)},
            )
        )
        for agent in UNCONSTRAINED:
            sentence = f"{task}/{quality}: cloning scores more than {agent} on average"
            findings.append(above(sentence, cloned, score(agent, quality)))
    failed = score("dqn-offline", "expert")
    findings.append(
        Finding(
            f"{task}/expert: on every seed Q-learning without constraints, dqn-offline, scores less than {POOR:g}",
            bool((failed < POOR).all()),
            {"score": mean(failed), "highest": estimate(np.max, failed)},
        )
    )
    for quality in ("random", "mixed"):
        cloned, learnt = score("bc", quality), np.maximum(score("dqn-offline", quality), score("cql-discrete", quality))
        findings.append(
            Finding(
                f"{task}/{quality}: on every seed dqn-offline or cql-discrete scores more than cloning",
                bool((learnt > cloned).all()),
                {"the better of the two": mean(learnt), "cloning": mean(cloned)},
            )
        )
    return findings


SMALL_TASK = "local:CartPole-v1"
PAPER_TASKS = ("data:CartPole-v1-100k", "data:MountainCar-v0-100k")

claim = Claim(
    name="dataset-measures",
    paper=MCE.paper,
    sentence="Q-learning without constraints needs data that cover states and actions; cloning needs data of a good policy.",
    scales={
        "small": Scale(
            "three behaviours, five datasets of each, nine agents: 135 short runs, about 8 minutes on two free cores",
            arms(SMALL_TASK, agents(network=(64, 64), lr=3e-4), updates=6_000, seeds=3),
            lambda records: verdict(SMALL_TASK, records),
        ),
        "paper": Scale(
            "450 runs of 500,000 updates, about 300 core-hours; the page of dataset-measures says how to make the datasets first",
            {k: a for task in PAPER_TASKS for k, a in arms(task, agents(), updates=500_000, seeds=5).items()},
            lambda records: [finding for task in PAPER_TASKS for finding in verdict(task, records)],
        ),
    },
    measure=measure,
)
