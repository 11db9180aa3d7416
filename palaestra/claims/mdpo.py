"""MDPO: a few gradient steps on a softly penalised objective do what TRPO's exact trust region and PPO's clipping do.

Small scale: CartPole-v1 and Pendulum-v1 on-policy, with m = 10 and m = 1 inner steps, against PPO (plain, and with clipped
values and an annealed learning rate) and TRPO; Pendulum-v1 off-policy against SAC with the same entropy weight. All arms of
a task share networks, rollouts and normalisation. Paper scale: the MuJoCo tasks, on-policy for 10 million steps and
off-policy for one million.
"""

from __future__ import annotations

from typing import Any

from palaestra.claims.claim import Arm, Claim, Finding, Records, Scale, above, difference, estimate, mean
from palaestra.methods.online.mdpo import MDPO
from palaestra.methods.online.mdpo_off import MDPOOff
from palaestra.methods.online.ppo import PPO
from palaestra.methods.online.sac import SAC
from palaestra.methods.online.trpo import TRPO

LAMBDA = 0.2
"""Entropy weight of off-policy MDPO and of SAC."""
BALANCED = 400.0
"""Return on CartPole-v1 that MDPO must reach, of at most 500."""

NORMALISED: dict[str, Any] = {"normalise_obs": True, "normalise_reward": True}
SMALL_ON: dict[str, dict[str, Any]] = {
    # The paper's rollouts of 2048 steps and its learning rate.
    "CartPole-v1": {**NORMALISED, "lr": 3e-4, "num_envs": 8, "rollout_steps": 256},
    # With 49 such iterations MDPO hardly begins to learn here; shorter rollouts give 195, and the same to every arm.
    "Pendulum-v1": {**NORMALISED, "lr": 1e-3, "num_envs": 8, "rollout_steps": 64},
}
SMALL_OFF: dict[str, Any] = {
    "lr": 1e-3,
    "network": (64, 64),
    "batch_size": 128,
    "buffer_size": 10_000,
    "warmup_steps": 1_000,
}


def on_policy(shared: dict[str, Any]) -> dict[str, Any]:
    """The on-policy methods of the comparison."""
    return {
        "mdpo m=10": MDPO(**shared, inner_steps=10),
        "mdpo m=1": MDPO(**shared, inner_steps=1),
        "ppo": PPO(**shared),
        "ppo with tricks": PPO(**shared, value_clip=0.2, anneal=True),
        "trpo": TRPO(**shared),
    }


def small_arms() -> dict[str, Arm]:
    arms = {
        f"{label} {task}": Arm(method, task, steps=100_000, seeds=3)
        for task in SMALL_ON
        for label, method in on_policy(SMALL_ON[task]).items()
    }
    arms["mdpo off-policy"] = Arm(MDPOOff(**SMALL_OFF, alpha=LAMBDA), "Pendulum-v1", steps=10_000, seeds=3)
    arms["sac"] = Arm(SAC(**SMALL_OFF, alpha=LAMBDA), "Pendulum-v1", steps=10_000, seeds=3)
    return arms


def small_verdict(records: Records) -> list[Finding]:
    balanced = mean(records.final("mdpo m=10 CartPole-v1"))
    findings = [
        Finding(f"CartPole-v1: on-policy MDPO reaches {BALANCED:g}", balanced.value >= BALANCED, {"return": balanced})
    ]
    findings += [more_steps(records, task) for task in SMALL_ON]
    for task in SMALL_ON:
        findings.append(
            not_below(records, f"mdpo m=10 {task}", f"ppo {task}", f"{task}: MDPO does not end below plain PPO")
        )
    ours, sac = mean(records.final("mdpo off-policy")), mean(records.final("sac"))
    findings.append(
        Finding(
            f"Pendulum-v1: off-policy MDPO is within 15% of SAC, both with entropy weight {LAMBDA:g}, or above",
            ours.value >= sac.value - 0.15 * abs(sac.value),
            {"mdpo": ours, "sac": sac},
        )
    )
    return findings


def more_steps(records: Records, task: str) -> Finding:
    """That ten inner steps learn faster than one."""
    return above(
        f"{task}: m = 10 beats m = 1 in the area under the learning curve",
        records.area(f"mdpo m=10 {task}"),
        records.area(f"mdpo m=1 {task}"),
    )


def not_below(records: Records, ours: str, theirs: str, sentence: str) -> Finding:
    """Both may be as good as the task allows, so what counts is that the seeds do not show a difference downwards."""
    gap = difference(records.final(ours), records.final(theirs))
    return Finding(f"{sentence}: the interval of the difference reaches 0", gap.high >= 0, {"difference": gap})


PAPER_TASKS = ("Hopper-v5", "Walker2d-v5", "HalfCheetah-v5", "Ant-v5", "Humanoid-v5", "HumanoidStandup-v5")


def paper_arms() -> dict[str, Arm]:
    # One environment with rollouts of 2048 steps, as in the released code.
    shared = {**NORMALISED, "num_envs": 1, "rollout_steps": 2048}
    arms: dict[str, Arm] = {}
    for task in PAPER_TASKS:
        arms |= {f"{label} {task}": Arm(method, task, 10_000_000) for label, method in on_policy(shared).items()}
        arms[f"mdpo off-policy {task}"] = Arm(MDPOOff(alpha=LAMBDA), task, 1_000_000)
        for q in (1.2, 1.4, 1.6, 1.8, 2.0):
            arms[f"mdpo off-policy q={q:g} {task}"] = Arm(MDPOOff(alpha=LAMBDA, tsallis_q=q), task, 1_000_000)
        arms[f"sac {task}"] = Arm(SAC(alpha=LAMBDA), task, 1_000_000)
    return arms


def paper_verdict(records: Records) -> list[Finding]:
    findings = []
    for task in PAPER_TASKS:
        findings += [
            more_steps(records, task),
            not_below(records, f"mdpo m=10 {task}", f"ppo {task}", f"{task}: MDPO does not end below plain PPO"),
        ]
        for baseline, family in (("trpo", "mdpo m=10"), ("sac", "mdpo off-policy")):
            ours, theirs = mean(records.final(f"{family} {task}")), mean(records.final(f"{baseline} {task}"))
            findings.append(
                Finding(
                    f"{task}: {family} is within 10% of {baseline}, or above",
                    ours.value >= theirs.value - 0.1 * abs(theirs.value),
                    {family: ours, baseline: theirs},
                )
            )
        tsallis = [records.final(f"mdpo off-policy q={q:g} {task}") for q in (1.2, 1.4, 1.6, 1.8, 2.0)]
        best = estimate(lambda *arms: max(arm.mean() for arm in arms), *tsallis)
        sac = mean(records.final(f"sac {task}"))
        findings.append(
            Finding(
                f"{task}: with the best Tsallis q off-policy MDPO ends above SAC",
                best.value > sac.value,
                {"mdpo": best, "sac": sac},
            )
        )
    return findings


claim = Claim(
    name="mdpo",
    paper=MDPO.paper,
    sentence="A soft trust region and several gradient steps per rollout suffice: MDPO keeps up with PPO and TRPO, and "
    "off-policy with SAC.",
    scales={
        "small": Scale(
            "36 runs on CartPole-v1 and Pendulum-v1, about 15 minutes on two cores", small_arms(), small_verdict
        ),
        "paper": Scale("360 runs of 1 to 10 million steps on MuJoCo, about 120 GPU-days", paper_arms(), paper_verdict),
    },
)
