"""SPO: playing against one's own past finds what no other policy beats, where a learnt reward must rank all things in a line.

Small scale: a point in the plane, twenty steps. Self-play and the reward-model agent are the same PPO on the same number of
trajectories, about each of which ten questions are asked. Its settings are those with which PPO learns from the true reward.
On the ring, where each direction beats the next and none is best, the policies of the last third of training are judged together:
their average is what the theory speaks of, and the last one goes round. That a third of training takes it round once was seen to,
on other seeds. PPO on the true reward is reported beside the others; nothing must hold there.
Paper scale: soft actor-critic on MuJoCo, with judges who are right, err, and want what no reward of single steps says.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from palaestra.claims.claim import Arm, Claim, Finding, Records, Scale, difference, mean
from palaestra.core.experience import Experience
from palaestra.core.method import Counters
from palaestra.core.policy import Policy
from palaestra.core.seeding import Streams
from palaestra.envs.judged import JudgedTask
from palaestra.envs.judges import Ring, last_position, quarters, sector
from palaestra.envs.own import NAMESPACE
from palaestra.envs.rollout import Rollout
from palaestra.methods.online.ppo import PPO
from palaestra.methods.online.sac import SAC
from palaestra.methods.preference.judged import Judged
from palaestra.methods.preference.reward_agent import RewardAgent, RewardAgentSAC
from palaestra.methods.preference.spo import SPO, SPOSAC
from palaestra.runs.run import Run

SEEDS = 5
EPISODES = 500
"""Episodes that a finished policy is judged by, acting as it did in training."""
SIMULATED = 20
"""The same where each takes a simulator a thousand steps."""
ITERATES = 60
"""Policies kept over training, of which the last third are averaged on the ring."""
SECTORS = Ring().sectors
SPREAD = 0.8
"""Share of the largest entropy, ln 8, that the ends of self-play on the ring must have."""
FEW = 3.0
"""Sectors at most, as exp(entropy), on which the reward-model agent ends there."""

JUDGES: dict[str, dict[str, Any]] = {
    "ring": {"env": "palaestra/RingPoint-v0", "judge": "ring"},
    "noisy": {"flip": 0.2, "sampled": True},
    "non-markovian": {"judge": "non-markovian"},
}


def small_arms() -> dict[str, Arm]:
    agent: dict[str, Any] = {"num_envs": 64, "rollout_steps": 20, "minibatch": 256, "gamma": 1.0, "lr": 1e-3}
    # More rounds on the ring, and a bonus that keeps policies unsure: the last third of training must be a whole turn.
    turning = {**agent, "num_envs": 32, "minibatch": 128, "entropy_weight": 0.01, "iterates": ITERATES}
    arms: dict[str, Arm] = {}
    for judge, settings in JUDGES.items():
        how, steps = (turning, 96_000) if judge == "ring" else (agent, 60_000)
        methods = {"spo": SPO(**how), "reward-agent": RewardAgent(**how)}
        arms |= {f"{name} {judge}": Arm(m, "judged", steps, SEEDS, settings=settings) for name, m in methods.items()}
    return {**arms, "ppo": Arm(PPO(**agent), "judged", 60_000, SEEDS)}


def small_verdict(records: Records) -> list[Finding]:
    entropy, effective = records.measure("spo ring", "entropy"), records.measure("reward-agent ring", "sectors")
    better = difference(records.measure("spo noisy", "return"), records.measure("reward-agent noisy", "return"))
    return [
        Finding(
            f"ring: the ends of self-play have more than {SPREAD:.0%} of the largest entropy, over the last third of training",
            bool(entropy.mean() > SPREAD * math.log(SECTORS)),
            {"entropy": mean(entropy)},
        ),
        Finding(
            f"ring: those of the reward-model agent are on {FEW:g} sectors at most, as exp(entropy)",
            bool(effective.mean() <= FEW),
            {"sectors": mean(effective)},
        ),
        Finding(
            "a fifth of the answers wrong: self-play earns at least as much of the true reward",
            better.value >= 0,
            {"difference": better},
        ),
        obedient(records, "spo non-markovian", "reward-agent non-markovian", "non-markovian"),
    ]


def obedient(records: Records, ours: str, theirs: str, where: str) -> Finding:
    """That self-play keeps more often to what may be earned in the last quarter."""
    gap = difference(records.measure(ours, "obeys"), records.measure(theirs, "obeys"))
    return Finding(
        f"{where}: more episodes of self-play keep to the rule of the last quarter", gap.value > 0, {"gap": gap}
    )


def measure(run: Run) -> dict[str, float]:
    """What the judge's kind asks of the finished policy: where it ends, what it earns, how often it keeps the rule."""
    task, method = run.task, run.method
    assert isinstance(task, JudgedTask) and method is not None
    found = {"judge calls": float(method.counters.judge_calls)}
    if task.judge != "ring":
        early, late = quarters(played(run, method.policy()))
        earned = {"return": early + late, "early return": early, "obeys": (late <= task.threshold).float()}
        return found | {name: float(value.mean()) for name, value in earned.items()}
    assert isinstance(method, Judged)
    share = ends(run, method.mixture(method.kept[-len(method.kept) // 3 :]))
    last = entropy_of(ends(run, method.behaviour()))
    return found | {
        "entropy": entropy_of(share),
        "sectors": math.exp(entropy_of(share)),
        "sectors of the last policy": math.exp(last),
        # Of the directions, the one that beats the policy most: what it wins against it, 0 for a Minimax Winner.
        "beaten by": float((share.roll(-1) - share.roll(1)).max()),
    }


def played(run: Run, policy: Policy) -> Experience:
    """Whole trajectories of a policy, `(H, N)`, played as it acts in training; `mask` is 0 after the first end of each."""
    task: Any = run.task
    streams = Streams(run.seed)
    count = EPISODES if task.env.startswith(NAMESPACE) else SIMULATED
    steps = Rollout(task.envs(count, streams, "measure"), streams, Counters()).collect(policy, task.steps)
    ended = steps.terminated + steps.truncated
    return steps.replace(mask=steps.mask * (ended.cumsum(0) - ended == 0))


def ends(run: Run, policy: Policy) -> Tensor:
    """The share of episodes that end in each sector, `(8,)`."""
    where = sector(last_position(played(run, policy)), SECTORS)
    return torch.bincount(where, minlength=SECTORS) / EPISODES


def entropy_of(share: Tensor) -> float:
    """-sum p ln p."""
    return float(-torch.xlogy(share, share).sum())


PAPER_ENVS = {"Ant-v5": 250.0, "Walker2d-v5": 250.0, "HalfCheetah-v5": 500.0}
"""And the most that may be earned in their last quarter, where the judge has that rule."""


def paper_arms() -> dict[str, Arm]:
    arms: dict[str, Arm] = {}
    for env, threshold in PAPER_ENVS.items():
        judges: dict[str, dict[str, Any]] = {
            "right": {},
            "noisy": {"flip": 0.2, "sampled": True},
            "non-markovian": {"judge": "non-markovian", "threshold": threshold},
        }
        for judge, settings in judges.items():
            methods = {"spo": SPOSAC(), "reward-agent": RewardAgentSAC(memory=200)}
            for name, method in methods.items():
                arms[f"{name} {env} {judge}"] = Arm(method, "judged", 1_000_000, settings={"env": env, **settings})
        arms[f"sac {env}"] = Arm(SAC(), "judged", 1_000_000, settings={"env": env})
    return arms


def paper_verdict(records: Records) -> list[Finding]:
    findings = []
    for env in PAPER_ENVS:
        for judge in ("right", "noisy"):
            gap = difference(records.final(f"spo {env} {judge}"), records.final(f"reward-agent {env} {judge}"))
            sentence = f"{env} judged, the judge {judge}: self-play earns at least as much of the true reward"
            findings.append(Finding(sentence, gap.value >= 0, {"difference": gap}))
        where = f"{env} non-markovian"
        findings.append(obedient(records, f"spo {where}", f"reward-agent {where}", where))
    return findings


claim = Claim(
    name="spo",
    paper=SPO.paper,
    sentence="Rewarded by win rates against its own recent past, an agent finds what no other beats: it keeps all directions of "
    "a ring on which each beats the next, and holds its own against a learnt reward where a judge errs or looks at whole "
    "trajectories.",
    scales={
        "small": Scale(
            "35 short runs of a point in the plane, about 5 minutes on two free cores",
            small_arms(),
            small_verdict,
        ),
        "paper": Scale("105 runs of a million steps on MuJoCo, about 40 core-days", paper_arms(), paper_verdict),
    },
    measure=measure,
)
