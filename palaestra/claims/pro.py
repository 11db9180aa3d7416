"""PRO: contrasting along a ranked list of answers teaches more than imitating the best of them, or RRHF's hinges.

Small scale: digits to be sorted, a model fine-tuned on answers of which 35% of the digits are spoilt, and two or four of its own
answers to each of 3000 prompts, scored by ten times the share of places that are right. Every method of one seed learns from the
same start and the same answers, and each has nine settings, of which the best mean of sampled scores counts: three learning
rates, and three weights of PRO's likelihood, of RRHF's hinges and of DPO's divergence, which learns from the best and the worst
answer. Supervised learning on the best answer (RRHF without its hinges) has the rates alone. One of PRO's weights makes the
likelihood of four answers weigh what that of two does at the published one. Most lists of four have two answers of one score;
PRO leaves such pairs out, and keeps them, as the released code does, in arms of their own at the published weight.
Paper scale: LLaMA-7B on HH-RLHF, ranked by one reward model and measured by another.

On real input there is `pro-commongen`: six sentences of models to each of 83 lists of concepts, rated by people, of which not all
ratings can be of their sentences; stories260K, fine-tuned on people's own sentences, and the share of the concepts that its
sentences for ten other lists have.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from palaestra.claims.claim import Arm, Claim, Finding, Records, Scale, above, arms_of
from palaestra.language.judges.reward_model import reward_of
from palaestra.language.policy import LanguagePolicy
from palaestra.language.tasks.hh_rlhf import HHRLHF
from palaestra.language.tasks.noisy_sort import NoisySort
from palaestra.methods.language.sft import SFT
from palaestra.methods.preference.direct_alignment import DirectAlignment
from palaestra.methods.preference.dpo import DPO
from palaestra.methods.preference.pro import PRO
from palaestra.methods.preference.rrhf import RRHF
from palaestra.runs.run import Run

TASK, SETTINGS = "noisy-sort", {"scale": 10.0}
SEEDS = 5
UPDATES = 400
RATES = (2e-3, 1e-3, 5e-4)
"""Learning rates of every method."""
LIKELIHOODS = (0.05 / 9, 0.05, 0.2)
"""Weights of PRO's likelihood: the published one is 0.05, times (n - 1)^2."""
HINGES = (1.0, 10.0, 100.0)
"""Weights of RRHF's hinges."""
BETAS = (0.5, 1.0, 3.0)
"""Weights of DPO's divergence; with smaller ones it does worse."""
CLEAR = 0.02
"""By how much PRO must lead supervised learning, both with two answers."""
ASKED = 500
"""Held-out prompts that are measured at paper scale."""


def small_arms() -> dict[str, Arm]:
    host: dict[str, Any] = {"model": "tiny-48x2", "prompts": 64}
    methods: dict[str, DirectAlignment] = {}
    for n in (2, 4):
        given = {**host, "drawn": n}
        for rate in RATES:
            methods[f"sft {n}, {rate:g}"] = RRHF(**given, lr=rate, ranking_weight=0.0)
            for weight in LIKELIHOODS:
                methods[f"pro {n}, {weight:.2g}, {rate:g}"] = PRO(**given, lr=rate, likelihood_weight=weight)
            for weight in HINGES:
                methods[f"rrhf {n}, {weight:g}, {rate:g}"] = RRHF(**given, lr=rate, ranking_weight=weight)
    for rate in RATES:
        methods[f"pro 4 with ties, {rate:g}"] = PRO(**host, drawn=4, lr=rate, ties="keep")
    for beta in BETAS:
        for rate in RATES:
            methods[f"dpo 2, {beta:g}, {rate:g}"] = DPO(**host, drawn=2, pairs="extremes", beta=beta, lr=rate)
    start = Arm(SFT(model="tiny-48x2"), TASK, updates=NoisySort.start_updates, seeds=SEEDS, settings=SETTINGS)
    shared: dict[str, Any] = {"updates": UPDATES, "seeds": SEEDS, "settings": SETTINGS}
    return {"start": start} | arms_of(methods, TASK, **shared, begins_with="start")


ahead = partial(above, paired=True)
"""That the first scores higher, seed by seed from the same start and the same answers."""


def small_verdict(records: Records) -> list[Finding]:
    def best(method: str) -> tuple[str, np.ndarray]:
        arm = records.best(records.arms(f"{method}, "))
        return arm, records.final(arm)

    (name, two), (longer, four) = best("pro 2"), best("pro 4")
    findings = [
        ahead(f"with two answers PRO at its best ({name}) scores higher than its start", two, records.final("start"))
    ]
    for n, pro, least in ((2, two, CLEAR), (4, four, 0.0)):
        arm, other = best(f"sft {n}")
        clear = f" by more than {least:g}" if least else ""
        told = f"with {n} answers PRO leads supervised learning on the best of them ({arm}){clear}"
        findings.append(ahead(told, pro, other, least))
        arm, other = best(f"rrhf {n}")
        findings.append(ahead(f"with {n} answers PRO leads RRHF at its best ({arm})", pro, other))
    arm, other = best("dpo 2")
    findings.append(ahead(f"with 2 answers PRO leads DPO at its best ({arm})", two, other))
    as_two = records.best(records.arms(f"pro 4, {LIKELIHOODS[0]:.2g}, "))
    published = records.best(records.arms(f"pro 2, {LIKELIHOODS[1]:.2g}, "))
    kept, usual = (
        records.best(records.arms("pro 4 with ties, ")),
        records.best(records.arms(f"pro 4, {LIKELIHOODS[1]:.2g}, ")),
    )
    return [
        *findings,
        ahead(
            f"with 4 answers and the published weight PRO learns more without contrasts of ties ({usual}) than with them "
            f"({kept})",
            records.final(usual),
            records.final(kept),
        ),
        ahead(f"longer lists help: PRO's best with 4 answers ({longer}) scores higher than with 2", four, two),
        ahead(
            f"and so they do where the likelihood weighs as much with 4 ({as_two}) as with 2 ({published})",
            records.final(as_two),
            records.final(published),
        ),
    ]


score = reward_of("OpenAssistant/oasst-rm-2.1-pythia-1.4b-epoch-2.5")
"""What answers are ranked by: the reward model's logits, which the released code takes as they are."""
gold = reward_of("OpenAssistant/oasst-rm-2-pythia-6.9b-epoch-1")
"""What they are measured by."""


def measure(run: Run) -> dict[str, float]:
    """At paper scale, the mean score of greedy answers by a reward model that training has not seen, between 0 and 1."""
    task, policy = run.task, run.policy
    if not isinstance(task, HHRLHF) or not isinstance(policy, LanguagePolicy):
        return {}
    rows = task.rows("test")
    asked = [rows[i] for i in range(min(ASKED, len(rows)))]
    answers = policy.answer(asked, max_tokens=task.max_tokens, stop=task.stop, greedy=True)
    told = gold([s.row["prompt"] for s in answers], [s.text for s in answers])
    return {"reward": float((1 / (1 + np.exp(-np.array(told)))).mean())}


def paper_arms() -> dict[str, Arm]:
    model = "huggyllama/llama-7b"
    settings = {"data": "Anthropic/hh-rlhf", "reward": "palaestra.claims.pro:score"}
    host: dict[str, Any] = {
        "model": model,
        "prompts": 112,
        "lr": 5e-6,
        "warmup": 0,
        "schedule": "constant",
        "recompute": True,
    }
    sources = {"pairs": {"rescored": True}, **{f"{n} drawn": {"drawn": n} for n in (3, 5)}}
    methods: dict[str, DirectAlignment] = {}
    for source, given in sources.items():
        methods[f"pro, {source}"] = PRO(**host, **given)
        methods[f"sft, {source}"] = RRHF(**host, **given, ranking_weight=0.0)
        methods[f"rrhf, {source}"] = RRHF(**host, **given)
    methods["dpo, pairs"] = DPO(**host, rescored=True)
    start = Arm(
        SFT(model=model, lr=5e-6, batch_size=112, recompute=True), "hh-rlhf", updates=1450, seeds=1, settings=settings
    )
    return {"start": start} | arms_of(methods, "hh-rlhf", updates=2900, seeds=1, settings=settings, begins_with="start")


def paper_verdict(records: Records) -> list[Finding]:
    def reward(arm: str) -> np.ndarray:
        return records.measure(arm, "reward")

    compared = [(source, other) for source in ("pairs", "3 drawn", "5 drawn") for other in ("sft", "rrhf")]
    return [
        *(
            ahead(
                f"{source} of hh-rlhf: PRO has a higher reward than {other}",
                reward(f"pro, {source}"),
                reward(f"{other}, {source}"),
            )
            for source, other in [*compared, ("pairs", "dpo")]
        ),
        ahead(
            "longer lists help: 5 drawn answers give a higher reward than 3",
            reward("pro, 5 drawn"),
            reward("pro, 3 drawn"),
        ),
    ]


claim = Claim(
    name="pro",
    paper=PRO.paper,
    sentence="From the same ranked answers PRO reaches a higher score than supervised learning on the best of them, RRHF and "
    "DPO, and more from longer lists.",
    scales={
        "small": Scale("275 runs of tiny models, some two and a half hours of a core", small_arms(), small_verdict),
        "paper": Scale(
            "11 runs of huggyllama/llama-7b on Anthropic/hh-rlhf, about a day each on 8 GPUs; scored by "
            "OpenAssistant/oasst-rm-2.1-pythia-1.4b-epoch-2.5 and OpenAssistant/oasst-rm-2-pythia-6.9b-epoch-1",
            paper_arms(),
            paper_verdict,
        ),
    },
    measure=measure,
)


SAMPLED = 30
"""Sentences that are drawn for each held-out list of concepts."""


def commongen_arms(model: str = "stories260K", lr: float = 5e-4, start_lr: float = 1e-3) -> dict[str, Arm]:
    host: dict[str, Any] = {"model": model, "prompts": 16, "lr": lr}
    methods = {"pro": PRO(**host), "sft": RRHF(**host, ranking_weight=0.0), "rrhf": RRHF(**host)}
    start = Arm(SFT(model=model, lr=start_lr, batch_size=16), "commongen", updates=100, seeds=SEEDS)
    return {"start": start} | arms_of(methods, "commongen", updates=100, seeds=SEEDS, begins_with="start")


def concepts(run: Run) -> dict[str, float]:
    """The share of the concepts in sentences that are drawn."""
    task: Any = run.task
    _, scores = task.answered(run.policy, len(task.rows("test")), run.seed, copies=SAMPLED)
    return {"concepts": float(scores.mean())}


def commongen_verdict(records: Records) -> list[Finding]:
    share = {arm: records.measure(arm, "concepts") for arm in commongen_arms()}
    return [
        ahead(f"commongen's sentences have more of the concepts after pro than {told}", share["pro"], share[arm])
        for arm, told in (
            ("start", "before"),
            ("sft", "after supervised learning on the best rated"),
            ("rrhf", "after RRHF"),
        )
    ]


commongen = Claim(
    name="pro-commongen",
    paper=PRO.paper,
    sentence="From rated sentences of other models PRO learns more than from the best of them alone, and than RRHF does.",
    scales={
        "small": Scale(
            "20 runs of a model of 260 thousand parameters, about 12 minutes on two cores that others use too; needs the "
            "files of stories260K and CommonGen in PALAESTRA_DATA",
            commongen_arms(),
            commongen_verdict,
        ),
        "paper": Scale(
            "20 runs of huggyllama/llama-7b, about an hour each on 8 GPUs; needs the files of CommonGen in PALAESTRA_DATA",
            commongen_arms("huggyllama/llama-7b", 5e-6, 5e-6),
            commongen_verdict,
        ),
    },
    measure=concepts,
)
