"""Trajectory weighting: drawing the good episodes of a mixed dataset more often raises what any offline method gets from it.

Nothing but the sampler differs within a host. Every run measures what its sampler makes of the data: the behaviour's return as
it is weighted, the positive-sided variance of returns, and how many steps drawn alike would vary as much.
Small scale: Pendulum-v1 with a tenth of its steps from an expert and the rest random, and, where no harm may come, data of one
half-trained policy. Of the best tenth alone (top), which a tenth of expert episodes is made for, nothing must hold.
Paper scale: its locomotion data of eight mixtures, and of one policy, at its temperatures.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import numpy as np

from palaestra.claims.claim import Arm, Claim, Finding, Records, Scale, above, difference, estimate
from palaestra.core.method import Paper
from palaestra.data.dataset import Dataset
from palaestra.data.sampling import (
    Weighting,
    effective_size,
    expected_return,
    positive_sided_variance,
    read_sampler,
    weights,
)
from palaestra.methods.offline.bc import BC
from palaestra.methods.offline.cql import CQL
from palaestra.methods.offline.iql import IQL
from palaestra.methods.offline.offline import Offline
from palaestra.methods.offline.td3_bc import TD3BC
from palaestra.runs.run import Run

PAPER = Paper("Harnessing Mixed Offline Reinforcement Learning Datasets via Trajectory Weighting", 2023, "2306.13085")
WEIGHTED: tuple[Weighting, ...] = ("aw", "rw")
HARM = 10.0
"""How many points of the scale where random has 0 and the expert 100 weighting may cost."""


def arms(host: Offline, task: str, updates: int, seeds: int, temperature: str = "") -> dict[str, Arm]:
    """A host with every sampler; `temperature`, such as `:0.2`, is that of those that have one."""
    return {
        label(host.name, kind, task): Arm(
            replace(host, sampler=kind + temperature if kind in WEIGHTED else kind), task, updates=updates, seeds=seeds
        )
        for kind in get_args(Weighting)
    }


def label(host: str, sampler: str, task: str) -> str:
    """What an arm is called."""
    return f"{host} {sampler} {task.partition(':')[2]}"


def measure(run: Run) -> dict[str, float]:
    """Score of the final policy, and what the run's sampler makes of its data."""
    data: Dataset = run.task.dataset  # type: ignore[attr-defined]
    method: Any = run.method
    drawn = weights(data, *read_sampler(method.sampler))
    final = [row["evaluation/return"] for row in run.metrics if "evaluation/return" in row][-1]
    return {
        "score": data.score(final),
        "return as drawn": expected_return(data, drawn),
        "positive-sided variance": float(positive_sided_variance(data.returns)),
        "effective steps": effective_size(drawn),
    }


def gains(records: Records, host: str, task: str, margin: float) -> list[Finding]:
    """That both weightings end above uniform sampling by more than a margin, on every seed."""
    uniform = records.final(label(host, "uniform", task))
    findings = []
    for kind in WEIGHTED:
        weighted = records.final(label(host, kind, task))
        smallest = estimate(np.min, weighted - uniform)
        findings.append(
            Finding(
                f"{task}: {host} with {kind} ends more than {margin:g} above uniform on every seed",
                smallest.value > margin,
                {"difference": difference(weighted, uniform), "smallest difference": smallest},
            )
        )
    return findings


def harmless(records: Records, host: str, task: str) -> list[Finding]:
    """That neither weighting costs much on average."""
    uniform = records.measure(label(host, "uniform", task), "score")
    findings = []
    for kind in WEIGHTED:
        loss = difference(uniform, records.measure(label(host, kind, task), "score"))
        findings.append(
            Finding(
                f"{task}: {kind} costs {host} less than {HARM:g} points on average",
                loss.value < HARM,
                {"points lost": loss},
            )
        )
    return findings


MIXED, PURE = "local:Pendulum-v1/random-expert-0.1", "local:Pendulum-v1/medium"
SMALL_NET: dict[str, Any] = {"lr": 1e-3, "network": (64, 64)}
MARGINS = {"bc": 500.0, "td3-bc": 500.0, "iql": 0.0}
"""By how much weighting must raise each host on Pendulum-v1, where returns lie between -1200 (random) and -150."""


def small_arms() -> dict[str, Arm]:
    hosts = (
        BC(**SMALL_NET, normalise_obs=True),
        TD3BC(**SMALL_NET, gamma=0.98),
        IQL(**SMALL_NET, gamma=0.98, reward_scale="returns"),
    )
    return {
        name: arm
        for task in (MIXED, PURE)
        for host in hosts
        for name, arm in arms(host, task, updates=4_000, seeds=3).items()
    }


def small_verdict(records: Records) -> list[Finding]:
    found = [finding for host, margin in MARGINS.items() for finding in gains(records, host, MIXED, margin)]
    return [*found, *(finding for host in MARGINS for finding in harmless(records, host, PURE))]


PAPER_ENVS = ("Ant-v5", "HalfCheetah-v5", "Hopper-v5", "Walker2d-v5")
PAPER_MIXTURES = tuple(f"random-{good}-{share}" for good in ("medium", "expert") for share in (0.01, 0.05, 0.1, 0.5))
PAPER_HOSTS = ("td3-bc", "iql", "cql")
PAPER_TEMPERATURE = {"cql": ":0.2"}


def paper_hosts(env: str) -> tuple[Offline, ...]:
    """The hosts with the released code's settings, which leave Ant's rewards as they are."""
    scale: Any = 1.0 if env == "Ant-v5" else "returns"
    return TD3BC(), IQL(reward_scale=scale), CQL(conservative_weight=10.0)


def paper_arms() -> dict[str, Arm]:
    return {
        name: arm
        for env in PAPER_ENVS
        for quality in (*PAPER_MIXTURES, "medium")
        for host in paper_hosts(env)
        for name, arm in arms(
            host, f"local:{env}/{quality}", 1_000_000, 5, PAPER_TEMPERATURE.get(host.name, "")
        ).items()
    }


def paper_verdict(records: Records) -> list[Finding]:
    """Per host: mean scores over all mixtures, against uniform sampling and the best tenth; then no harm on one policy's data."""
    mixed, pure = (
        [f"local:{env}/{quality}" for env in PAPER_ENVS for quality in qualities]
        for qualities in (PAPER_MIXTURES, ("medium",))
    )

    def score(host: str, kind: str) -> np.ndarray:
        return np.mean([records.measure(label(host, kind, task), "score") for task in mixed], axis=0)

    findings = []
    for host in PAPER_HOSTS:
        for other in ("uniform", "top"):
            sentence = f"{host} has a higher mean score with aw than with {other}, over {', '.join(mixed)}"
            findings.append(above(sentence, score(host, "aw"), score(host, other)))
        findings += [finding for task in pure for finding in harmless(records, host, task)]
    return findings


claim = Claim(
    name="trajectory-weighting",
    paper=PAPER,
    sentence="Where few good episodes are among many poor ones, drawing steps of episodes with higher returns more often lets an "
    "offline method, otherwise unchanged, end far above what it gets from drawing all steps alike.",
    scales={
        "small": Scale("72 short runs on Pendulum-v1, about 10 minutes on two free cores", small_arms(), small_verdict),
        "paper": Scale(
            "2,160 runs of a million updates on MuJoCo data, about 360 GPU-days; D4RL's own files can stand in for local ones",
            paper_arms(),
            paper_verdict,
        ),
    },
    measure=measure,
)
