"""Soft actor-critic: a learned temperature needs no tuning to the size of the rewards, and loses nothing by it.

Small scale: Pendulum-v1 and HalfCheetah-v5 with rewards multiplied by 0.1, 1 and 10, against three fixed temperatures. The
best fixed temperature moves with the reward scale; the learned one should follow it. Returns are always in the task's own
units.
Paper scale: the five MuJoCo tasks of figure 1, against DDPG, TD3, PPO and the temperature tuned by hand.
"""

from __future__ import annotations

import numpy as np

from palaestra.claims.claim import Arm, Claim, Finding, Records, Scale, difference, estimate, mean, spread
from palaestra.methods.online.ddpg import DDPG
from palaestra.methods.online.ppo import PPO
from palaestra.methods.online.sac import SAC
from palaestra.methods.online.td3 import TD3
from palaestra.runs.run import Run

SOLVED = -250.0
"""Return on Pendulum-v1 that every seed must exceed; a random policy has about -1200."""
REWARD_SCALES = (0.1, 1.0, 10.0)
FIXED = (0.01, 0.2, 5.0)
SMALL_TASKS = {"Pendulum-v1": (10_000, -1.0), "HalfCheetah-v5": (20_000, -6.0)}
"""Steps, and the target entropy -dim(A)."""
TEMPERATURES = {"learned": None, **{f"alpha {alpha:g}": alpha for alpha in FIXED}}

SMALL_NET = {"lr": 1e-3, "network": (64, 64), "batch_size": 128, "buffer_size": 20_000, "warmup_steps": 1_000}


def measure(run: Run) -> dict[str, float]:
    """Policy entropy and temperature over the last tenth of the logged updates, for methods that log them."""
    found = {}
    for name in ("entropy", "alpha"):
        logged = [row[f"policy/{name}"] for row in run.metrics if f"policy/{name}" in row]
        if logged:
            found[name] = float(np.mean(logged[-max(1, len(logged) // 10) :]))
    return found


def small_arms() -> dict[str, Arm]:
    arms: dict[str, Arm] = {}
    for task, (steps, _) in SMALL_TASKS.items():
        for scale in REWARD_SCALES:
            for label, alpha in TEMPERATURES.items():
                method = SAC(**SMALL_NET, reward_scale=scale, alpha=alpha)
                arms[f"{task} {label} x{scale:g}"] = Arm(method, task, steps, seeds=5)
    baselines = {
        "td3": TD3(**SMALL_NET),
        "ddpg": DDPG(**SMALL_NET),
        "ppo": PPO(lr=1e-3, network=(64, 64), num_envs=4, rollout_steps=128),
    }
    steps, _ = SMALL_TASKS["Pendulum-v1"]
    arms |= {f"Pendulum-v1 {label}": Arm(method, "Pendulum-v1", steps, 5) for label, method in baselines.items()}
    return arms


def worst(*arms: np.ndarray) -> float:
    """The lowest of the arms' means. Unlike their spread it does not favour what fails alike at every scale."""
    return float(min(sample.mean() for sample in arms))


def small_verdict(records: Records) -> list[Finding]:
    returns = records.final("Pendulum-v1 learned x1")
    findings = [
        Finding(
            f"Pendulum-v1: with a learned temperature every seed ends above {SOLVED:g}",
            bool(returns.min() > SOLVED),
            {"return": mean(returns), "lowest": estimate(np.min, returns)},
        )
    ]
    for task in SMALL_TASKS:
        scaled = {
            label: [records.final(f"{task} {label} x{scale:g}") for scale in REWARD_SCALES] for label in TEMPERATURES
        }
        ours, low = estimate(spread, *scaled["learned"]), estimate(worst, *scaled["learned"])
        for label in list(TEMPERATURES)[1:]:
            theirs, their_low = estimate(spread, *scaled[label]), estimate(worst, *scaled[label])
            findings += [
                Finding(
                    f"{task}: over reward scales 0.1, 1, 10 the return varies less with a learned temperature than with {label}",
                    ours.value < theirs.value,
                    {"spread learned": ours, f"spread {label}": theirs},
                ),
                Finding(
                    f"{task}: at its worst reward scale a learned temperature returns more than {label} at its own",
                    low.value > their_low.value,
                    {"worst learned": low, f"worst {label}": their_low},
                ),
            ]
    for task, (_, target) in SMALL_TASKS.items():
        for scale in REWARD_SCALES:
            entropy = mean(records.measure(f"{task} learned x{scale:g}", "entropy"))
            findings.append(
                Finding(
                    f"{task}, rewards x{scale:g}: the entropy ends within 0.5 of its target {target:g}",
                    abs(entropy.value - target) < 0.5,
                    {"entropy": entropy},
                )
            )
    return findings


PAPER_STEPS = {
    "Hopper-v5": 1_000_000,
    "Walker2d-v5": 3_000_000,
    "HalfCheetah-v5": 3_000_000,
    "Ant-v5": 3_000_000,
    "Humanoid-v5": 10_000_000,
}
TUNED = {"Humanoid-v5": 0.05}
"""The temperature tuned by hand: 1 / (the reward scale of the first SAC paper, 5, or 20 on Humanoid)."""
HARD = ("Ant-v5", "Humanoid-v5")


def paper_arms() -> dict[str, Arm]:
    arms: dict[str, Arm] = {}
    for task, steps in PAPER_STEPS.items():
        methods = {
            "learned": SAC(),
            "tuned": SAC(alpha=TUNED.get(task, 0.2)),
            "td3": TD3(),
            "ddpg": DDPG(),
            "ppo": PPO(normalise_obs=True, normalise_reward=True),
        }
        arms |= {f"{label} {task}": Arm(method, task, steps, seeds=5) for label, method in methods.items()}
    return arms


def paper_verdict(records: Records) -> list[Finding]:
    findings = []
    for task in PAPER_STEPS:
        ours = records.final(f"learned {task}")
        tuned = records.final(f"tuned {task}")
        findings.append(
            Finding(
                f"{task}: a learned temperature reaches 90% of what the one tuned by hand does",
                bool(ours.mean() >= 0.9 * tuned.mean()),
                {"learned": mean(ours), "tuned": mean(tuned)},
            )
        )
        margin = 1.0 if task in HARD else 0.9
        for baseline in ("td3", "ddpg", "ppo"):
            theirs = records.final(f"{baseline} {task}")
            relation = "ends above" if task in HARD else "reaches 90% of"
            findings.append(
                Finding(
                    f"{task}: SAC {relation} {baseline}",
                    bool(ours.mean() > margin * theirs.mean()),
                    {"difference": difference(ours, theirs)},
                )
            )
    return findings


claim = Claim(
    name="sac",
    paper=SAC.paper,
    sentence="The temperature that SAC learns serves at every reward scale, where a fixed one must be tuned to it.",
    scales={
        "small": Scale("135 short runs on two tasks, about 40 minutes on two free cores", small_arms(), small_verdict),
        "paper": Scale("125 runs of 1 to 10 million steps on MuJoCo, about 60 GPU-days", paper_arms(), paper_verdict),
    },
    measure=measure,
)
