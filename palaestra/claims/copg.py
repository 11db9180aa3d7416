"""CoPG: scores of fixed answers are maximised as well as preferences between them are followed, and better.

Small scale: digits to be sorted, a model fine-tuned on answers of which 35% of the digits are spoilt, two of its own answers to
each of 3000 prompts, scored by the share of the places that are right; DPO and IPO learn from the same pairs, ranked by the same
score. Every method at four or five weights of the divergence and two learning rates, DPO at a third, lower one; the best mean
of sampled scores counts.
Paper scale: Llama-2-7B on Reddit TL;DR, with scores and rankings of one reward model.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from palaestra.claims.claim import Arm, Claim, Finding, Records, Scale, above, arms_of, difference, mean
from palaestra.language.judges.reward_model import reward_of
from palaestra.methods.language.sft import SFT
from palaestra.methods.preference.copg import CoPG
from palaestra.methods.preference.direct_alignment import DirectAlignment
from palaestra.methods.preference.dpo import DPO
from palaestra.methods.preference.ipo import IPO

TASK = "noisy-sort"
SEEDS = 5
UPDATES = 400
STEADY = 0.1
"""The weight of the divergence that CoPG's smallest is compared with."""
FAST = 1e-3
"""The higher learning rate."""
DROP = 0.05
"""By how much the smallest weight must fall short of it."""


def methods_of(host: dict[str, Any], betas: dict[str, tuple[float, ...]], slow: float) -> dict[str, DirectAlignment]:
    """Every method at every weight, DPO also at a lower learning rate."""
    classes = {"copg": CoPG, "ipo": IPO, "dpo": DPO}
    methods = {f"{name} {beta:g}": cls(**host, beta=beta) for name, cls in classes.items() for beta in betas[name]}  # type: ignore[call-arg]
    return methods | {f"dpo {beta:g} slow": DPO(**host | {"lr": slow}, beta=beta) for beta in betas["dpo"]}


def small_arms() -> dict[str, Arm]:
    host = {"model": "tiny-48x2", "prompts": 64, "drawn": 2, "lr": 2e-4, "schedule": "constant"}
    betas = {"copg": (0.03, 0.06, 0.1, 0.3), "ipo": (0.03, 0.1, 0.3, 1.0), "dpo": (0.03, 0.1, 0.3, 1.0, 3.0)}
    arms = {"start": Arm(SFT(model="tiny-48x2"), TASK, updates=600, seeds=SEEDS)}
    methods = methods_of(host, betas, slow=5e-5)
    methods |= {f"{label} fast": replace(method, lr=FAST) for label, method in methods.items() if "slow" not in label}
    return arms | arms_of(methods, TASK, updates=UPDATES, seeds=SEEDS, begins_with="start")


def small_verdict(records: Records) -> list[Finding]:
    copg, ipo, dpo = (records.best(records.arms(f"{name} ")) for name in ("copg", "ipo", "dpo"))
    copg_score, ipo_score, dpo_score = map(records.final, (copg, ipo, dpo))
    start = records.final("start")
    smallest, steady = records.final("copg 0.03"), records.final(f"copg {STEADY:g}")
    return [
        Finding(
            f"CoPG at its best ({copg}) answers better than its start",
            copg_score.mean() > start.mean(),
            {"copg": mean(copg_score), "start": mean(start)},
        ),
        Finding(
            f"CoPG at its best ({copg}) scores at least as high as IPO at its best ({ipo})",
            copg_score.mean() >= ipo_score.mean(),
            {"copg": mean(copg_score), "ipo": mean(ipo_score), "difference": difference(copg_score, ipo_score)},
        ),
        Finding(
            f"IPO at its best ({ipo}) scores at least as high as DPO at its best ({dpo})",
            ipo_score.mean() >= dpo_score.mean(),
            {"ipo": mean(ipo_score), "dpo": mean(dpo_score), "difference": difference(ipo_score, dpo_score)},
        ),
        above(
            f"CoPG at 0.03 falls {DROP} short of CoPG at {STEADY:g}: small weights are unstable", steady, smallest, DROP
        ),
    ]


tldr_score = reward_of("OpenAssistant/reward-model-deberta-v3-large-v2")
"""What is maximised, and what ranks pairs."""


def paper_arms() -> dict[str, Arm]:
    host = {
        "model": "meta-llama/Llama-2-7b-hf",
        "prompts": 128,
        "rescored": True,
        "lr": 1e-6,
        "warmup": 150,
        "schedule": "constant",
    }
    betas = {
        "copg": (0.01, 0.03, 0.06, 0.1, 0.3, 1.0),
        "ipo": (0.003, 0.01, 0.03, 0.06, 0.1, 0.3),
        "dpo": (0.01, 0.03, 0.06, 0.1, 0.3, 1.0),
    }
    settings = {"data": "trl-lib/tldr-preference", "reward": "palaestra.claims.copg:tldr_score"}
    start = SFT(model="meta-llama/Llama-2-7b-hf", lr=2e-5, batch_size=128, warmup=180)
    arms = {"start": Arm(start, "prompts", updates=1800, seeds=1, settings=settings)}
    methods = methods_of(host, betas, slow=5e-7)
    return arms | arms_of(methods, "prompts", updates=1450, seeds=1, settings=settings, begins_with="start")


def paper_verdict(records: Records) -> list[Finding]:
    copg, ipo, dpo = (records.best(records.arms(f"{name} ")) for name in ("copg", "ipo", "dpo"))
    copg_score, ipo_score, dpo_score = map(records.final, (copg, ipo, dpo))
    return [
        above(f"{first} scores higher than {second} on held-out prompts", a, b)
        for first, second, a, b in ((copg, ipo, copg_score, ipo_score), (ipo, dpo, ipo_score, dpo_score))
    ]


claim = Claim(
    name="copg",
    paper=CoPG.paper,
    sentence="From the same answers CoPG reaches a higher score than IPO, and IPO than DPO, each at its best weight of the "
    "divergence; at small weights CoPG is unstable.",
    scales={
        "small": Scale("160 runs of tiny models, some 40 minutes on two cores", small_arms(), small_verdict),
        "paper": Scale(
            "25 runs of meta-llama/Llama-2-7b-hf on trl-lib/tldr-preference, about a day each on 8 GPUs; scored by "
            "OpenAssistant/reward-model-deberta-v3-large-v2",
            paper_arms(),
            paper_verdict,
        ),
    },
)
