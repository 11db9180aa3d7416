"""A2PR: a policy that is pulled to good actions only, recorded or proposed, ends above one that is pulled to all of them.

Small scale: Pendulum-v1 with data of a half-trained policy and with a tenth of expert among random episodes, against TD3+BC with
the same networks, PRDC, behaviour cloning, and TD3 with next to no constraint, whose alpha is a million. Recorded besides: the
shares of the batch whose gate is open and that the autoencoder's proposal wins, the guiding action's advantage, and by how much
the first critic's value of the policy's actions exceeds the discounted return of the data from the same states.
Paper scale: locomotion data of three qualities and mixtures, at the paper's settings and with its deeper networks throughout.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from palaestra.claims.claim import Arm, Claim, Finding, Records, Scale, above, difference
from palaestra.claims.prdc import FREE, PAPER_ALPHA, SMALL_NET, above_td3_bc, on_data
from palaestra.methods.offline.a2pr import A2PR
from palaestra.methods.offline.bc import BC
from palaestra.methods.offline.iql import IQL
from palaestra.methods.offline.prdc import PRDC
from palaestra.methods.offline.td3_bc import TD3BC
from palaestra.objectives.returns import rewards_to_go
from palaestra.runs.run import Run

MARGIN = 80.0
"""By how much A2PR must exceed TD3+BC on Pendulum-v1, where returns lie between -1200 (random) and -150."""
QUALITIES = ("medium", "random-expert-0.1")
GUIDE = {"gated": "guide/gated", "proposed": "guide/proposed", "advantage": "guide/advantage"}


def measure(run: Run) -> dict[str, float]:
    """A2PR's shares over the last tenth of the logged updates, and by how much the critics' value exceeds the data's return."""
    found = {}
    for name, column in GUIDE.items():
        logged = [row[column] for row in run.metrics if column in row]
        if logged:
            found[name] = float(np.mean(logged[-max(1, len(logged) // 10) :]))
    method = run.method
    if isinstance(method, TD3BC):
        steps = method.data.dataset.steps
        recorded = rewards_to_go(method.scaled(steps).reward, method.data.dataset.starts, method.gamma)
        with torch.no_grad():
            found["excess value"] = float((method.critics.q(steps.obs, method.actor(steps.obs))[0] - recorded).mean())
    return found


def small_arms() -> dict[str, Arm]:
    host: dict[str, Any] = {**SMALL_NET, "gamma": 0.98}
    methods = {
        "a2pr": A2PR(**host, alpha=2.5, mask=1.0, critic_network=None, vae_network=(128, 128)),
        "td3-bc": TD3BC(**host, alpha=2.5),
        "prdc": PRDC(**host, alpha=2.5, beta=2.0),
        "bc": BC(**SMALL_NET, normalise_obs=True),
        "td3": TD3BC(**host, alpha=FREE),
    }
    return {
        f"{label} {quality}": Arm(method, f"local:Pendulum-v1/{quality}", updates=4_000, seeds=5)
        for quality in QUALITIES
        for label, method in methods.items()
    }


def small_verdict(records: Records) -> list[Finding]:
    findings = []
    for quality in QUALITIES:
        excess = [records.measure(f"{label} {quality}", "excess value") for label in ("a2pr", "td3")]
        less = difference(*excess)
        findings += above_td3_bc(records, "A2PR", quality, MARGIN)
        findings.append(
            Finding(
                f"Pendulum-v1/{quality}: A2PR's critics exceed the data's returns by less than TD3's without a constraint",
                less.value < 0,
                {"difference": less},
            )
        )
    return findings


DEEP: dict[str, Any] = {"network": (256, 256, 256), "critic_network": (256, 256, 256, 256)}
PAPER_SETTINGS: dict[str, dict[str, Any]] = {
    "Hopper-v5": {"gamma": 0.995, "mask": 0.4},
    "Walker2d-v5": {"vae_weight": 1.5},
    "HalfCheetah-v5": {"alpha": 40.0},
}
PAPER_QUALITIES = ("medium", "medium-replay", "medium-expert", "random-medium-0.1", "random-expert-0.1")


def paper_arms() -> dict[str, Arm]:
    arms: dict[str, Arm] = {}
    for env, settings in PAPER_SETTINGS.items():
        methods = {
            "a2pr": A2PR(**settings),
            "td3-bc": TD3BC(**DEEP),
            "prdc": PRDC(**DEEP, alpha=PAPER_ALPHA[env]),
            "bc": BC(normalise_obs=True),
            "iql": IQL(),
        }
        arms |= on_data(env, PAPER_QUALITIES, methods)
    return arms


def paper_verdict(records: Records) -> list[Finding]:
    tasks = [f"local:{env}/{quality}" for env in PAPER_SETTINGS for quality in PAPER_QUALITIES]
    return [
        above(f"{task}: A2PR ends above {baseline}", records.final(f"a2pr {task}"), records.final(f"{baseline} {task}"))
        for task in tasks
        for baseline in ("td3-bc", "iql")
    ]


claim = Claim(
    name="a2pr",
    paper=A2PR.paper,
    sentence="Regularised towards actions of positive advantage only, recorded or proposed by an autoencoder, the policy is "
    "kept near the data without copying its poor actions: A2PR ends above TD3+BC.",
    scales={
        "small": Scale("50 short runs on Pendulum-v1, about 15 minutes on two free cores", small_arms(), small_verdict),
        "paper": Scale(
            "375 runs of a million updates on MuJoCo data, about 100 GPU-days; D4RL's own files can stand in for local ones",
            paper_arms(),
            paper_verdict,
        ),
    },
    measure=measure,
)
