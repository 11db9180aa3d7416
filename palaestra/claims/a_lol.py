"""A-LoL: of answers good and bad, those that are better than expected are enough, and learning from them is steady.

Small scale: digits to be sorted, one answer to each of 3000 prompts, with 15% of the digits spoilt in half of them and 80% in the
others; a score is the share of places that are right. A model that imitates all of them is every method's start and reference.
Likelihood, likelihood weighted by scores, GOLD and R-LoL learn from all answers, the four forms of A-LoL from those with an
advantage, all at the same learning rate for as many updates. One model imitates the good half alone. DPO, which needs pairs, is
given a second answer to each prompt; of four weights of the divergence at three learning rates the best mean counts.
Paper scale: LLaMA-7B with adapters, none of which drop out, on HH-RLHF, where the chosen answers have a reward model's scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from palaestra.claims.claim import Arm, Claim, Finding, Record, Records, Scale, arms_of, estimate, mean
from palaestra.claims.pro import ahead
from palaestra.language.judges.reward_model import reward_of
from palaestra.language.tasks.noisy_sort import NoisySort
from palaestra.methods.language.sft import SFT
from palaestra.methods.preference.a_lol import ALoL, ALoLKL, ALoLRefFree, ALoLSeq
from palaestra.methods.preference.direct_alignment import DirectAlignment
from palaestra.methods.preference.dpo import DPO
from palaestra.methods.preference.leftover import WeightedAnswers
from palaestra.methods.preference.pro import PRO
from palaestra.methods.preference.weighted import GOLD, RLoL, WeightedBC
from palaestra.runs.run import Run

TASK, MIX = "noisy-sort", {"mix": True, "answers": 1}
GOOD = {"noise": 0.15, "answers": 1, "train_rows": 1500}
SEEDS = 5
STARTED, UPDATES = NoisySort.start_updates, 400
FORMS = {"a-lol": ALoL, "a-lol-seq": ALoLSeq, "a-lol-ref-free": ALoLRefFree, "a-lol-kl": ALoLKL}
REWARDED = {"wbc": WeightedBC, "gold": GOLD, "r-lol": RLoL}
"""What learns from all answers, by their scores."""
LEFT = 0.75
"""The largest share of the answers that may have an advantage."""
FALL = 0.02
"""How far below its best evaluation a form of A-LoL may end, in any seed."""


def small_arms() -> dict[str, Arm]:
    host: dict[str, Any] = {"model": "tiny-48x2", "prompts": 64, "lr": 5e-4}
    sft = SFT(model="tiny-48x2")
    arms = {
        "start": Arm(sft, TASK, updates=STARTED, seeds=SEEDS, settings=MIX),
        "nll on the good half": Arm(sft, TASK, updates=STARTED + UPDATES, seeds=SEEDS, settings=GOOD),
    }
    methods = {
        "nll": SFT(model="tiny-48x2", batch_size=64, lr=host["lr"]),
        **{label: cls(**host) for label, cls in {**REWARDED, **FORMS}.items()},
        "a-lol, constant value": ALoL(**host, value="mean"),
    }
    pairs = {
        f"dpo, {beta:g}, {rate:g}": DPO(**host | {"lr": rate}, beta=beta)
        for beta in (0.5, 1.0, 3.0, 10.0)
        for rate in (1e-3, 5e-4, 2e-4)
    }
    shared: dict[str, Any] = {"updates": UPDATES, "seeds": SEEDS, "begins_with": "start"}
    arms |= arms_of(methods, TASK, settings=MIX, **shared)
    return arms | arms_of(pairs, TASK, settings=MIX | {"answers": 2}, **shared)


def measure(run: Run) -> dict[str, float]:
    """The share of the answers that are learnt from, and how many ratios were clipped over the last quarter."""
    if not isinstance(run.method, WeightedAnswers):
        return {}
    rows = [row for row in run.metrics if "data/positive" in row]
    found = {"learnt from": rows[-1]["data/positive"]}
    if "policy/clipped" in rows[-1]:
        found["clipped"] = float(np.mean([row["policy/clipped"] for row in rows[-(len(rows) // 4 or 1) :]]))
    return found


def fall(record: Record) -> float:
    """How far a run ends below its best evaluation."""
    return max(value for _, value in record.curve) - record.final


def small_verdict(records: Records) -> list[Finding]:
    rewarded = records.best(REWARDED)
    most = records.final(rewarded)
    dpo = records.best(records.arms("dpo, "))
    falls = {arm: np.array([fall(record) for record in records if record.arm == arm]) for arm in [*FORMS, dpo]}
    share = records.measure("a-lol", "learnt from")
    return [
        *(ahead(f"{arm} scores higher than nll", records.final(arm), records.final("nll")) for arm in REWARDED),
        *(
            ahead(
                f"{arm} scores higher than what learns from all answers, of which {rewarded} is the best",
                records.final(arm),
                most,
            )
            for arm in FORMS
        ),
        ahead(
            "a-lol scores higher than imitation of the good half alone",
            records.final("a-lol"),
            records.final("nll on the good half"),
        ),
        Finding(
            f"a-lol learns from at most {LEFT:.0%} of the answers in every seed",
            share.max() <= LEFT,
            {"share": mean(share)},
        ),
        Finding(
            f"steady: no form of A-LoL ends more than {FALL} below its best evaluation in any seed",
            max(falls[arm].max() for arm in FORMS) <= FALL,
            {arm: mean(falls[arm]) for arm in falls},
        ),
        Finding(
            f"steady: the seeds of every form of A-LoL lie closer together than those of DPO at its best ({dpo})",
            max(deviation(records.final(arm)) for arm in FORMS) < deviation(records.final(dpo)),
            {arm: estimate(deviation, records.final(arm)) for arm in [*FORMS, dpo]},
        ),
    ]


def deviation(sample: np.ndarray) -> float:
    """The deviation of seeds."""
    return float(sample.std())


REWARD_MODEL = "OpenAssistant/oasst-rm-2.1-pythia-1.4b-epoch-2.5"
judge = reward_of(REWARD_MODEL)


def score(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float]:
    """The reward model's score between 0 and 1, as in the paper."""
    return (1 / (1 + np.exp(-np.array(judge(prompts, completions))))).tolist()


def paper_arms() -> dict[str, Arm]:
    settings = {"data": "Anthropic/hh-rlhf", "reward": "palaestra.claims.a_lol:score"}
    host: dict[str, Any] = {
        "model": "huggyllama/llama-7b",
        "adapter": 64,
        "adapter_alpha": 16,
        "lr": 2e-4,
        "warmup": 300,
        "schedule": "constant",
        "max_grad_norm": 0.3,
    }
    common: dict[str, Any] = {"updates": 9000, "seeds": 3, "settings": settings}
    arms = {"nll": Arm(SFT(**host, batch_size=16), "hh-rlhf", **common)}
    scored: dict[str, Any] = {**host, "prompts": 16, "rescored": True}
    methods: dict[str, DirectAlignment] = {label: cls(**scored) for label, cls in {**REWARDED, **FORMS}.items()}
    # Gaps of scores are what PRO pushes by, and between 0 and 1 they are too small: it has the reward model's as they are.
    methods |= {"dpo": DPO(**host, prompts=16), "pro": PRO(**scored, reward_model=REWARD_MODEL)}
    return arms | arms_of(methods, "hh-rlhf", **common, begins_with="nll")


def paper_verdict(records: Records) -> list[Finding]:
    finals = {arm: records.final(arm) for arm in paper_arms()}
    rewarded = records.best(REWARDED)
    most = records.final(rewarded)
    pairs = records.best(["dpo", "pro"])
    pairs_score = records.final(pairs)
    return [
        *(ahead(f"on hh-rlhf {arm} has a higher reward than nll", finals[arm], finals["nll"]) for arm in FORMS),
        *(
            ahead(f"{arm} has a higher reward than {rewarded}, the best without a value", finals[arm], most)
            for arm in FORMS
        ),
        Finding(
            f"the seeds of every form of A-LoL lie closer together than those of {pairs}",
            max(deviation(finals[arm]) for arm in FORMS) < deviation(pairs_score),
            {arm: estimate(deviation, finals[arm]) for arm in [*FORMS, pairs]},
        ),
        Finding(
            "a-lol leaves answers without an advantage out",
            records.measure("a-lol", "learnt from").max() < 1,
            {"share": mean(records.measure("a-lol", "learnt from"))},
        ),
    ]


claim = Claim(
    name="a-lol",
    paper=ALoL.paper,
    sentence="From answers good and bad A-LoL learns more than what weighs all of them by their scores, and that more than "
    "imitation; those with an advantage are enough for it, and it is steady.",
    scales={
        "small": Scale(
            "115 runs of tiny models, about 20 minutes on two cores that others use too", small_arms(), small_verdict
        ),
        "paper": Scale(
            "30 runs of huggyllama/llama-7b with adapters on Anthropic/hh-rlhf, half a day each on a GPU; scored by "
            "OpenAssistant/oasst-rm-2.1-pythia-1.4b-epoch-2.5",
            paper_arms(),
            paper_verdict,
        ),
    },
    measure=measure,
)
