"""HNPG: on-policy and logged data together find what neither finds alone, in combination locks with rich observations.

Small scale: the locks of 5 and of 10 steps, 20,000 logged episodes of a near-optimal behaviour, and 100 and 300 iterations of
1,000 steps. The same algorithm without the logged half must stay at the decoy reward. RLPD with the settings that the paper gives
it learns the shorter lock from as many steps and is reported; nothing must hold there, since in the paper it solves that too.
Paper scale: 50 steps, which the paper's RLPD does not solve beyond 15, and 50,000 logged episodes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from palaestra.claims.claim import Arm, Claim, Finding, Records, Scale, mean
from palaestra.core.method import Counters
from palaestra.core.seeding import Streams
from palaestra.envs.rollout import Rollout
from palaestra.methods.hybrid.hnpg import HNPG, common_length
from palaestra.methods.hybrid.rlpd import RLPD
from palaestra.runs.run import Run

SOLVED = 0.5
"""Share of episodes that must reach the reward of 1, as in the paper."""
DECOY = 0.05
"""The return of falling at once: a decoy of 0.1, half of the time."""
MARGIN = 0.1
"""How far above the decoy a policy stays that has not found the reward of 1."""
EPISODES = 500
"""Episodes that a finished policy is judged by, acting as it did in training; evaluations are of its greedy actions."""

# The paper's table 2; its learning rate of the temperature, 1e-4, is the actor's here. Updates are one for every step.
RLPD_SETTINGS: dict[str, Any] = {
    "gamma": 0.99,
    "lr": 1e-3,
    "tau": 0.01,
    "batch_size": 128,
    "alpha_init": 0.1,
    "updates_per_round": 1,
}


def task(horizon: int, episodes: str) -> str:
    return f"local:palaestra/CombinationLock{horizon}-v0/near-optimal-{episodes}/seed{{seed}}"


def measure(run: Run) -> dict[str, float]:
    """The share of episodes that reach the end, and the mean return, of the policy as it acts in training."""
    streams = Streams(run.seed)
    rollout = Rollout(run.task.envs(EPISODES, streams, "success"), streams, Counters())  # type: ignore[attr-defined]
    length = common_length(run.task.dataset)  # type: ignore[attr-defined]
    returns = rollout.collect(run.method.policy(), length).reward.sum(0)  # type: ignore[union-attr]
    return {"success": float((returns >= 1).float().mean()), "return": float(returns.mean())}


def small_arms() -> dict[str, Arm]:
    lock = {"task": task(5, "20k"), "steps": 100_000, "seeds": 3}
    longer = {"task": task(10, "20k"), "steps": 300_000, "seeds": 3}
    small = {"network": (64, 64), "buffer_size": 100_000, "warmup_steps": 1_000}
    return {
        "hnpg": Arm(HNPG(), **lock),
        "hnpg without data": Arm(HNPG(hybrid=False), **lock),
        "rlpd": Arm(RLPD(**RLPD_SETTINGS, **small), **lock),
        "hnpg 10": Arm(HNPG(), **longer),
        "hnpg 10 without data": Arm(HNPG(hybrid=False), **longer),
    }


def small_verdict(records: Records) -> list[Finding]:
    return [
        solves(records, "hnpg", task(5, "20k")),
        trapped(records, "hnpg without data", task(5, "20k")),
        solves(records, "hnpg 10", task(10, "20k")),
        trapped(records, "hnpg 10 without data", task(10, "20k")),
    ]


def solves(records: Records, arm: str, lock: str) -> Finding:
    """That on every seed more than half of the episodes reach the end."""
    success = records.measure(arm, "success")
    return Finding(
        f"{named(lock)}: {arm} reaches the end in more than {SOLVED:.0%} of episodes on every seed",
        bool(np.min(success) > SOLVED),
        {"success": mean(success)},
    )


def trapped(records: Records, arm: str, lock: str) -> Finding:
    """That on every seed the return is little more than the decoy's."""
    returns = records.measure(arm, "return")
    return Finding(
        f"{named(lock)}: {arm} returns less than {MARGIN:g} above the decoy's {DECOY:g} on every seed",
        bool(np.max(returns) < DECOY + MARGIN),
        {"return": mean(returns)},
    )


def named(lock: str) -> str:
    return lock.replace("/seed{seed}", "")


def paper_arms() -> dict[str, Arm]:
    steps = {5: 10_000_000, 15: 30_000_000, 50: 50_000_000}
    locks = {horizon: {"task": task(horizon, "50k"), "steps": budget, "seeds": 5} for horizon, budget in steps.items()}
    return {
        **{f"hnpg {horizon}": Arm(HNPG(), **lock) for horizon, lock in locks.items()},
        **{f"rlpd {horizon}": Arm(RLPD(**RLPD_SETTINGS), **lock) for horizon, lock in locks.items()},
        "hnpg without data 5": Arm(HNPG(hybrid=False), **locks[5]),
    }


def paper_verdict(records: Records) -> list[Finding]:
    success = records.measure("rlpd 50", "success")
    return [
        *(solves(records, f"hnpg {horizon}", task(horizon, "50k")) for horizon in (5, 15, 50)),
        solves(records, "rlpd 15", task(15, "50k")),
        Finding(
            f"{named(task(50, '50k'))}: rlpd reaches the end in less than {SOLVED:.0%} of episodes on every seed",
            bool(np.max(success) < SOLVED),
            {"success": mean(success)},
        ),
        trapped(records, "hnpg without data 5", task(5, "50k")),
    ]


claim = Claim(
    name="hnpg",
    paper=HNPG.paper,
    sentence="Fitted to fresh returns and to logged Bellman targets at once, a natural policy gradient opens combination locks "
    "with rich observations, where the same gradient without the logged data takes the decoy.",
    scales={
        "small": Scale(
            "15 short runs on the locks of 5 and 10 steps, about 15 minutes on two free cores, most of them RLPD's",
            small_arms(),
            small_verdict,
        ),
        "paper": Scale(
            "35 runs of 10 to 50 million steps, about 150 core-days, most of them RLPD's", paper_arms(), paper_verdict
        ),
    },
    measure=measure,
)
