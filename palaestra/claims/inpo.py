"""INPO: in a game without a best answer, self-play with a regularised step ends at the policy that no other beats.

Small scale: answers in three styles that beat each other in a circle, with a content that is right or wrong; a model fine-tuned
on styles in shares .6, .3 and .1. INPO, without its reference as well, against DPO in rounds, on the same
prompts with as many answers and duels, and SPPO, which has every two answers judged. Two Nash policies are known: that of the
game between styles with so much of the content right, beside what the start answers, and that of the styles alone. They differ,
since content pays only against answers in the same style, and so most in the style that is most frequent.
Paper scale: LLaMA-3-8B, three rounds of 20,000 prompts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from palaestra.claims.claim import Arm, Claim, Finding, Records, Scale, above, arms_of, mean
from palaestra.core.policy import load_policy
from palaestra.language.judges.reward_model import reward_of
from palaestra.language.sample import Sample
from palaestra.language.tasks.cyclic_style import STYLES, CyclicStyle, content, style_of
from palaestra.methods.language.sft import SFT
from palaestra.methods.preference.inpo import INPO
from palaestra.methods.preference.iterated import Iterated
from palaestra.methods.preference.iterated_dpo import IteratedDPO
from palaestra.methods.preference.sppo import SPPO
from palaestra.objectives.games import regularised_nash
from palaestra.runs.run import Run

TASK = "cyclic-style"
SEEDS = 5
ROUNDS, EPOCHS, MINIBATCHES = 12, 2, 16
ETA = 0.5
TAU = ETA / 3
"""What the divergence from the reference weighs by default."""
NEAR = 0.08
"""How far from the Nash policy, in half the sum of differences, the styles may end."""
ASKED = 1000
"""Answers that are drawn to measure."""


def small_arms() -> dict[str, Arm]:
    host = {"prompts": 512, "group": 4, "epochs": EPOCHS, "minibatches": MINIBATCHES, "lr": 3e-4}
    methods: dict[str, Iterated] = {
        "inpo": INPO(**host, eta=ETA),
        "inpo without reference": INPO(**host, eta=ETA, kl_weight=0.0),
        "sppo": SPPO(**host, eta=1 / ETA),
    }
    for beta in (0.1, 0.3, 1.0):
        methods[f"dpo {beta:g}"] = IteratedDPO(**host, beta=beta)
        methods[f"dpo {beta:g} previous"] = IteratedDPO(**host, beta=beta, against="previous")
    arms = {"start": Arm(SFT(model="tiny-48x2"), TASK, updates=1000, seeds=SEEDS)}
    updates = ROUNDS * EPOCHS * MINIBATCHES
    return arms | arms_of(methods, TASK, updates=updates, seeds=SEEDS, begins_with="start")


def measure(run: Run) -> dict[str, float]:
    """The styles of sampled answers, how the style that does best against them fares, and the content."""
    task = run.task
    if not isinstance(task, CyclicStyle):
        return {}
    rows = task.rows("test")

    def answers(policy: Any, count: int) -> list[Sample]:
        asked = [rows[i % len(rows)] for i in range(count)]
        return policy.answer(asked, max_tokens=task.max_tokens, seed=run.seed)  # type: ignore[no-any-return]

    said = answers(run.policy, ASKED)
    share = torch.tensor([sum(style_of(s.text) == style for s in said) / ASKED for style in STYLES])
    begun = run.policy if run.arm == "start" else load_policy(run.other("start"))  # type: ignore[attr-defined]
    nash = nash_styles(task, answers(begun, 4 * ASKED))
    found = {f"style {style}": float(x) for style, x in zip(STYLES, share, strict=True)}
    return found | {
        "from Nash": float((share - nash).abs().sum() / 2),
        # Answers without a style lose to all, which is what they are left out of `share` for.
        "worst win rate": float((share @ task.table()).min()),
        "content": sum(content(s.text, s.row["answer"]) for s in said) / ASKED,
    }


def nash_styles(task: CyclicStyle, reference: Sequence[Sample]) -> Tensor:
    """The shares of the styles `(3,)` in the regularised Nash policy of the whole game, beside a policy that gave some answers.

    All that counts of an answer is its style and how much of its content is right.
    """
    kinds = Counter((style_of(s.text), content(s.text, s.row["answer"])) for s in reference if style_of(s.text))
    style = torch.tensor([STYLES.index(letter) for letter, _ in kinds])
    right = torch.tensor([share for _, share in kinds], dtype=torch.float64)
    within = 0.5 * (1 + (right.unsqueeze(1) - right).sign())
    between = task.table().double()[style.unsqueeze(1), style]
    preference = torch.where(style.unsqueeze(1) == style, within, between)
    shares = torch.tensor(list(kinds.values()), dtype=torch.float64)
    nash = regularised_nash(preference, shares / shares.sum(), TAU)
    return torch.zeros(len(STYLES), dtype=nash.dtype).index_add_(0, style, nash)


def from_nash_of_styles(records: Records, label: str) -> np.ndarray:
    """How far the styles of each seed `(seeds,)` end from the regularised Nash policy of the styles alone, from which the
    contents that a start learnt with them are left out."""
    task = CyclicStyle()
    nash = regularised_nash(task.table().double(), torch.tensor(task.styles, dtype=torch.float64), TAU)
    share = np.stack([records.measure(label, f"style {style}") for style in STYLES], axis=1)
    return np.abs(share - nash.numpy()).sum(axis=1) / 2


def small_verdict(records: Records) -> list[Finding]:
    others = [label for label in small_arms() if label.startswith(("dpo", "sppo"))]
    far, worst, right = (
        {label: records.measure(label, name) for label in small_arms()}
        for name in ("from Nash", "worst win rate", "content")
    )
    alone = {label: from_nash_of_styles(records, label) for label in small_arms()}
    safest = max(others, key=lambda label: float(worst[label].mean()))
    findings = []
    for game, distance in (("the whole game", far), ("the styles alone", alone)):
        nearest = min(others, key=lambda label: float(distance[label].mean()))
        findings += [
            Finding(
                f"INPO's styles end within {NEAR} of those of the Nash policy of {game}",
                distance["inpo"].mean() <= NEAR,
                {"inpo": mean(distance["inpo"])},
            ),
            above(
                f"INPO's styles end nearer to those of {game} than DPO in rounds and SPPO, of which {nearest} comes nearest",
                distance[nearest],
                distance["inpo"],
            ),
        ]
    return [
        *findings,
        above(
            f"the style that does best against INPO wins less than against the others, of which {safest} is the safest",
            worst["inpo"],
            worst[safest],
        ),
        above("without its reference INPO ends further away", far["inpo without reference"], far["inpo"]),
        above("the content becomes better than the start's", right["inpo"], right["start"]),
    ]


score = reward_of("sfairXC/FsfairX-LLaMA3-RM-v0.1")
"""The paper's reward model: the answer with the higher score wins (INPO-RM)."""


def paper_arms() -> dict[str, Arm]:
    host: dict[str, Any] = {
        "model": "RLHFlow/LLaMA3-SFT",
        "prompts": 20_000,
        "group": 8,
        "contest": "tournament",
        "epochs": 2,
        "minibatches": 156,
        "lr": 5e-7,
        # 0.03 of all updates, and one cosine over them, where the paper's rounds, trained one by one, have one each
        "schedule": "cosine",
        "warmup": 28,
        "max_tokens": 2048,
    }
    settings = {
        "data": ",".join(f"RLHFlow/iterative-prompt-v1-iter{i}-20K" for i in (1, 2, 3)),
        "held_out": 0.01,
        "column": "context_messages",
        "reward": "palaestra.claims.inpo:score",
    }
    methods: dict[str, Iterated] = {
        "inpo": INPO(**host, eta=0.005),
        "inpo without reference": INPO(**host, eta=0.005, kl_weight=0.0),
        "sppo": SPPO(**host | {"contest": "win-rate"}, eta=1000.0),
        "dpo 0.1": IteratedDPO(**host, beta=0.1),
    }
    return arms_of(methods, "prompts", updates=936, seeds=1, settings=settings)


def paper_verdict(records: Records) -> list[Finding]:
    return [
        above(
            f"on held-out prompts INPO ends with a higher score than {other}",
            records.final("inpo"),
            records.final(other),
        )
        for other in ("inpo without reference", "sppo", "dpo 0.1")
    ]


claim = Claim(
    name="inpo",
    paper=INPO.paper,
    sentence="Where answers beat each other in a circle, INPO ends near the policy that no other beats; DPO in rounds and "
    "SPPO do not.",
    scales={
        "small": Scale("50 runs of tiny models, about 15 minutes on two free cores", small_arms(), small_verdict),
        "paper": Scale(
            "4 runs of RLHFlow/LLaMA3-SFT on RLHFlow/iterative-prompt-v1-iter1-20K, -iter2-20K and -iter3-20K, about a day each "
            "on 8 GPUs; scored by sfairXC/FsfairX-LLaMA3-RM-v0.1",
            paper_arms(),
            paper_verdict,
        ),
    },
    measure=measure,
)
