"""Reg-GRPO: a regression of standardised log-ratios needs no clip, and prompts made easier or harder leave fewer groups without
anything to learn.

Small scale: a bandit of 16 contexts and 50 arms in text, rewards u³, of which each round's answers are used for many updates.
How aggressive is decided by clipped GRPO alone, before anything is compared: of the learning rates 0.001, 0.003, 0.01 and 0.03,
the smallest at which its log-ratios end a round at a root mean square of 1 or more over the 30 rounds (the clip is at 0.18),
with 16 updates a round and with 4; and the larger of the two with 16. In `reg-grpo-sorting`: one to eight digits to sort, after
a demonstration that leaves short ones easy and long ones hard. In `reg-grpo-clips`: films of a moving square, half of the
questions trivial, for a model from scratch that sees.
Paper scale: the paper's group, window and divergence on mathematics in text, and its model on the same films, enlarged; the
paper's own films are not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from palaestra.claims.claim import Arm, Claim, Finding, Records, Scale, above, difference, mean
from palaestra.language.tasks.bandit import Bandit
from palaestra.methods.language.grpo import GRPO
from palaestra.methods.language.rebel import REBEL
from palaestra.methods.language.reg_grpo import AugmentedGRPO, RegGRPO
from palaestra.methods.language.rounds import Rounds
from palaestra.methods.language.sft import SFT
from palaestra.runs.run import Run

REUSE = {"lr 0.003, 16 updates": (3e-3, 16), "lr 0.01, 4 updates": (1e-2, 4), "lr 0.01, 16 updates": (1e-2, 16)}
"""Learning rates, and updates on each round's answers."""
ROUNDS = 30
BANDITS = "bandit"
BANDIT = {"contexts": 16, "arms": 50, "worth": "cubed"}
DIGITS = {"least": 1, "most": 8}
"""Settings of the tasks."""
UNCLIPPED, AUGMENTED = "grpo without clip", "reg-grpo, augmented"


def methods(common: Rounds) -> dict[str, Rounds]:
    """The methods that are compared, by name, which share all that they can."""
    shared = {
        name: getattr(common, name) for name in ("model", "prompts", "group", "lr", "epochs", "kl_weight", "max_tokens")
    }
    return {
        "grpo": GRPO(**shared),
        UNCLIPPED: GRPO(**shared, clip=None),
        "rebel": REBEL(**shared),
        "reg-grpo": RegGRPO(**shared),
    }


def small_arms() -> dict[str, Arm]:
    arms: dict[str, Arm] = {}
    for label, (lr, epochs) in REUSE.items():
        for name, method in methods(Rounds(model="tiny-32x1", lr=lr, epochs=epochs)).items():
            arms[f"{name}, {label}"] = Arm(method, BANDITS, updates=ROUNDS * epochs, seeds=4, settings=BANDIT)
    return arms


def measure(run: Run) -> dict[str, float]:
    """What the final policy earns when it samples, in the bandit; how many groups had nothing to learn, elsewhere."""
    found = {
        name: float(np.mean([row[key] for row in run.metrics if key in row]))
        for name, key in (("without spread", "groups/without_spread"), ("divergence", "policy/kl"))
        if any(key in row for row in run.metrics)
    }
    if isinstance(run.task, Bandit):
        earned = run.task.probabilities(run.method.policy()) * run.task.rewards  # type: ignore[union-attr, arg-type]
        found["worth"] = float(earned.sum(-1).mean())
    return found


def small_verdict(records: Records) -> list[Finding]:
    findings = []
    for label in REUSE:
        worth = {name: records.measure(f"{name}, {label}", "worth") for name in ("reg-grpo", "grpo", UNCLIPPED)}
        for better, worse, word in (("reg-grpo", "grpo", "no less than"), ("grpo", UNCLIPPED, "more than")):
            gap = difference(worth[better], worth[worse])
            held = gap.value >= 0 if word == "no less than" else gap.value > 0
            findings.append(Finding(f"{label}: {better} earns {word} {worse}", held, {"difference": gap}))
    return findings


def fewer_without_spread(records: Records, task: str) -> Finding:
    """That augmentation leaves a smaller share of groups without anything to learn, on every seed."""
    with_it, without = (records.measure(f"{name}, {task}", "without spread") for name in (AUGMENTED, "reg-grpo"))
    sentence = f"{task}: fewer groups are without spread with augmentation than without, on every seed"
    return Finding(sentence, bool((with_it < without).all()), {"difference of shares": mean(without - with_it)})


MATHS = "maths"
PROBLEMS = {"path": "math", "limit": 1024, "chat": True}


def paper_arms() -> dict[str, Arm]:
    host = Rounds(model="Qwen/Qwen2.5-3B-Instruct", lr=1e-6, epochs=4, kl_weight=0.1)
    return {
        f"{name}, mathematics": Arm(method, MATHS, updates=2_000, seeds=3, settings=PROBLEMS)
        for name, method in methods(host).items()
    }


def paper_verdict(records: Records) -> list[Finding]:
    ours = records.final("reg-grpo, mathematics")
    return [
        above(f"{MATHS}: reg-grpo ends above {other}", ours, records.final(f"{other}, mathematics"))
        for other in (UNCLIPPED, "rebel")
    ]


claim = Claim(
    name="reg-grpo",
    paper=RegGRPO.paper,
    sentence="Regression of standardised log-ratios needs no clip: where answers are used often it earns no less than clipped "
    "GRPO, which earns more than GRPO without one.",
    scales={
        "small": Scale(
            "48 short runs on a bandit, about 4 minutes on two free cores",
            small_arms(),
            small_verdict,
        ),
        "paper": Scale(
            "12 runs of Qwen/Qwen2.5-3B-Instruct on mathematics in place of questions about films, 500 rounds each: days of 8 "
            "GPUs; needs the files of MATH in PALAESTRA_DATA (math/train.jsonl, math/test.jsonl)",
            paper_arms(),
            paper_verdict,
        ),
    },
    measure=measure,
)

# -------------------------------------------------------------------------------------------------------------- difficulty


def augmented(host: Rounds) -> dict[str, Rounds]:
    """GRPO and Reg-GRPO, each with and without hints and noise."""
    found = {name: method for name, method in methods(host).items() if name in ("grpo", "reg-grpo")}
    return {
        **found,
        "grpo, augmented": AugmentedGRPO(**found["grpo"].config),
        AUGMENTED: replace(found["reg-grpo"], hints=1.0, noise=1.0),  # type: ignore[call-arg]
    }


def difficulty_arms(task: str, host: Rounds, sft: Arm, updates: int) -> dict[str, Arm]:
    """All of them, after the same demonstration."""
    rest = {
        f"{name}, {task}": Arm(method, task, updates=updates, seeds=3, settings=sft.settings, begins_with="sft")
        for name, method in augmented(host).items()
    }
    return {"sft": sft, **rest}


def difficulty_paper_arms(task: str, model: str, settings: Mapping[str, Any]) -> dict[str, Arm]:
    host = Rounds(model=model, lr=1e-6, epochs=4, kl_weight=0.1)
    return {
        f"{name}, {task}": Arm(method, task, updates=2_000, seeds=3, settings=settings)
        for name, method in augmented(host).items()
    }


sorting = Claim(
    name="reg-grpo-sorting",
    paper=RegGRPO.paper,
    sentence="Hints for hard prompts and noise in easy ones leave fewer groups without spread.",
    scales={
        "small": Scale(
            "15 short runs on sorting digits, about 3 minutes on two free cores",
            difficulty_arms(
                "sorting",
                Rounds(lr=1e-3, epochs=2),
                Arm(SFT(model="tiny-32x2", lr=3e-3), "sorting", updates=300, seeds=3, settings=DIGITS),
                updates=60,
            ),
            lambda records: [fewer_without_spread(records, "sorting")],
        ),
        "paper": Scale(
            "12 runs of Qwen/Qwen2.5-3B-Instruct on mathematics, 500 rounds each: days of 8 GPUs; needs the files of MATH in "
            "PALAESTRA_DATA (math/train.jsonl, math/test.jsonl)",
            difficulty_paper_arms(MATHS, "Qwen/Qwen2.5-3B-Instruct", PROBLEMS),
            lambda records: [fewer_without_spread(records, MATHS)],
        ),
    },
    measure=measure,
)


clips = Claim(
    name="reg-grpo-clips",
    paper=RegGRPO.paper,
    sentence="Hints for hard questions about films and noise on the films of easy ones leave fewer groups without spread.",
    scales={
        "small": Scale(
            "15 short runs of a model that sees, from scratch, about 7 minutes on two free cores",
            difficulty_arms(
                "clips",
                Rounds(lr=1e-3, epochs=2, prompts=8),
                Arm(SFT(model="tiny-video-32x2", lr=3e-3, batch_size=32), "clips", updates=140, seeds=3),
                updates=60,
            ),
            lambda records: [fewer_without_spread(records, "clips")],
        ),
        "paper": Scale(
            "12 runs of the paper's Qwen/Qwen2.5-VL-3B-Instruct on the same films enlarged, 500 rounds each: days of 8 GPUs",
            difficulty_paper_arms("clips", "Qwen/Qwen2.5-VL-3B-Instruct", {"scale": 7, "chat": True, "limit": 512}),
            lambda records: [fewer_without_spread(records, "clips")],
        ),
    },
    measure=measure,
)
