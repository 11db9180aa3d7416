"""TRPA: pairs of answers on different levels, won more steeply by right ones, and a trust region learn as well as rewards do.

Small scale: a bandit of 64 contexts and 50 arms in text, of which 4% are on level 1, from random weights; GRPO on the levels'
scores, and online DPO on the same pairs, with one update for each batch of answers and with four. In `trpa-puzzles`: two
people, knights or knaves, to be told without a thought, after demonstrations of which a third is spoilt.
Paper scale: Qwen2.5-7B-Instruct-1M on puzzles of three people.
"""

from __future__ import annotations

import numpy as np
import torch

from palaestra.claims.claim import Arm, Claim, Finding, Records, Scale, above, arms_of, estimate
from palaestra.language.tasks.bandit import Bandit
from palaestra.language.tasks.knights import Knights
from palaestra.methods.language.grpo import GRPO
from palaestra.methods.language.rounds import Rounds
from palaestra.methods.language.sft import SFT
from palaestra.methods.language.trpa import ODPO, TRPA
from palaestra.runs.run import Run

BANDITS, KNIGHTS = "bandit", "knights"
BANDIT = {"contexts": 64, "arms": 50, "worth": "levels", "share": 0.04, "habit": 0.0}
PUZZLES = {"noise": 0.35, "think": False}
UPDATES = {"one update": 1, "four updates": 4}
"""Updates on each batch of answers."""
ROUNDS = 80
BETTER, CLOSE = 0.1, 0.03
"""By how much puzzles solved must exceed those after the demonstrations, and may fall short of GRPO's."""
BLOWN_UP = 1.0
"""A divergence from the policy that answered, in nats per token, from which on it counts as blown up."""
ASKED = 400
"""Puzzles at the end."""


def methods(common: Rounds) -> dict[str, Rounds]:
    """The methods that are compared, which share all that they can."""
    names = ("model", "prompts", "group", "lr", "epochs")
    shared = {name: getattr(common, name) for name in names}
    return {"trpa": TRPA(**shared), "grpo": GRPO(**shared, kl_weight=0.001), "odpo": ODPO(**shared)}


def bandit_arms() -> dict[str, Arm]:
    arms: dict[str, Arm] = {}
    for label, epochs in UPDATES.items():
        host = Rounds(model="tiny-64x1", prompts=16, group=16, lr=3e-3, epochs=epochs)
        for name, method in methods(host).items():
            arms[f"{name}, {label}"] = Arm(method, BANDITS, updates=ROUNDS * epochs, seeds=3, settings=BANDIT)
    return arms


def puzzle_arms() -> dict[str, Arm]:
    base = Arm(SFT(lr=3e-3), KNIGHTS, updates=400, seeds=3, settings=PUZZLES)
    compared = methods(Rounds(prompts=8, group=16, lr=1e-3, epochs=2))
    return {"base": base} | arms_of(compared, KNIGHTS, updates=160, seeds=3, settings=PUZZLES, begins_with="base")


def measure(run: Run) -> dict[str, float]:
    """Of the bandit, how likely arms of level 1 are, and how much likelier than at first; else what is right when sampled."""
    found = {
        key.replace("/", ", "): float(np.mean([row[key] for row in run.metrics[-20:] if key in row]))
        for key in ("policy/kl", "preference/better", "preference/worse")
        if any(key in row for row in run.metrics[-20:])
    }
    policy = run.policy
    if isinstance(run.task, Bandit):
        best = run.task.levels == 1
        probability = run.task.probabilities(policy)  # type: ignore[arg-type]
        begun = run.task.probabilities(run.method.anchor.policy)  # type: ignore[union-attr]
        found["level 1"] = float((probability * best).sum(-1).mean())
        found["ratio of level 1"] = float((probability.log() - begun.log())[best].mean())
        found["ratio of others"] = float((probability.log() - begun.log())[~best].mean())
        return found
    task = run.evaluated_on
    assert isinstance(task, Knights)
    answers = task.replies(policy, task.rows("test")[:ASKED], run.seed, greedy=False)
    level = torch.tensor([task.level(s.said, s.row) for s in answers])
    return found | {f"level {k}": float((level == k).float().mean()) for k in (1, 2, 3, 4)}


def bandit_verdict(records: Records) -> list[Finding]:
    findings = []
    for label in UPDATES:
        arms = {name: f"{name}, {label}" for name in ("trpa", "grpo", "odpo")}
        right, raised, others = (
            {name: records.measure(arm, key) for name, arm in arms.items()}
            for key in ("level 1", "ratio of level 1", "ratio of others")
        )
        findings += [
            above(f"{label}: TRPA makes level 1 likelier than GRPO does", right["trpa"], right["grpo"]),
            above(f"{label}: GRPO makes level 1 likelier than online DPO does", right["grpo"], right["odpo"]),
        ]
        for other, called in (("grpo", "GRPO"), ("odpo", "online DPO")):
            findings += [
                above(
                    f"{label}: the mean log-ratio of level 1 is higher by TRPA than by {called}",
                    raised["trpa"],
                    raised[other],
                ),
                above(
                    f"{label}: TRPA sets level 1 further apart from the rest than {called} does",
                    raised["trpa"] - others["trpa"],
                    raised[other] - others[other],
                ),
            ]
    return findings


def puzzle_verdict(records: Records) -> list[Finding]:
    right, bad = ({name: records.measure(name, key) for name in puzzle_arms()} for key in ("level 1", "level 4"))
    divergence = records.measure("trpa", "policy, kl")
    return [
        above(f"TRPA solves {BETTER} more puzzles than its start", right["trpa"], right["base"], BETTER),
        above(f"GRPO solves {BETTER} more puzzles than its start", right["grpo"], right["base"], BETTER),
        above(f"TRPA solves no more than {CLOSE} less than GRPO", right["trpa"], right["grpo"], -CLOSE),
        above("TRPA leaves fewer answers with bad tags than its start", bad["base"], bad["trpa"]),
        Finding(
            f"TRPA's divergence from the policy that answered ends below {BLOWN_UP:g} nat per token, on every seed",
            bool((divergence < BLOWN_UP).all()),
            {"largest": estimate(np.max, divergence)},
        ),
    ]


def paper_arms() -> dict[str, Arm]:
    host = Rounds(model="Qwen/Qwen2.5-7B-Instruct-1M", prompts=4, group=16, lr=4e-7)
    settings = {"people": 3, "instructions": True, "limit": 4096}
    named = {f"{name}, puzzles": method for name, method in methods(host).items()}
    return arms_of(named, KNIGHTS, updates=20_000, seeds=1, settings=settings)


def paper_verdict(records: Records) -> list[Finding]:
    ours = records.final("trpa, puzzles")
    return [
        above(f"{KNIGHTS} of three people: TRPA ends above {other}", ours, records.final(f"{other}, puzzles"))
        for other in ("grpo", "odpo")
    ]


PAPER_SCALE = Scale(
    "3 runs of Qwen/Qwen2.5-7B-Instruct-1M on puzzles of three people, about 10 GPU-days each",
    paper_arms(),
    paper_verdict,
)

claim = Claim(
    name="trpa",
    paper=TRPA.paper,
    sentence="Preferences between levels, steeper where a right answer wins, with a trust region learn more than GRPO does from "
    "scores, and more than online DPO does from the same pairs.",
    scales={
        "small": Scale(
            "18 short runs of tiny models, about 8 minutes on two free cores", bandit_arms(), bandit_verdict
        ),
        "paper": PAPER_SCALE,
    },
    measure=measure,
)

puzzles = Claim(
    name="trpa-puzzles",
    paper=TRPA.paper,
    sentence="On knights and knaves TRPA learns about as much as GRPO, and its divergence does not blow up.",
    scales={
        "small": Scale("12 runs of tiny models, about 5 minutes on two free cores", puzzle_arms(), puzzle_verdict),
        "paper": PAPER_SCALE,
    },
    measure=measure,
)
