"""TRPA: pairs of answers on different levels, won more steeply by right ones, and a trust region learn as well as rewards do.

Small scale, bandit: 64 contexts and 50 arms in text, of which 4% are on level 1, from random weights; GRPO on the levels'
scores, and online DPO on the same pairs, with one update for each batch of answers and with four. Small scale, puzzles: two
people, knights or knaves, after demonstrations of which a third is spoilt; puzzles of three people are asked at the end, too.
Paper scale: Qwen2.5-7B-Instruct-1M on puzzles of three people.
"""

from __future__ import annotations

import numpy as np
import torch

from palaestra.claims.claim import Arm, Claim, Finding, Records, Scale, difference
from palaestra.language.tasks.bandit import Bandit
from palaestra.language.tasks.knights import Knights
from palaestra.methods.language.grpo import GRPO
from palaestra.methods.language.rounds import Rounds
from palaestra.methods.language.sft import SFT
from palaestra.methods.language.trpa import ODPO, TRPA
from palaestra.runs.run import Run

BANDITS, KNIGHTS = "palaestra.language.tasks.bandit:Bandit", "palaestra.language.tasks.knights:Knights"
BANDIT = {"contexts": 64, "arms": 50, "worth": "levels", "share": 0.04, "habit": 0.0}
SPOILT = {"noise": 0.35}
UPDATES = {"one update": 1, "four updates": 4}
"""Updates on each batch of answers."""
BETTER, CLOSE = 0.1, 0.03
"""By how much puzzles solved must exceed those after the demonstrations, and may fall short of GRPO's."""
ASKED = 400
"""Puzzles at the end."""


def methods(common: Rounds) -> dict[str, Rounds]:
    """The methods that are compared, which share all that they can."""
    names = ("model", "prompts", "group", "lr", "epochs", "max_tokens")
    shared = {name: getattr(common, name) for name in names}
    return {"trpa": TRPA(**shared), "grpo": GRPO(**shared, kl_weight=0.001), "odpo": ODPO(**shared)}


def small_arms() -> dict[str, Arm]:
    arms: dict[str, Arm] = {}
    for label, epochs in UPDATES.items():
        host = Rounds(model="tiny-64x1", prompts=16, group=16, lr=3e-3, epochs=epochs)
        for name, method in methods(host).items():
            arms[f"{name}, bandit, {label}"] = Arm(method, BANDITS, updates=100 * epochs, seeds=3, settings=BANDIT)
    arms["base, puzzles"] = Arm(SFT(lr=3e-3), KNIGHTS, updates=400, seeds=2, settings=SPOILT)
    for name, method in methods(Rounds(prompts=8, group=16, lr=1e-3, epochs=2)).items():
        arms[f"{name}, puzzles"] = Arm(
            method, KNIGHTS, updates=120, seeds=2, settings=SPOILT, begins_with="base, puzzles"
        )
    return arms


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
        begun = run.task.probabilities(run.method.reference.policy)  # type: ignore[union-attr]
        found["level 1"] = float((probability * best).sum(-1).mean())
        found["ratio of level 1"] = float((probability.log() - begun.log())[best].mean())
        found["ratio of others"] = float((probability.log() - begun.log())[~best].mean())
        return found
    for people in (2, 3):
        task = Knights(people=people)
        rows = task.rows("test")[:ASKED]
        answers = policy.answer(rows, max_tokens=task.max_tokens, seed=run.seed)  # type: ignore[attr-defined]
        level = torch.tensor([task.level(s.text, s.row) for s in answers])
        found |= {f"{people} people, level {k}": float((level == k).float().mean()) for k in (1, 2, 3, 4)}
    return found


def small_verdict(records: Records) -> list[Finding]:
    findings = []

    def above(sentence: str, name: str, better: str, worse: str, least: float = 0.0) -> None:
        gap = difference(records.measure(better, name), records.measure(worse, name))
        findings.append(Finding(sentence, gap.value > least, {"difference": gap}))

    for label in UPDATES:
        arms = {name: f"{name}, bandit, {label}" for name in ("trpa", "grpo", "odpo")}
        above(f"bandit, {label}: TRPA makes level 1 likelier than GRPO does", "level 1", arms["trpa"], arms["grpo"])
        above(
            f"bandit, {label}: GRPO makes level 1 likelier than online DPO does", "level 1", arms["grpo"], arms["odpo"]
        )
        for other, called in (("grpo", "GRPO"), ("odpo", "online DPO")):
            sentence = (
                f"bandit, {label}: arms of level 1 gain more, on the mean of their log-ratios, by TRPA than by {called}"
            )
            above(sentence, "ratio of level 1", arms["trpa"], arms[other])
        winners, losers = (
            {n: records.measure(a, key) for n, a in arms.items()} for key in ("ratio of level 1", "ratio of others")
        )
        for other, called in (("grpo", "GRPO"), ("odpo", "online DPO")):
            gap = difference(winners["trpa"] - losers["trpa"], winners[other] - losers[other])
            sentence = f"bandit, {label}: TRPA sets level 1 apart from the rest further than {called} does"
            findings.append(Finding(sentence, gap.value > 0, {"difference": gap}))
    right, bad = "2 people, level 1", "2 people, level 4"
    for name, called in (("trpa", "TRPA"), ("grpo", "GRPO")):
        sentence = f"puzzles: {called} solves {BETTER} more of them than its start"
        above(sentence, right, f"{name}, puzzles", "base, puzzles", BETTER)
    above(f"puzzles: TRPA solves no more than {CLOSE} less than GRPO", right, "trpa, puzzles", "grpo, puzzles", -CLOSE)
    above("puzzles: TRPA leaves fewer answers with bad tags than its start", bad, "base, puzzles", "trpa, puzzles")
    return findings


def paper_arms() -> dict[str, Arm]:
    host = Rounds(model="Qwen/Qwen2.5-7B-Instruct-1M", prompts=4, group=16, lr=4e-7, max_tokens=4096)
    settings = {"people": 3, "instructions": True}
    return {
        f"{name}, puzzles": Arm(method, KNIGHTS, updates=20_000, seeds=1, settings=settings)
        for name, method in methods(host).items()
    }


def paper_verdict(records: Records) -> list[Finding]:
    findings = []
    for other in ("grpo", "odpo"):
        gap = difference(records.final("trpa, puzzles"), records.final(f"{other}, puzzles"))
        findings.append(Finding(f"three people: TRPA ends above {other}", gap.value > 0, {"difference": gap}))
    return findings


claim = Claim(
    name="trpa",
    paper=TRPA.paper,
    sentence="Preferences between levels, steeper where a right answer wins, with a trust region learn more than GRPO does from "
    "scores, and more than online DPO does from the same pairs.",
    scales={
        "small": Scale("26 short runs of tiny models, about 20 minutes on two free cores", small_arms(), small_verdict),
        "paper": Scale(
            "3 runs of a 7B model on puzzles of three people, about 10 GPU-days each", paper_arms(), paper_verdict
        ),
    },
    measure=measure,
)
