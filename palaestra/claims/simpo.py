"""SimPO beside the other direct losses: each at its best strength, from the same answers (Meng et al., arXiv 2405.14734).

Small scale: the host of CoPG's claim, digits to be sorted, a model fine-tuned on answers of which 35% of the digits are spoilt,
and two of its own answers to each of 3000 prompts, ranked by the share of the places that are right. Every loss at three or more
strengths, SimPO with two margins; supervised learning on the better answer, RRHF without its hinges, is what pairs are to be
better than. R-DPO is left out, since the task's answers are equally long, for which it is DPO.
Paper scale: Mistral-7B on UltraFeedback's pairs, every loss over a grid of its own that holds the released code's best for SimPO
(beta 2, margin 1.6, learning rate 3e-7) and for DPO (beta 0.01, 5e-7), scored by a reward model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from palaestra.claims.claim import Arm, Claim, Finding, Records, Scale, above, arms_of, difference, mean
from palaestra.language.judges.reward_model import reward_of
from palaestra.methods.language.sft import SFT
from palaestra.methods.preference.direct_alignment import DirectAlignment
from palaestra.methods.preference.dpo import DPO
from palaestra.methods.preference.ipo import IPO
from palaestra.methods.preference.kto import KTO
from palaestra.methods.preference.r_dpo import RDPO
from palaestra.methods.preference.rrhf import RRHF
from palaestra.methods.preference.simpo import SimPO
from palaestra.methods.preference.slic import SLiC
from palaestra.methods.preference.tdpo import TDPO1, TDPO2

TASK = "noisy-sort"
SEEDS = 3
UPDATES = 400
IMITATION = "rrhf 0"
"""Supervised learning on the better answer of every pair."""


@dataclass(frozen=True)
class Tried:
    """A loss, which of its settings is its strength, and at which values it is tried."""

    name: str
    method: type[DirectAlignment]
    strength: str
    values: tuple[float, ...]
    settings: tuple[tuple[str, float], ...] = ()


SMALL = (
    Tried("simpo", SimPO, "beta", (0.5, 1.0, 2.0, 4.0, 8.0)),
    Tried("simpo", SimPO, "beta", (1.0, 2.0, 4.0), (("margin", 1.6),)),
    Tried("dpo", DPO, "beta", (0.3, 1.0, 3.0)),
    Tried("ipo", IPO, "beta", (0.03, 0.1, 0.3)),
    Tried("kto", KTO, "beta", (0.1, 0.3, 1.0), (("good_from", 0.75),)),  # starts score a little less
    Tried("tdpo1", TDPO1, "beta", (0.1, 0.3, 1.0)),
    Tried("tdpo2", TDPO2, "beta", (0.1, 0.3, 1.0)),
    Tried("rrhf", RRHF, "ranking_weight", (0.0, 1.0, 10.0, 100.0)),
    Tried("slic", SLiC, "likelihood_weight", (0.1, 0.3, 1.0)),
)
SIMPO_LR = 3e-7
"""Of the released configuration for this model; 5e-7, everyone else's here, is DPO's best by the released figures."""
PAPER = (
    *(
        Tried("simpo", SimPO, "beta", (2.0, 2.5), (("margin", margin), ("lr", SIMPO_LR)))
        for margin in (0.3, 0.5, 1.0, 1.2, 1.4, 1.6)
    ),
    Tried("dpo", DPO, "beta", (0.01, 0.05, 0.1)),
    Tried("ipo", IPO, "beta", (0.01, 0.1, 0.5, 1.0)),
    Tried("kto", KTO, "beta", (0.01, 0.05, 0.1)),
    *(Tried("r-dpo", RDPO, "beta", (0.01, 0.05, 0.1), (("alpha", alpha),)) for alpha in (0.05, 0.1, 0.5, 1.0)),
    Tried("rrhf", RRHF, "ranking_weight", (0.1, 0.5, 1.0, 10.0)),
    *(Tried("slic", SLiC, "likelihood_weight", (0.1, 0.5, 1.0, 10.0), (("delta", d),)) for d in (0.5, 1.0, 2.0, 10.0)),
)


def methods_of(host: dict[str, Any], tried: tuple[Tried, ...]) -> dict[str, DirectAlignment]:
    """Every loss at every strength, by its name, the strength and its other settings."""
    methods = {}
    for one in tried:
        others = "".join(f", {name} {value:g}" for name, value in one.settings)
        for value in one.values:
            settings = host | dict(one.settings) | {one.strength: value}
            methods[f"{one.name} {value:g}{others}"] = one.method(**settings)
    return methods


def small_arms() -> dict[str, Arm]:
    host = {"model": "tiny-48x2", "prompts": 64, "drawn": 2, "lr": 1e-3, "schedule": "constant"}
    arms = {"start": Arm(SFT(model="tiny-48x2"), TASK, updates=600, seeds=SEEDS)}
    methods = methods_of(host, SMALL)
    return arms | arms_of(methods, TASK, updates=UPDATES, seeds=SEEDS, begins_with="start")


def best_of_each(records: Records, tried: tuple[Tried, ...]) -> dict[str, str]:
    """The arm of each loss at its best setting; imitation is none of RRHF's."""
    names = dict.fromkeys(one.name for one in tried)
    return {name: records.best(arm for arm in records.arms(f"{name} ") if arm != IMITATION) for name in names}


def order(records: Records, best: dict[str, str]) -> list[Finding]:
    """SimPO beside DPO, and beside the best of all others."""
    simpo, dpo = best["simpo"], best["dpo"]
    other = records.best(arm for name, arm in best.items() if name != "simpo")
    ours = records.final(simpo)
    return [
        Finding(
            f"on held-out prompts SimPO at its best ({simpo}) scores at least as high as {words} at its best ({arm})",
            ours.mean() >= records.final(arm).mean(),
            {
                "simpo": mean(ours),
                "other": mean(records.final(arm)),
                "difference": difference(ours, records.final(arm)),
            },
        )
        for words, arm in (("DPO", dpo), ("whichever else is best,", other))
    ]


def small_verdict(records: Records) -> list[Finding]:
    best, start, imitation = best_of_each(records, SMALL), records.final("start"), records.final(IMITATION)
    scores = {arm: records.final(arm) for arm in best.values()}
    return [
        *order(records, best),
        Finding(
            "Every loss at its best answers better than its start",
            all(score.mean() > start.mean() for score in scores.values()),
            {"start": mean(start)} | {arm: mean(score) for arm, score in scores.items()},
        ),
        above(
            f"DPO at its best ({best['dpo']}) scores higher than imitation of the better answers",
            scores[best["dpo"]],
            imitation,
        ),
    ]


feedback_score = reward_of("RLHFlow/ArmoRM-Llama3-8B-v0.1")
"""What answers are scored by."""


def paper_arms() -> dict[str, Arm]:
    host = {"model": "alignment-handbook/zephyr-7b-sft-full", "prompts": 128, "lr": 5e-7, "warmup": 48}
    settings = {
        "data": "trl-lib/ultrafeedback_binarized",
        "reward": "palaestra.claims.simpo:feedback_score",
    }
    return arms_of(methods_of(host, PAPER), "prompts", updates=478, seeds=1, settings=settings)


def paper_verdict(records: Records) -> list[Finding]:
    return order(records, best_of_each(records, PAPER))


claim = Claim(
    name="simpo",
    paper=SimPO.paper,
    sentence="From the same pairs SimPO answers at least as well as DPO and its relatives, each at its best strength; all of "
    "them learn from pairs, and DPO more than imitation of the better answers does.",
    scales={
        "small": Scale("93 runs of tiny models, half an hour to an hour on two cores", small_arms(), small_verdict),
        "paper": Scale(
            "54 runs of alignment-handbook/zephyr-7b-sft-full on trl-lib/ultrafeedback_binarized, a few hours each on 8 GPUs; "
            "scored by RLHFlow/ArmoRM-Llama3-8B-v0.1",
            paper_arms(),
            paper_verdict,
        ),
    },
)
