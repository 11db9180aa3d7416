"""DNO: rounds whose pairs are among the policy's answers and a teacher's go further than rounds in which the teacher always wins.

Small scale: four digits to be sorted, a model that imitates answers of which 55% of the digits are one too high, a teacher that
imitates 10%, and a judge that is wrong about one pair in ten. Three rounds of 600 prompts, five answers of the policy and one of
the teacher to each, pairs whose win rates lie 0.4 apart and of which the better is at least 0.6. DNO-Prct learns from all of
these pairs; restrictive from those that the teacher wins; SPIN from the teacher against the policy, unjudged; offline DPO from
one round of 1800 prompts, in as many updates; DPO in rounds from six answers of the policy alone. All are tried at four weights
of the divergence, of which the best counts. A method's score is that of the round that its evaluations find best, on new samples.
Paper scale: Mistral-7B on UltraFeedback, whose best answers are the teacher's, judged by a reward model.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from palaestra.claims.claim import Arm, Claim, Finding, Records, Scale, arms_of, mean
from palaestra.core.policy import load_policy
from palaestra.core.seeding import seed_for
from palaestra.language.task import TextTask
from palaestra.methods.language.sft import SFT
from palaestra.methods.preference.dno import DNO
from palaestra.methods.preference.iterated import Iterated
from palaestra.methods.preference.iterated_dpo import IteratedDPO
from palaestra.runs.run import Run

TASK = "noisy-sort"
SEEDS = 5
ROUNDS, PASSES, PARTS = 3, 3, 50
"""Rounds of answers, passes over each, and gradient steps in a pass."""
UPDATES = ROUNDS * PASSES * PARTS
WEIGHTS = (0.1, 0.3, 1.0, 3.0)
"""Weights of the divergence that every method is tried at."""
ETA = 0.3
"""The one at which a constant learning rate is tried."""
SCORED, COPIES = 400, 5
"""Held-out prompts, and answers to each, that the best round is scored by."""
METHODS = ("dno", "restrictive", "spin", "offline dpo", "iterated dpo")


def small_arms() -> dict[str, Arm]:
    contest: dict[str, Any] = {"contest": "win-rate", "margin": 0.4, "bar": 0.6}
    host: dict[str, Any] = {"prompts": 600, "epochs": PASSES, "minibatches": PARTS, "lr": 1e-4, "round_decay": 0.45}
    return {
        "start": Arm(SFT(model="tiny-48x2"), TASK, updates=900, seeds=SEEDS, settings={"biased": True}),
        "teacher": Arm(SFT(model="tiny-48x2"), TASK, updates=900, seeds=SEEDS, settings={"biased": True, "noise": 0.1}),
        **{
            label: Arm(
                method,
                TASK,
                updates=UPDATES,
                seeds=SEEDS,
                settings={"biased": True, "flip": 0.1},
                begins_with="start",
                named={"teacher": "teacher"} if isinstance(method, DNO) else {},
                engine={"keep_best": True},
            )
            for label, method in methods_of(host, contest, 600 * ROUNDS, PARTS * ROUNDS, ETA, WEIGHTS).items()
        },
    }


def methods_of(
    host: dict[str, Any], contest: dict[str, Any], prompts: int, parts: int, eta: float, weights: tuple[float, ...]
) -> dict[str, Iterated]:
    """What is compared; offline DPO has its one round of all `prompts` in `parts` minibatches."""
    clear = {name: value for name, value in contest.items() if name != "contest"}  # the contest is DNO's own
    ours: dict[str, Any] = {**host, **clear, "targets": "hard", "eta": eta, "teacher": "set by the arm"}
    methods: dict[str, Iterated] = {"dno, constant rate": DNO(**ours | {"round_decay": 1.0})}
    for weight in weights:
        ours["eta"] = weight
        methods[f"dno {weight:g}"] = DNO(**ours)
        methods[f"restrictive {weight:g}"] = DNO(**ours, winners="restrictive")
        methods[f"spin {weight:g}"] = DNO(**ours, winners="spin")
        methods[f"offline dpo {weight:g}"] = DNO(**ours | {"prompts": prompts, "minibatches": parts})
        methods[f"iterated dpo {weight:g}"] = IteratedDPO(**host, **contest, group=6, beta=weight)
    return methods


def measure(run: Run) -> dict[str, float]:
    """The score of the best round, on new samples; what the judge was asked; and how many pairs the policy won in each round."""
    if not isinstance(run.method, Iterated) or not isinstance(run.task, TextTask):
        return {}
    best = load_policy(run.folder / "best")
    _, scores = run.task.answered(best, SCORED, seed_for(run.seed, "best round"), copies=COPIES)
    name = "pairs/policy_over_teacher"
    won = [row[name] for row in run.metrics if name in row]
    return {
        "best round": float(scores.nanmean()),
        "judge calls": float(run.method.counters.judge_calls),
        **{f"won from the teacher in round {i}": pairs for i, pairs in enumerate(won, 1)},
    }


def by_round(records: Records, arm: str) -> np.ndarray:
    """The sampled score after each round, `(seeds, rounds)`."""
    chosen = sorted((record for record in records if record.arm == arm), key=lambda record: record.seed)
    return np.array([[value for _, value in record.curve] for record in chosen])


def at_best(records: Records) -> dict[str, str]:
    """The arm of each method, at the weight of its best mean over the best rounds."""
    return {name: records.best(records.arms(f"{name} "), "best round") for name in METHODS}


def ahead(records: Records, first: str, second: str, where: str = "") -> Finding:
    """Whether the best round of one scores higher than that of another, which had the same starts and teachers."""
    a, b = records.measure(first, "best round"), records.measure(second, "best round")
    return Finding(
        f"{where}the best round of {first} scores higher than that of {second}",
        a.mean() > b.mean(),
        {first: mean(a), second: mean(b), "paired difference": mean(a - b)},
    )


def small_verdict(records: Records) -> list[Finding]:
    found = at_best(records)
    scores, start = by_round(records, found["dno"]), records.final("start")
    constant = by_round(records, "dno, constant rate")
    won = [records.measure(found["dno"], f"won from the teacher in round {i}") for i in range(1, ROUNDS + 1)]
    return [
        ahead(records, found["dno"], found["restrictive"]),
        ahead(records, found["restrictive"], found["offline dpo"]),
        ahead(records, found["spin"], found["offline dpo"]),
        Finding(
            "DNO's first two rounds each score higher than what they began with",
            start.mean() < scores[:, 0].mean() < scores[:, 1].mean(),
            {
                "start": mean(start),
                **{f"round {i + 1}": mean(scores[:, i]) for i in range(ROUNDS)},
                "second over first, paired": mean(scores[:, 1] - scores[:, 0]),
                f"best round of {found['iterated dpo']}": mean(records.measure(found["iterated dpo"], "best round")),
            },
        ),
        Finding(
            "at a constant learning rate the third round scores lower than the second",
            constant[:, 2].mean() < constant[:, 1].mean(),
            {"paired difference": mean(constant[:, 2] - constant[:, 1])},
        ),
        Finding(
            "from round to round the policy's answers win more pairs from the teacher's",
            bool(np.all(np.diff([x.mean() for x in won]) > 0)),
            {f"round {i}": mean(x) for i, x in enumerate(won, 1)},
        ),
    ]


def paper_arms() -> dict[str, Arm]:
    base, prompts, parts = "HuggingFaceH4/mistral-7b-sft-beta", 20_000, 1000
    contest: dict[str, Any] = {"contest": "win-rate", "margin": 0.4, "bar": 0.6}
    host: dict[str, Any] = {
        "model": base,
        "prompts": prompts,
        "minibatches": parts,
        "lr": 5e-7,
        "round_decay": 0.5,
        "temperature": 0.7,
        "top_p": 0.95,
        "recompute": True,
    }
    settings = {
        "data": "trl-lib/ultrafeedback_binarized",
        "faulty": "skip",
        "limit": 2048,
        "reward": "palaestra.claims.inpo:score",
    }
    taught = {"teacher": "column:completion", "degenerate_lose": True}
    methods = methods_of(host, contest, prompts * ROUNDS, parts * ROUNDS, 0.1, (0.05, 0.1))
    for label, method in methods.items():
        if isinstance(method, DNO):
            recipe = {**taught, "replay": 0.0 if label.startswith("offline") else 0.3}
            methods[label] = DNO(**method.config | recipe)
    engine = {"keep_best": True, "evaluate_episodes": SCORED}
    return arms_of(methods, "prompts", updates=parts * ROUNDS, seeds=1, settings=settings, engine=engine)


def paper_verdict(records: Records) -> list[Finding]:
    found = at_best(records)
    compared = ("dno", "restrictive"), ("restrictive", "offline dpo"), ("dno", "spin")
    return [ahead(records, found[first], found[second], "on held-out prompts ") for first, second in compared]


claim = Claim(
    name="dno",
    paper=DNO.paper,
    sentence="At its best round, a policy that may win against its teacher scores higher than one whose teacher alone wins, and "
    "rounds with a teacher higher than offline DPO; a constant learning rate hurts the third round.",
    scales={
        "small": Scale(
            "115 runs of tiny models, about an hour on two cores that others use too", small_arms(), small_verdict
        ),
        "paper": Scale(
            "11 runs of HuggingFaceH4/mistral-7b-sft-beta on trl-lib/ultrafeedback_binarized, about a day each on 8 GPUs; "
            "scored by sfairXC/FsfairX-LLaMA3-RM-v0.1",
            paper_arms(),
            paper_verdict,
        ),
    },
    measure=measure,
)
