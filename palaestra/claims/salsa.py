"""SALSA: held to the average of two starts, PPO goes further at the same weight than held to its own start.

Small scale, digits to be sorted, in two regimes. Same errors: two models fine-tuned on answers of which 35% of the digits are
drawn anew, in different orders; the soup is no better than either, and no gain is claimed. Complementary errors: a base model
imitates digits one too high at all places, then one branch goes on with errors at places 3 and 4 alone, the other at 1 and 2. PPO
from the first branch, at two weights of the divergence, held to the first branch, to the second, or to their soup.
Paper scale: two fine-tunings of Gemma-2B, PPO at three weights.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from palaestra.claims.claim import Arm, Claim, Finding, Records, Scale, above, mean
from palaestra.core.experience import Experience
from palaestra.language.policy import LanguagePolicy
from palaestra.language.soups import barrier, scores_on_line
from palaestra.language.tasks.noisy_sort import NoisySort
from palaestra.methods.language.ppo_lm import PPOLM
from palaestra.methods.language.sft import SFT
from palaestra.methods.preference.reward_model import RewardModelling
from palaestra.methods.preference.salsa import SALSA
from palaestra.runs.run import Run

TASK = "noisy-sort"
SEEDS = 5
ROUNDS, PASSES, PARTS = 25, 4, 4
"""Rounds of answers, passes over each, and gradient steps in a pass."""
WEIGHTS = (0.05, 0.2)
"""Weights of the divergence; the second is the strong one."""
REGIMES = ("same", "apart")
CLOSE = 0.01
"""By how much SALSA may fall short of PPO, each at its best weight, where the soup is no better than its models."""
FLAT = 0.02
"""Nats a token by which the loss may rise on the line between models that err alike."""
SPOILT = {"biased": True}
LINED = 200
"""Held-out prompts at each place of the line."""


def start_arms() -> dict[str, Arm]:
    sft = SFT(model="tiny-48x2")

    def arm(updates: int, begins_with: str | None = None, **settings: Any) -> Arm:
        return Arm(sft, TASK, updates=updates, seeds=SEEDS, settings=settings, begins_with=begins_with)

    return {
        "same, base": arm(300),
        "same, A": arm(300, "same, base", seed=1),
        "same, B": arm(300, "same, base", seed=2),
        "apart, base": arm(1300, **SPOILT),
        "apart, A": arm(250, "apart, base", **SPOILT, places=(3, 4), seed=1),
        "apart, B": arm(250, "apart, base", **SPOILT, places=(1, 2), seed=2),
    }


def small_arms() -> dict[str, Arm]:
    host: dict[str, Any] = {"model": "tiny-48x2", "prompts": 128, "epochs": PASSES, "minibatches": PARTS, "lr": 3e-4}
    arms = start_arms()
    for regime in REGIMES:
        first, second = f"{regime}, A", f"{regime}, B"
        settings = SPOILT if regime == "apart" else {}
        for weight in WEIGHTS:
            plain = PPOLM(**host, kl_weight=weight)
            shared: dict[str, Any] = {
                "updates": ROUNDS * PASSES * PARTS,
                "seeds": SEEDS,
                "settings": settings,
                "begins_with": first,
            }
            arms[f"{regime}, held to A, {weight:g}"] = Arm(plain, TASK, **shared)
            held = replace(plain, reference="set by the arm")
            arms[f"{regime}, held to B, {weight:g}"] = Arm(held, TASK, **shared, named={"reference": second})
            salsa = SALSA(**host, kl_weight=weight, other="set by the arm")
            arms[f"{regime}, salsa, {weight:g}"] = Arm(salsa, TASK, **shared, named={"other": second})
    return arms


def measure(run: Run) -> dict[str, float]:
    """Of PPO, how far the policy ends from its reference and from its start; of SALSA once more, what lies between the starts."""
    method, task = run.method, run.task
    if not isinstance(method, PPOLM) or method.anchor is None or not isinstance(task, NoisySort):
        rows = [row for row in run.metrics if "reward/mean" in row]
        names = {"reward/mean": "reward", "answers/kl_reference": "kl"}
        return {
            short: float(np.mean([r[name] for r in rows[-20:] if name in r])) for name, short in names.items() if rows
        }
    start = LanguagePolicy.make(method.model)
    found = {
        "kl to the reference": divergence(method.language_policy, method.anchor.policy, task, run.seed),
        "kl to the start": divergence(method.language_policy, start, task, run.seed),
    }
    if isinstance(method, SALSA) and method.kl_weight == WEIGHTS[-1]:
        other = LanguagePolicy.make(method.other)
        line = scores_on_line(start, other, task, LINED, run.seed)
        found |= {f"score at {share:g}": score for share, score in line.items()}
        found["barrier"] = barrier(start, other, task.rows("test")[:LINED]).height
    return found


def divergence(policy: LanguagePolicy, other: LanguagePolicy, task: NoisySort, seed: int) -> float:
    """KL(policy || other) of whole answers, in nats, from samples to held-out prompts."""
    samples, _ = task.answered(policy, LINED, seed)
    parts = [Experience(action=s.ids, mask=s.mask, segment=torch.full_like(s.ids, i)) for i, s in enumerate(samples)]

    own, theirs = (float(torch.cat(by.logps(parts)).sum()) for by in (policy, other))
    return (own - theirs) / len(samples)


def small_verdict(records: Records) -> list[Finding]:
    strong = f"{WEIGHTS[-1]:g}"

    def best(regime: str, held: str) -> np.ndarray:
        return max((records.final(f"{regime}, {held}, {w:g}") for w in WEIGHTS), key=lambda x: float(x.mean()))

    height = records.measure(f"same, salsa, {strong}", "barrier")
    line = {a: records.measure(f"apart, salsa, {strong}", f"score at {a:g}") for a in (0.0, 0.5, 1.0)}
    apart = {held: f"apart, {held}, {strong}" for held in ("salsa", "held to A", "held to B")}
    return [
        above(
            f"same errors: SALSA at its best weight is at most {CLOSE} behind PPO at its",
            best("same", "salsa"),
            best("same", "held to A"),
            -CLOSE,
        ),
        Finding(
            f"same errors: the loss rises by at most {FLAT} nats on the line between the starts",
            height.mean() <= FLAT,
            {"barrier": mean(height)},
        ),
        above("complementary errors: the soup scores higher than the first start", line[0.5], line[0.0]),
        above("complementary errors: the soup scores higher than the second", line[0.5], line[1.0]),
        *(
            above(
                f"complementary errors, weight {strong}: SALSA ends above PPO {held}",
                records.final(apart["salsa"]),
                records.final(apart[held]),
            )
            for held in ("held to A", "held to B")
        ),
        above(
            f"complementary errors, weight {strong}: SALSA ends further from its start than PPO held to it",
            records.measure(apart["salsa"], "kl to the start"),
            records.measure(apart["held to A"], "kl to the start"),
        ),
    ]


PAPER_WEIGHTS = (0.01, 0.05, 0.2)


def paper_arms() -> dict[str, Arm]:
    base = "google/gemma-2b"
    data = {"data": "HuggingFaceH4/ultrachat_200k", "split": "train_sft", "faulty": "skip"}
    prompts = {"data": "trl-lib/ultrafeedback_binarized", "faulty": "skip", "limit": 512}
    sft = SFT(model=base, lr=2e-5, batch_size=128, warmup=100, recompute=True)
    arms = {
        "A": Arm(sft, "prompts", updates=1600, seeds=1, settings=data),
        # Other rows are held out, and so the others come in another order.
        "B": Arm(sft, "prompts", updates=1600, seeds=1, settings={**data, "held_out": 0.05}),
        "reward": Arm(
            RewardModelling(model=base, lr=1e-5, warmup=30, prompts=64, recompute=True),
            "prompts",
            updates=950,
            seeds=1,
            settings=prompts,
        ),
    }
    for weight in PAPER_WEIGHTS:
        host: dict[str, Any] = {
            "model": base,
            "prompts": 512,
            "minibatches": 8,
            "lr": 1e-6,
            "value_lr": 1e-5,
            "kl_weight": weight,
            "reward_model": "set by the arm",
            "critic_from": "reward-model",
            "recompute": True,
        }
        common: dict[str, Any] = {"updates": 960, "seeds": 1, "settings": prompts, "begins_with": "A"}
        named = {"reward_model": "reward"}
        arms[f"ppo, {weight:g}"] = Arm(PPOLM(**host), "prompts", **common, named=named)
        arms[f"salsa, {weight:g}"] = Arm(
            SALSA(**host, other="set by the arm"), "prompts", **common, named={**named, "other": "B"}
        )
    return arms


def paper_verdict(records: Records) -> list[Finding]:
    found = {
        name: max((records.measure(f"{name}, {w:g}", "reward") for w in PAPER_WEIGHTS), key=lambda x: float(x.mean()))
        for name in ("salsa", "ppo")
    }
    return [
        above(
            "on the same prompts SALSA at its best weight has a higher reward than PPO at its",
            found["salsa"],
            found["ppo"],
        )
    ]


claim = Claim(
    name="salsa",
    paper=SALSA.paper,
    sentence="Held to the average of two starts that err differently, PPO reaches more at a strong weight of the divergence than "
    "held to either; where they err alike it reaches as much.",
    scales={
        "small": Scale("90 runs of tiny models, about 15 minutes on two free cores", small_arms(), small_verdict),
        "paper": Scale(
            "9 runs of google/gemma-2b on HuggingFaceH4/ultrachat_200k and trl-lib/ultrafeedback_binarized, about a day each on "
            "8 GPUs",
            paper_arms(),
            paper_verdict,
        ),
    },
    measure=measure,
)
