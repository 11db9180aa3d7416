"""AILBoost: boosting past policies into an ensemble imitates from one demonstration, as DAC does, where cloning cannot.

Small scale: Pendulum-v1 and one expert episode of 200 steps. Behaviour cloning has never seen a way back from its first error;
adversarial imitation practises. AILBoost and DAC have the same soft actor-critic. The ensemble is judged with a larger
boosting rate: after the 14 rounds that there are, the paper's rate leaves half of the weight to the first learner, which has
learnt nothing.
Paper scale: state tasks of the DeepMind Control suite with one demonstration, against DAC and cloning.
"""

from __future__ import annotations

from palaestra.claims.claim import Arm, Claim, Finding, Records, Scale, difference, mean
from palaestra.methods.imitation.ailboost import AILBoost
from palaestra.methods.imitation.dac import DAC
from palaestra.methods.offline.bc import BC
from palaestra.runs.run import Run

TASK = "local:Pendulum-v1/expert"
SOLVED, FAILED = -500.0, -1000.0
"""Mean returns on Pendulum-v1 that imitation must exceed and cloning must not; the demonstration has -121, a random policy about
-1200."""
STEPS = 12_000

HOST = {
    "lr": 1e-3,
    "gamma": 0.98,
    "network": (64, 64),
    "batch_size": 256,
    "buffer_size": 20_000,
    "warmup_steps": 1_000,
    "steps_per_round": 2,
    "updates_per_round": 2,
}
ROUNDS = {"boost_every": 400, "learner_samples": 400, "discriminator_lr": 1e-3}


def measure(run: Run) -> dict[str, float]:
    """The return of the policy that was learning when training ended, whatever was evaluated before."""
    method = run.method
    if not isinstance(method, AILBoost):
        return {}
    return {"last policy": run.task.evaluate(method.actor, episodes=20, seed=run.seed).mean}


def small_arms() -> dict[str, Arm]:
    return {
        "ailboost, last policy": Arm(AILBoost(**HOST, **ROUNDS, deploys="last"), TASK, STEPS),
        "ailboost, ensemble": Arm(AILBoost(**HOST, **ROUNDS, boosting_rate=0.25), TASK, STEPS),
        "dac": Arm(DAC(**HOST, discriminator_lr=3e-4, discriminator_network=(64, 64)), TASK, STEPS),
        "bc": Arm(BC(network=(64, 64), lr=1e-3, demonstrations=1), TASK, updates=3_000),
    }


def small_verdict(records: Records) -> list[Finding]:
    cloned = records.final("bc")
    findings = [
        Finding(
            f"Pendulum-v1, one demonstration: {name} ends above {SOLVED:g} on average",
            bool(records.final(arm).mean() > SOLVED),
            {"return": mean(records.final(arm))},
        )
        for name, arm in (("AILBoost's last policy", "ailboost, last policy"), ("DAC", "dac"))
    ]
    ahead = difference(records.final("ailboost, ensemble"), cloned)
    return [
        *findings,
        Finding(
            f"Pendulum-v1, one demonstration: cloning stays below {FAILED:g} on average",
            bool(cloned.mean() < FAILED),
            {"return": mean(cloned)},
        ),
        Finding(
            "Pendulum-v1, one demonstration: AILBoost's ensemble is ahead of cloning, by its whole interval",
            ahead.low > 0,
            {"difference": ahead},
        ),
    ]


PAPER_TASKS = {
    f"local:shimmy:dm_control/{name}-v0/expert": steps
    for name, steps in {
        "walker-walk": 1_000_000,
        "cheetah-run": 1_000_000,
        "ball_in_cup-catch": 500_000,
        "quadruped-walk": 2_000_000,
        "humanoid-stand": 5_000_000,
    }.items()
}
PAPER_HOST = {
    "lr": 1e-4,
    "network": (1024, 1024),
    "batch_size": 1024,
    "warmup_steps": 5_000,
    "steps_per_round": 2,
    "discriminator_lr": 1e-4,
    "discriminator_network": (64, 64),
    "discriminator_activation": "relu",
    "bounded": True,
}


def paper_arms() -> dict[str, Arm]:
    arms: dict[str, Arm] = {}
    for task, steps in PAPER_TASKS.items():
        arms[f"ailboost {task}"] = Arm(AILBoost(), task, steps)
        arms[f"dac {task}"] = Arm(DAC(**PAPER_HOST), task, steps)
        arms[f"bc {task}"] = Arm(BC(demonstrations=1), task, updates=100_000)
    return arms


def paper_verdict(records: Records) -> list[Finding]:
    findings = []
    for task in PAPER_TASKS:
        ours = records.final(f"ailboost {task}")
        for baseline, share in (("dac", 0.95), ("bc", 1.0)):
            theirs = records.final(f"{baseline} {task}")
            relation = "is ahead of" if share == 1 else f"reaches {share:.0%} of"
            findings.append(
                Finding(
                    f"{task}: AILBoost {relation} {baseline}",
                    bool(ours.mean() > share * theirs.mean()),
                    {"difference": difference(ours, theirs)},
                )
            )
    return findings


claim = Claim(
    name="ailboost",
    paper=AILBoost.paper,
    sentence=(
        "From one demonstration, an ensemble of boosted past policies imitates as well as DAC's single policy, where "
        "behaviour cloning fails."
    ),
    scales={
        "small": Scale("20 short runs on Pendulum-v1, about 5 minutes on two free cores", small_arms(), small_verdict),
        "paper": Scale(
            "75 runs of up to 5 million steps on the DeepMind Control suite (dm_control and shimmy), about 60 GPU-days",
            paper_arms(),
            paper_verdict,
        ),
    },
    measure=measure,
)
