"""DSAC-T: a distributional critic that scales itself needs no tuning to the size of the rewards, and estimates well.

Small scale: Pendulum-v1 with rewards multiplied by 0.1, 1 and 10, against DSACv1, whose clipping bound of 1 suits one of
them at most, and against SAC. Returns and biases are always in the task's own units. Paper scale: five MuJoCo tasks, one
update per 20 environment steps for every off-policy method, as in the released code.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from palaestra.claims.claim import Arm, Claim, Finding, Records, Scale, above, arms_of, estimate, mean, spread
from palaestra.core.experience import Experience
from palaestra.core.method import Counters, Method
from palaestra.core.seeding import Streams
from palaestra.envs.rollout import Rollout
from palaestra.envs.task import EnvTask
from palaestra.methods.online.dsac_t import DSACT
from palaestra.methods.online.dsac_v1 import DSACV1
from palaestra.methods.online.ppo import PPO
from palaestra.methods.online.sac import SAC
from palaestra.methods.online.td3 import TD3
from palaestra.objectives.returns import discounted_returns
from palaestra.runs.run import Run

REWARD_SCALES = (0.1, 1.0, 10.0)
BIAS_EPISODES = 20
NEGLIGIBLE = 1e-4
"""Weight of the last reward that a Monte-Carlo return takes into account."""


def measure(run: Run) -> dict[str, float]:
    """The bias of the critics' value against the soft return that the policy really earns, in the task's own units."""
    method: Any = run.method
    if not isinstance(method, (SAC, DSACT)):
        return {}
    policy, streams = method.policy().eval(), Streams(run.seed)
    first, beyond = episode_limit(run.task), math.ceil(math.log(NEGLIGIBLE) / math.log(method.gamma))
    envs = longer(run.task, first + beyond).envs(BIAS_EPISODES, streams, "bias")
    steps = Rollout(envs, streams, Counters()).collect(policy, first + beyond)
    with torch.no_grad():
        flat = steps.flatten()
        # The log-density of a fresh sample has the same mean as that of the action taken, whose own is lost near the bounds.
        logp = policy.sample(flat.obs, policy.normal_noise(flat, streams.generator("entropy")))[1]
        steps = steps.replace(logp=logp.view_as(steps.reward))
        alpha = method.log_alpha.exp()
        earned = soft_returns(steps, method.reward_scale, alpha, method.gamma)[:first].flatten()
        visited = steps[:first].flatten()
        q = method.critics.q(visited.obs, visited.action).amin(0)
        return {"bias": float((q - earned).mean() / method.reward_scale)}


def soft_returns(steps: Experience, reward_scale: float, alpha: Tensor, gamma: float) -> Tensor:
    """What Q(s_t, a_t) stands for: sum over k of gamma^k r_{t+k}, less alpha log pi of every action after the first, `(T, N)`."""
    next_logp = torch.cat([steps.logp[1:], torch.zeros_like(steps.logp[:1])])
    alive = 1 - torch.maximum(steps.terminated, steps.truncated)
    reward = reward_scale * steps.reward - gamma * alpha * alive * next_logp
    return discounted_returns(reward, torch.zeros_like(reward), steps.terminated, steps.truncated, gamma)


def episode_limit(task: Any) -> int:
    """The steps after which the clock ends an episode."""
    env = task.make()
    limit = env.spec.max_episode_steps
    env.close()
    return int(limit)


def longer(task: EnvTask, limit: int) -> EnvTask:
    """The same task with a later time limit, since critics value what comes after it."""
    return EnvTask(task.spec, {**task.kwargs, "max_episode_steps": limit})


SMALL = {
    "lr": 1e-3,
    "network": (64, 64),
    "activation": "gelu",
    "batch_size": 128,
    "buffer_size": 10_000,
    "warmup_steps": 1_000,
}


def small_arms() -> dict[str, Arm]:
    methods: dict[str, Method] = {}
    for scale in REWARD_SCALES:
        own = {"reward_scale": scale, "steps_per_round": 1, "alpha_lr": 1e-3}
        methods[f"dsac-t x{scale:g}"] = DSACT(**SMALL, **own)
        methods[f"dsac-v1 x{scale:g}"] = DSACV1(**SMALL, **own)
        methods[f"sac x{scale:g}"] = SAC(**SMALL, reward_scale=scale)
    methods["single-critic sac"] = SAC(**SMALL, critics_count=1)
    methods["td3"] = TD3(**SMALL)
    return arms_of(methods, "Pendulum-v1", steps=8_000, seeds=3)


def small_verdict(records: Records) -> list[Finding]:
    def over_scales(method: str) -> list[Any]:
        return [records.final(f"{method} x{scale:g}") for scale in REWARD_SCALES]

    ours, before = estimate(spread, *over_scales("dsac-t")), estimate(spread, *over_scales("dsac-v1"))
    dsac_t, sac = mean(records.final("dsac-t x1")), mean(records.final("sac x1"))
    bias = mean(abs(records.measure("dsac-t x1", "bias")))
    single = mean(abs(records.measure("single-critic sac", "bias")))
    return [
        Finding(
            "over reward scales 0.1, 1, 10 the return of DSAC-T varies less than that of DSACv1 with bound 1",
            ours.value < before.value,
            {"spread dsac-t": ours, "spread dsac-v1": before},
        ),
        Finding(
            "at reward scale 1 DSAC-T is within 20% of SAC, or above",
            dsac_t.value >= sac.value - 0.2 * abs(sac.value),
            {"dsac-t": dsac_t, "sac": sac},
        ),
        Finding(
            "the bias of DSAC-T's value is no larger than that of SAC with a single critic",
            bias.value <= single.value,
            {"absolute bias dsac-t": bias, "single-critic sac": single},
        ),
    ]


PAPER_TASKS = ("Humanoid-v5", "Ant-v5", "HalfCheetah-v5", "Walker2d-v5", "Hopper-v5")
PAPER_STEPS = 30_000_000
"""1.5 million iterations of 20 environment steps and one update."""


def paper_arms() -> dict[str, Arm]:
    ours = DSACT()
    shared = {"lr": ours.lr, "network": ours.network, "activation": ours.activation, "steps_per_round": 20}
    methods = {
        "dsac-t": ours,
        "released": replace(ours, loss="released"),
        "dsac-v1": DSACV1(),
        "sac": SAC(**shared),
        "td3": TD3(**shared),
        "ppo": PPO(normalise_obs=True, normalise_reward=True),
    }
    return {
        f"{label} {task}": Arm(method, task, PAPER_STEPS, seeds=5)
        for task in PAPER_TASKS
        for label, method in methods.items()
    }


def paper_verdict(records: Records) -> list[Finding]:
    findings = []
    for task in PAPER_TASKS:
        ours = records.final(f"dsac-t {task}")
        for baseline in ("dsac-v1", "sac", "td3", "ppo"):
            findings.append(above(f"{task}: DSAC-T ends above {baseline}", ours, records.final(f"{baseline} {task}")))
        bias = mean(abs(records.measure(f"dsac-t {task}", "bias")))
        sac = mean(abs(records.measure(f"sac {task}", "bias")))
        findings.append(
            Finding(
                f"{task}: the bias of DSAC-T's value is no larger than SAC's",
                bias.value <= sac.value,
                {"absolute bias dsac-t": bias, "sac": sac},
            )
        )
    return findings


claim = Claim(
    name="dsac-t",
    paper=DSACT.paper,
    sentence="A Gaussian return critic that adapts its own bound and scale works at every reward scale and estimates with "
    "little bias.",
    scales={
        "small": Scale("33 runs on Pendulum-v1, about 15 minutes on two cores", small_arms(), small_verdict),
        "paper": Scale("150 runs of 30 million steps on MuJoCo, about 150 GPU-days", paper_arms(), paper_verdict),
    },
    measure=measure,
)
