"""RTO: PPO learns faster where tokens are rewarded by a policy that DPO trained, besides the answer's own reward.

Small scale: digits to be sorted, from a model that imitates answers of which 55% of the digits are one too high, so that its
likeliest answer is wrong. DPO on two of its samples to each of 3000 prompts, ranked by the truth; then PPO on the share of right
places with that policy's log-ratios as rewards of tokens, at two weights, and without; or with them alone; or with their sum as
one number at the end, which has the same information without its place. DPO has had 6000 answers scored, more than PPO's 3840:
so PPO also goes on for as many more rounds, and begins with DPO's policy.
Paper scale: Llama-3-8B on UltraFeedback, after the released script.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from palaestra.claims.claim import Arm, Claim, Finding, Records, Scale, above, arms_of, difference, mean
from palaestra.claims.r_to_q import told
from palaestra.language.judges.reward_model import reward_of
from palaestra.language.tasks.noisy_sort import NoisySort
from palaestra.methods.language.ppo_lm import PPOLM
from palaestra.methods.language.sft import SFT
from palaestra.methods.preference.dpo import DPO
from palaestra.methods.preference.rto import RTO
from palaestra.runs.run import Run

TASK, SETTINGS = "noisy-sort", {"biased": True}
SEEDS = 5
ROUNDS, PASSES, PARTS = 30, 4, 4
"""Rounds of answers, passes over each, and gradient steps in a pass."""
ASKED, DRAWN = 128, 2
"""Answers in a round, and to each prompt that DPO learns from."""
LONGER = ROUNDS + math.ceil(DRAWN * NoisySort.train_rows / ASKED)
"""The rounds in which PPO has as many answers scored as RTO and DPO together."""
TELLS = 0.9
"""How well token rewards must tell wrong digits from right ones (area under the curve)."""


def small_arms() -> dict[str, Arm]:
    common: dict[str, Any] = {
        "model": "tiny-48x2",
        "prompts": ASKED,
        "epochs": PASSES,
        "minibatches": PARTS,
        "lr": 3e-4,
        "kl_weight": 0.05,
    }
    given: dict[str, Any] = {**common, "dpo_model": "set by the arm"}
    shared = {name: RTO.defaults()[name] for name in ("average", "value_clip")}
    methods = {
        "ppo": PPOLM(**common, **shared),
        "rto 0.05": RTO(**given, beta1=0.05, token_clip=0.05),
        "rto 0.2": RTO(**given, beta1=0.2, token_clip=0.2),
        "tokens alone": RTO(**given, beta1=0.2, token_clip=0.2, beta3=0.0),
        "at the end": RTO(**given, beta1=0.2, token_clip=0.2, dense=False),
    }
    dpo = DPO(model="tiny-48x2", drawn=DRAWN, prompts=64, beta=1.0, lr=2e-4, schedule="constant")
    arms = {
        "start": Arm(SFT(model="tiny-48x2"), TASK, updates=1300, seeds=SEEDS, settings=SETTINGS),
        "dpo": Arm(dpo, TASK, updates=300, seeds=SEEDS, settings=SETTINGS, begins_with="start"),
    }

    def add(label: str, method: PPOLM, rounds: int = ROUNDS, begins_with: str = "start", **named: str) -> None:
        updates = rounds * PASSES * PARTS
        arms[label] = Arm(
            method, TASK, updates=updates, seeds=SEEDS, settings=SETTINGS, begins_with=begins_with, named=named
        )

    for label, method in methods.items():
        add(label, method, **({} if label == "ppo" else {"dpo_model": "dpo"}))
    add("ppo longer", methods["ppo"], LONGER)
    add("ppo from dpo", methods["ppo"], begins_with="dpo", reference="start")
    return arms


def measure(run: Run) -> dict[str, float]:
    """The mean score of training's own answers, sampled anew in each round; of DPO, how well its rewards tell wrong digits."""
    rows = [row["reward/mean"] for row in run.metrics if "reward/mean" in row]
    found = {"training": float(np.mean(rows))} if rows else {}
    method = run.method
    if isinstance(method, DPO) and method.anchor is not None and run.task.name.startswith(TASK):
        found["tells"] = told(method.language_policy, method.anchor.policy, run.task, run.seed)["tells"]
    return found


def small_verdict(records: Records) -> list[Finding]:
    training = {
        arm: records.measure(arm, "training") for arm in ("ppo", "rto 0.05", "rto 0.2", "tokens alone", "at the end")
    }
    told = records.measure("dpo", "tells")
    findings = [
        Finding(
            f"DPO's rewards of tokens tell wrong digits from right ones in {TELLS:.0%} of cases, in every seed",
            bool((told > TELLS).all()),
            {"area": mean(told)},
        )
    ]
    for arm in ("rto 0.05", "rto 0.2"):
        findings.append(
            Finding(
                f"{arm} has more right places over training than PPO, in every seed",
                bool((training[arm] > training["ppo"]).all()),
                {"difference": difference(training[arm], training["ppo"])},
            )
        )
    others = {
        "ppo": "PPO",
        "ppo longer": "PPO that has as many answers scored as RTO and DPO together",
        "ppo from dpo": "PPO that begins with DPO's policy",
    }
    return [
        *findings,
        *(
            above(f"{arm} ends above {called}", records.final(arm), records.final(other))
            for other, called in others.items()
            for arm in ("rto 0.05", "rto 0.2")
        ),
        Finding(
            "rewards of tokens alone are worth less over training than with the answer's own",
            training["tokens alone"].mean() < training["rto 0.2"].mean(),
            {"difference": difference(training["tokens alone"], training["rto 0.2"])},
        ),
        above(
            "the same rewards at their tokens are worth more over training than their sum at the end",
            training["rto 0.2"],
            training["at the end"],
        ),
    ]


REWARD_MODEL = "RTO-RL/Llama3.2-1B-RewardModel"
score = reward_of(REWARD_MODEL)
"""The released reward model's."""


def paper_arms() -> dict[str, Arm]:
    base = "OpenRLHF/Llama-3-8b-sft-mixture"
    settings = {
        "data": "trl-lib/ultrafeedback_binarized",
        "reward": "palaestra.claims.rto:score",
        "limit": 1024,
        "faulty": "skip",
    }
    host: dict[str, Any] = {
        "model": base,
        "prompts": 1024,
        "minibatches": 8,
        "lr": 5e-7,
        "value_lr": 9e-6,
        "kl_weight": 0.01,
        "reward_model": REWARD_MODEL,
        "critic_from": "reward-model",
        # The code has a mean and a deviation from the reward model's own file; here they are those of all rewards so far.
        "reward_scale": "standardise",
        "reward_clip": 10.0,
        "recompute": True,
    }
    rto = RTO(**host, dpo_model="RTO-RL/Llama3-8B-DPO", beta1=0.05, token_clip=0.05)
    shared = {name: getattr(rto, name) for name in ("average", "value_clip")}
    methods = {"ppo": PPOLM(**host, **shared), "rto": rto}
    return arms_of(methods, "prompts", updates=480, seeds=1, settings=settings)


def paper_verdict(records: Records) -> list[Finding]:
    return [
        above(
            "on the same prompts RTO has a higher reward over training than PPO",
            records.measure("rto", "training"),
            records.measure("ppo", "training"),
        )
    ]


claim = Claim(
    name="rto",
    paper=RTO.paper,
    sentence="With the log-ratios of a policy that DPO trained as rewards of tokens, PPO learns more from as many answers of its "
    "own, and more than from as many in all.",
    scales={
        "small": Scale("45 runs of tiny models, some 13 minutes on two cores", small_arms(), small_verdict),
        "paper": Scale(
            "2 runs of OpenRLHF/Llama-3-8b-sft-mixture on trl-lib/ultrafeedback_binarized, about two days each on 8 GPUs; with "
            "RTO-RL/Llama3.2-1B-RewardModel and RTO-RL/Llama3-8B-DPO",
            paper_arms(),
            paper_verdict,
        ),
    },
    measure=measure,
)
