"""PRDC: pulled to the nearest recorded state-action pair, a policy may do better than the action recorded at its own state.

Small scale: Pendulum-v1 with data of a half-trained policy, and with a tenth of expert among random episodes, against TD3+BC
(equal in all but where the actor is pulled to), behaviour cloning, and TD3 with next to no constraint, whose alpha is a
million. Data of a learner's first steps (medium-replay) are reported; nothing must hold there.
Paper scale: locomotion data of three qualities, at the paper's alphas.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from palaestra.claims.claim import Arm, Claim, Finding, Records, Scale, above, estimate
from palaestra.core.method import Method
from palaestra.methods.offline.bc import BC
from palaestra.methods.offline.iql import IQL
from palaestra.methods.offline.prdc import PRDC
from palaestra.methods.offline.td3_bc import TD3BC

SMALL_NET: dict[str, Any] = {"lr": 1e-3, "network": (64, 64)}
FREE = 1e6
"""An alpha that leaves next to nothing of the constraint."""
MARGIN = 200.0
"""By how much PRDC must exceed TD3+BC on Pendulum-v1, where returns lie between -1200 (random) and -150."""
QUALITIES = ("medium", "random-expert-0.1")


def small_arms() -> dict[str, Arm]:
    host = {**SMALL_NET, "gamma": 0.98}
    methods = {
        "prdc": PRDC(**host, alpha=2.5, beta=2.0),
        "td3-bc": TD3BC(**host, alpha=2.5),
        "bc": BC(**SMALL_NET, normalise_obs=True),
        "td3": TD3BC(**host, alpha=FREE),
    }
    return {
        f"{label} {quality}": Arm(method, f"local:Pendulum-v1/{quality}", updates=4_000, seeds=5)
        for quality in (*QUALITIES, "medium-replay")
        for label, method in methods.items()
    }


def small_verdict(records: Records) -> list[Finding]:
    findings = []
    for quality in QUALITIES:
        findings += above_td3_bc(records, "PRDC", quality, MARGIN)
        ours, cloned = records.final(f"prdc {quality}"), records.final(f"bc {quality}")
        findings.append(above(f"Pendulum-v1/{quality}: PRDC ends above cloning", ours, cloned))
    sentence = "Pendulum-v1/medium: PRDC ends above TD3 without a constraint"
    return [*findings, above(sentence, records.final("prdc medium"), records.final("td3 medium"))]


def above_td3_bc(records: Records, name: str, quality: str, margin: float) -> list[Finding]:
    """That a method's mean lies above TD3+BC's by more than a margin, and no seed's return below its."""
    ours, theirs = records.final(f"{name.lower()} {quality}"), records.final(f"td3-bc {quality}")
    smallest = estimate(np.min, ours - theirs)
    return [
        above(f"Pendulum-v1/{quality}: {name} ends more than {margin:g} above TD3+BC", ours, theirs, margin),
        Finding(
            f"Pendulum-v1/{quality}: {name} ends above TD3+BC on every seed",
            smallest.value > 0,
            {"smallest difference": smallest},
        ),
    ]


PAPER_ALPHA = {"Hopper-v5": 2.5, "Walker2d-v5": 2.5, "HalfCheetah-v5": 40.0}
PAPER_QUALITIES = ("medium", "medium-replay", "medium-expert")


def paper_arms() -> dict[str, Arm]:
    arms: dict[str, Arm] = {}
    for env, alpha in PAPER_ALPHA.items():
        methods = {"prdc": PRDC(alpha=alpha, beta=2.0), "td3-bc": TD3BC(), "bc": BC(normalise_obs=True), "iql": IQL()}
        arms |= on_data(env, PAPER_QUALITIES, methods)
    return arms


def on_data(env: str, qualities: Sequence[str], methods: Mapping[str, Method]) -> dict[str, Arm]:
    """Every method on every quality of an environment's data, as papers have it: a million updates, five seeds."""
    tasks = [f"local:{env}/{quality}" for quality in qualities]
    return {
        f"{label} {task}": Arm(method, task, updates=1_000_000, seeds=5)
        for task in tasks
        for label, method in methods.items()
    }


def paper_verdict(records: Records) -> list[Finding]:
    tasks = [f"local:{env}/{quality}" for env in PAPER_ALPHA for quality in PAPER_QUALITIES]
    return [
        above(f"{task}: PRDC ends above {baseline}", records.final(f"prdc {task}"), records.final(f"{baseline} {task}"))
        for task in tasks
        for baseline in ("td3-bc", "bc")
    ]


claim = Claim(
    name="prdc",
    paper=PRDC.paper,
    sentence="Pulling the policy to the nearest recorded pair keeps it near the data and frees it from the one action "
    "recorded at its state: PRDC ends above TD3+BC where that action is poor.",
    scales={
        "small": Scale("60 short runs on Pendulum-v1, about 15 minutes on two free cores", small_arms(), small_verdict),
        "paper": Scale(
            "180 runs of a million updates on MuJoCo data, about 30 GPU-days; D4RL's own files can stand in for local ones",
            paper_arms(),
            paper_verdict,
        ),
    },
)
