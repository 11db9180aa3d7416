"""PPO-max: on a reward that can be had by rambling, PPO ends with that, and PPO-max learns what was meant.

Small scale: digits to be sorted, from a model that imitates answers of which 35% of the digits are spoilt and 5% do not end. The
reward also pays 0.05 for every token beyond the right answer's five; evaluations do not. PPO as it is, with the divergence from
its start in the reward, and PPO-max, for the same answers and updates; the latter two at several weights of the divergence, of
which the one with the best answers counts.
Paper scale: a 7B model on HH-RLHF, with a reward model of the same size that begins as the critic.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from palaestra.claims.claim import Arm, Claim, Finding, Records, Scale, above, arms_of, difference, mean
from palaestra.methods.language.sft import SFT
from palaestra.methods.preference.ppo_max import PPOMax
from palaestra.methods.preference.reward_model import RewardModelling
from palaestra.runs.run import Run

TASK = "sort-len"
SEEDS = 5
ROUNDS = 60
CRITIC_ROUNDS = 5
OFF: dict[str, Any] = {
    "kl_weight": 0.0,
    "reward_scale": "none",
    "reward_clip": None,
    "value_clip": None,
    "critic_rounds": 0,
    "standardise": True,
    "ptx_weight": 0.0,
}
"""PPO-max without what makes it that."""
KL_WEIGHT, OTHERS = 0.05, (0.1, 0.2, 0.3)
"""Weights of the divergence with PPO: the shipped scripts', and more."""
MAX_KL_WEIGHT, MAX_OTHERS = 0.3, (0.1, 1.0)
"""The same with PPO-max, on whose scale of rewards they weigh less."""
NEAR_CAP = 14.0
"""Tokens of 16 that answers have which live on length."""
TIMES = 5.0
"""How many times the divergence of PPO must be PPO-max's."""
LATE = 0.1
"""The share of a run, at its end, whose rounds are averaged."""


def small_arms() -> dict[str, Arm]:
    host: dict[str, Any] = {"model": "tiny-48x2", "prompts": 128, "minibatches": 4, "lr": 3e-4, "value_lr": 1e-3}
    full = PPOMax(
        **host, kl_weight=MAX_KL_WEIGHT, reward_clip=0.8, value_clip=0.2, ptx_weight=0.1, critic_rounds=CRITIC_ROUNDS
    )
    plain = replace(full, **OFF)
    methods = {"ppo": plain, "ppo with kl": replace(plain, kl_weight=KL_WEIGHT), "ppo-max": full}
    methods |= {f"ppo with kl, {weight:g}": replace(plain, kl_weight=weight) for weight in OTHERS}
    methods |= {f"ppo-max, {weight:g}": replace(full, kl_weight=weight) for weight in MAX_OTHERS}
    updates = (CRITIC_ROUNDS + ROUNDS) * full.minibatches
    arms = {"start": Arm(SFT(model="tiny-48x2"), TASK, updates=1000, seeds=SEEDS)}
    return arms | arms_of(methods, TASK, updates=updates, seeds=SEEDS, begins_with="start")


def measure(run: Run) -> dict[str, float]:
    """Of the last rounds, the reward that was learnt from, how long answers were, and how far the policy had gone; and the best
    evaluation on the way."""
    names = {
        "reward/mean": "proxy",
        "reward/gold": "gold",
        "answers/length": "length",
        "answers/kl_reference": "kl",
        "answers/truncated": "truncated",
    }
    rows = [row for row in run.metrics if "reward/mean" in row]
    late = rows[-max(1, round(LATE * len(rows))) :]
    found = {
        short: float(np.mean([row[name] for row in late])) for name, short in names.items() if late and name in late[-1]
    }
    returns = [row["evaluation/return"] for row in run.metrics if "evaluation/return" in row]
    return found | ({"best": max(returns)} if returns else {})


def small_verdict(records: Records) -> list[Finding]:
    best = {name: records.best(records.arms(name)) for name in ("ppo with kl", "ppo-max")}
    at = {"start": "start", "ppo": "ppo", **best}
    gold = {name: records.final(arm) for name, arm in at.items()}
    proxy, length, kl = (
        {name: records.measure(at[name], of) for name in ("ppo", "ppo-max")} for of in ("proxy", "length", "kl")
    )
    ratio = float(kl["ppo"].mean() / kl["ppo-max"].mean()) if kl["ppo-max"].mean() > 0 else math.inf
    return [
        above("PPO reaches a higher reward than PPO-max", proxy["ppo"], proxy["ppo-max"]),
        Finding(
            f"PPO's answers end with {NEAR_CAP:g} tokens or more of 16 in every seed",
            bool((length["ppo"] >= NEAR_CAP).all()),
            {"length": mean(length["ppo"])},
        ),
        Finding(
            f"PPO goes {TIMES:g} times as far from its start as PPO-max",
            ratio > TIMES,
            {"ppo": mean(kl["ppo"]), "ppo-max": mean(kl["ppo-max"])},
        ),
        Finding(
            "PPO's answers are worse in the end than those it began with",
            gold["ppo"].mean() < gold["start"].mean(),
            {"difference": difference(gold["ppo"], gold["start"])},
        ),
        above("PPO-max's answers are better in the end than those it began with", gold["ppo-max"], gold["start"]),
        above(
            f"PPO-max's answers ({best['ppo-max']}) are better in the end than those of PPO with the divergence alone "
            f"({best['ppo with kl']})",
            gold["ppo-max"],
            gold["ppo with kl"],
        ),
    ]


def paper_arms() -> dict[str, Arm]:
    base = "huggyllama/llama-7b"
    host: dict[str, Any] = {
        "model": base,
        "prompts": 128,
        "minibatches": 4,
        "lr": 5e-7,
        "value_lr": 1.65e-6,
        "warmup": 400,
        "schedule": "inverse-sqrt",
        "temperature": 0.8,
        "top_p": 0.9,
        "repetition_penalty": 1.1,
        "recompute": True,
    }
    full = PPOMax(**host, critic_from="reward-model", reward_model="set by the arm")
    plain = replace(full, **OFF)
    methods = {"ppo": plain, "ppo with kl": replace(plain, kl_weight=0.05), "ppo-max": full}
    arms = {
        "start": Arm(SFT(model=base, lr=9.5e-6, batch_size=32, warmup=300), "hh-rlhf", updates=3000, seeds=1),
        "reward": Arm(
            # At a weight of 1 a sum over hundreds of tokens would leave nothing to the ranking; the code has their mean.
            RewardModelling(
                model=base, lr=5e-6, warmup=100, prompts=64, lm_weight=1.0, lm_average="token-mean", recompute=True
            ),
            "hh-rlhf",
            updates=1000,
            seeds=1,
        ),
    }
    named = {"reward_model": "reward"}
    return arms | arms_of(methods, "hh-rlhf", updates=4000, seeds=1, begins_with="start", named=named)


def paper_verdict(records: Records) -> list[Finding]:
    """What rounds tell; which of two policies people would choose is for `palaestra` no more than for the reward model to say."""
    reward, kl = ({arm: records.measure(arm, name) for arm in ("ppo", "ppo-max")} for name in ("proxy", "kl"))
    accuracy = records.final("reward")
    return [
        Finding(
            "the reward model is right about 60% of held-out pairs of hh-rlhf",
            accuracy.mean() > 0.6,
            {"share": mean(accuracy)},
        ),
        above("PPO goes further from its start than PPO-max", kl["ppo"], kl["ppo-max"]),
        above("PPO's answers have a higher reward than PPO-max's", reward["ppo"], reward["ppo-max"]),
    ]


claim = Claim(
    name="ppo-max",
    paper=PPOMax.paper,
    sentence="On a reward that differs from what is meant, PPO ends with high rewards for bad answers far from its start; "
    "PPO-max stays near it, and its answers are better.",
    scales={
        "small": Scale("45 runs of tiny models, some 20 minutes on two cores", small_arms(), small_verdict),
        "paper": Scale(
            "5 runs of huggyllama/llama-7b on HH-RLHF, about two days each on 8 GPUs; needs its files in PALAESTRA_DATA",
            paper_arms(),
            paper_verdict,
        ),
    },
    measure=measure,
)
