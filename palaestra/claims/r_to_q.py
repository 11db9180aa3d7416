"""From r to Q*: a policy that DPO trained says what each token is worth, and how likely answers are falls as it learns.

Small scale: digits to be sorted, from a model that imitates answers of which 55% of the digits are one too high, so that its
likeliest answer is wrong. DPO on two of its samples to each of 3000 prompts, ranked by the truth, as in RTO's claim, and with
less than a third of the weight on the divergence; and on two demonstrations to each, from that model and from scratch.
Log-ratios are then to tell wrong digits from right ones, which the model's own likelihoods do not; too little weight is to spoil
answers that margin and accuracy praise; beams are to find likelier answers, and what those are worth is reported. On trees of
tokens the statements that all this rests on are computed exactly.
Paper scale: Pythia-2.8B on Reddit TL;DR, beams of 1 to 10 judged by a reward model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from palaestra.claims.claim import Arm, Claim, Finding, Records, Scale, above, difference, mean
from palaestra.core.method import Paper
from palaestra.language.generation.beam import BeamSearch
from palaestra.language.judges.implicit import ImplicitRewards
from palaestra.language.policy import LanguagePolicy
from palaestra.language.tasks.noisy_sort import NoisySort
from palaestra.methods.language.sft import SFT
from palaestra.methods.preference.dpo import DPO
from palaestra.objectives import calibration
from palaestra.objectives.answers import Answers
from palaestra.objectives.direct import dpo
from palaestra.objectives.token_mdp import (
    beam,
    best,
    implicit_reward,
    paths,
    reward_of,
    shaped,
    softmax_table,
    solve,
)
from palaestra.runs.run import Run

PAPER = Paper("From r to Q*: Your Language Model is Secretly a Q-Function", 2024, "2404.12358")
TASK, SETTINGS = "noisy-sort", {"biased": True}
DEMONSTRATIONS = {"train_rows": 30_000}
"""So many that the start imitates them, and does not know single ones by heart."""
SEEDS = 5
ASKED = 400
"""Held-out prompts whose answers are looked at."""
WIDTHS = (1, 2, 5)
"""Of beams."""
TELLS, BLIND = 0.9, 0.1
"""How often a wrong digit must stand out by its log-ratio, and at most by being unlikely to the reference."""
EXACT = 1e-8
"""The largest error of what is computed exactly."""
LAST = 20
"""Rows of metrics whose mean is the end of training."""


def small_arms() -> dict[str, Arm]:
    host: dict[str, Any] = {"model": "tiny-48x2", "prompts": 64, "lr": 2e-4, "schedule": "constant"}
    common: dict[str, Any] = {"updates": 300, "seeds": SEEDS, "settings": SETTINGS}
    given, shown = {"begins_with": "start"}, SETTINGS | DEMONSTRATIONS
    return {
        "start": Arm(SFT(model="tiny-48x2"), TASK, updates=1300, seeds=SEEDS, settings=shown),
        "dpo": Arm(DPO(**host, beta=1.0, drawn=2), TASK, **common, **given),
        "dpo, little weight": Arm(DPO(**host, beta=0.3, drawn=2), TASK, **common, **given),
        "demonstrations": Arm(DPO(**host, beta=1.0), TASK, **common, **given),
        "demonstrations, from scratch": Arm(DPO(**host, beta=1.0), TASK, **common),
    }


def measure(run: Run) -> dict[str, float]:
    """Of DPO, how it ends and what its log-ratios tell; of the start, how exact the statements on trees of tokens are."""
    method, task = run.method, run.task
    if not isinstance(method, DPO) or method.anchor is None:
        return exact(run.seed) if isinstance(task, NoisySort) else {}
    rows = [row for row in run.metrics if "preference/chosen" in row][-LAST:]
    names = ("chosen", "rejected", "margin", "accuracy")
    found = {name: float(np.mean([row[f"preference/{name}"] for row in rows])) for name in names}
    policy, reference = method.language_policy, method.anchor.policy
    if not isinstance(task, NoisySort):
        return found | searched(policy, task, run.seed, PAPER_WIDTHS, PAPER_ASKED)
    found |= told(policy, reference, task, run.seed)
    return found | (searched(policy, task, run.seed, WIDTHS, ASKED) if method.drawn else {})


def told(policy: LanguagePolicy, reference: LanguagePolicy, task: Any, seed: int) -> dict[str, float]:
    """How often a wrong digit of the reference's answers is below a right one (the area under the curve): in log-ratio, in
    likelihood to the reference, and to the policy. And KL(reference || policy) of whole answers, in nats."""
    samples, _ = task.answered(reference, ASKED, seed)
    own, other = ImplicitRewards(policy, reference).logp([s.row for s in samples], [s.completion for s in samples])

    def area(values: Sequence[Tensor]) -> float:
        right, wrong = list[float](), list[float]()
        for sample, numbers in zip(samples, values, strict=True):
            for said, meant, x in zip(sample.text, sample.row["answer"], numbers.tolist(), strict=False):
                (right if said == meant else wrong).append(x)
        return float(calibration.above(torch.tensor(right), torch.tensor(wrong)))

    ratio = [mine - theirs for mine, theirs in zip(own, other, strict=True)]
    return {
        "tells": area(ratio),
        "reference tells": area(other),
        "policy tells": area(own),
        "kl from the reference": -float(torch.stack([x.sum() for x in ratio]).mean()),
    }


def searched(policy: LanguagePolicy, task: Any, seed: int, widths: Sequence[int], asked: int) -> dict[str, float]:
    """What the likeliest answers are worth that beams of some widths find, how likely they are and how long."""
    found: dict[str, float] = {}
    for width in widths:
        policy.engine = BeamSearch(width)
        samples, scores = task.answered(policy, asked, seed)
        policy.engine = None
        found |= {
            f"beam {width}": float(scores.nanmean()),
            f"log p of beam {width}": float(torch.stack([s.logp.sum() for s in samples]).mean()),
            f"length of beam {width}": float(np.mean([int(s.mask.sum()) for s in samples])),
        }
    return found


V, H, BETA = 3, 4, 0.7
"""Tokens, the length of answers and the weight of the divergence on trees."""


def exact(seed: int) -> dict[str, float]:
    """The largest errors of what the paper states of trees of tokens, on one with rewards and a reference drawn at random."""
    generator = torch.Generator().manual_seed(seed)

    def drawn() -> list[Tensor]:
        return [torch.randn(V**t, V, generator=generator, dtype=torch.float64) for t in range(H)]

    reward, ref = drawn(), softmax_table(drawn())
    solved = solve(reward, ref, BETA)
    implicit = [implicit_reward(x, y, BETA) for x, y in zip(solved.logp, ref, strict=True)]
    potential = [torch.randn(V**t, generator=generator, dtype=torch.float64) for t in range(H)]
    potential.append(torch.zeros(V**H, dtype=torch.float64))
    other = solve(shaped(reward, potential), ref, BETA)
    again = reward_of(solved.q, ref, BETA)
    missed = 0
    for depth in range(1, H + 1):
        worth = paths(reward[:depth]) + BETA * paths(ref[:depth]) + solved.value[depth]
        likeliest = best(paths(solved.logp[:depth]), 1).prefix
        missed += int(worth.argmax() != likeliest) + int(beam(solved.logp[:depth], V**depth).prefix[:1] != likeliest)
    return {
        "credit": _apart(implicit, shaped(reward, solved.value)),
        "answers": _apart([paths(implicit)], [paths(reward) - solved.value[0]]),
        "shaping": _apart(other.logp, solved.logp),
        "bijection": _apart(again, reward),
        "search": float(missed),
        "dpo": float(_slope(reward, ref, solved.logp).abs().max()),
    }


def _apart(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    return max(float((x - y).abs().max()) for x, y in zip(found, expected, strict=True))


def _slope(reward: Sequence[Tensor], ref: Sequence[Tensor], logp: Sequence[Tensor]) -> Tensor:
    """The gradient, by the log-probabilities of whole answers, of the expected DPO loss over all pairs, at the policy `logp`.

    The loss is convex in them and every policy has them, so where it is flat it is least.
    """
    score, whole = paths(reward), paths(logp).requires_grad_()
    first, second = torch.cartesian_prod(torch.arange(V**H), torch.arange(V**H)).T
    answers = Answers(logp=whole, ref_logp=paths(ref))
    preferred = torch.sigmoid(score[first] - score[second])
    loss = (preferred * dpo(answers.at(first), answers.at(second), beta=BETA)).sum()
    return torch.autograd.grad(loss, whole)[0]


def small_verdict(records: Records) -> list[Finding]:
    chosen, rejected = (records.measure("dpo", name) for name in ("chosen", "rejected"))
    tells, blind, own = (records.measure("dpo", f"{who}tells") for who in ("", "reference ", "policy "))
    imitating, blank = (records.measure(f"demonstrations{arm}", "chosen") for arm in ("", ", from scratch"))
    findings = [
        Finding(
            f"log-ratios tell wrong digits from right ones in more than {TELLS:.0%} of cases, in every seed",
            bool((tells > TELLS).all()),
            {"area": mean(tells), "of the policy's -log p": mean(own)},
        ),
        Finding(
            f"the reference's own -log p does so in less than {BLIND:.0%} of cases: the credit is not fluency",
            bool((blind < BLIND).all()),
            {"area": mean(blind)},
        ),
        Finding(
            "from a start that imitates such answers, chosen and rejected ones alike end less likely than they began, in every "
            "seed, and chosen ones less so",
            bool(((chosen < 0) & (rejected < chosen)).all()),
            {"chosen": mean(chosen), "rejected": mean(rejected)},
        ),
        Finding(
            "on demonstrations chosen ones fall less from scratch than from that start",
            blank.mean() > imitating.mean(),
            {"from scratch": mean(blank), "from the start": mean(imitating)},
        ),
        above("DPO's sampled answers are better than its start's", records.final("dpo"), records.final("start")),
    ]
    return [*findings, *over_trained(records), search(records, "dpo", WIDTHS), *exactness(records)]


def over_trained(records: Records) -> list[Finding]:
    """What little weight does: what DPO looks at grows, what is wanted falls, and the divergence tells."""
    arms, names = ("dpo, little weight", "dpo"), ("tells", "margin", "kl from the reference", "chosen")
    (tells, margin, kl, chosen), (_, less, nearer, likelier) = (
        [records.measure(arm, name) for name in names] for arm in arms
    )
    worth = difference(*(records.final(arm) for arm in arms))
    return [
        Finding(
            f"with little weight the margin is larger, and wrong digits stand out in more than {TELLS:.0%} of cases, too",
            bool((tells > TELLS).all()) and margin.mean() > less.mean(),
            {"area": mean(tells), "margin": difference(margin, less)},
        ),
        Finding("but sampled answers are worse", worth.value < 0, {"difference": worth}),
        Finding(
            "of which the divergence from the reference and the likelihood of chosen answers tell",
            kl.mean() > nearer.mean() and chosen.mean() < likelier.mean(),
            {"divergence": difference(kl, nearer), "chosen": difference(chosen, likelier)},
        ),
    ]


def search(records: Records, arm: str, widths: Sequence[int]) -> Finding:
    """Wider beams find likelier answers; what those are worth is reported, not required."""
    logp, worth = ([records.measure(arm, f"{of}beam {width}") for width in widths] for of in ("log p of ", ""))
    means = [values.mean() for values in logp]
    return Finding(
        f"beams of {', '.join(map(str, widths))} find ever likelier answers; of their worth nothing is required",
        means == sorted(means),
        {
            "log p": difference(logp[-1], logp[0]),
            **{f"score at {width}": mean(values) for width, values in zip(widths, worth, strict=True)},
        },
    )


STATED = {
    "credit": "log-ratios of the best policy are r + V(s') - V(s) at every token",
    "answers": "they add up to an answer's reward but for a constant of its prompt",
    "shaping": "a potential leaves the best policy as it is",
    "bijection": "Q determines the reward",
    "search": "the likeliest answer is the best by reward and value at every depth, and a full beam finds it",
    "dpo": "the expected loss of DPO is flat at the best policy",
}


def exactness(records: Records) -> list[Finding]:
    """What must hold to rounding, on a tree for every seed."""
    found = {name: records.measure("start", name) for name in STATED}
    return [
        Finding(f"on trees of tokens {sentence}", bool((found[name] < EXACT).all()), {"error": mean(found[name])})
        for name, sentence in STATED.items()
    ]


PAPER_WIDTHS, PAPER_ASKED = (1, 2, 5, 10), 256


def paper_arms() -> dict[str, Arm]:
    base = "EleutherAI/pythia-2.8b"
    settings = {"data": "trl-lib/tldr-preference", "reward": "palaestra.claims.copg:tldr_score", "faulty": "skip"}
    host: dict[str, Any] = {
        "model": base,
        "prompts": 64,
        "beta": 0.1,
        "lr": 5e-7,
        "warmup": 150,
        "schedule": "constant",
    }
    host |= {"max_grad_norm": 10.0, "recompute": True}
    common: dict[str, Any] = {"updates": 1450, "seeds": 1, "settings": settings}
    sft = SFT(model=base, lr=2e-5, batch_size=128, warmup=180, recompute=True)
    return {
        "start": Arm(sft, "prompts", updates=900, seeds=1, settings=settings),
        "dpo": Arm(DPO(**host), "prompts", **common, begins_with="start"),
        "dpo without a start": Arm(DPO(**host), "prompts", **common),
    }


def paper_verdict(records: Records) -> list[Finding]:
    (first, *_, last), worth = PAPER_WIDTHS, {w: records.measure("dpo", f"beam {w}") for w in PAPER_WIDTHS}
    chosen, rejected = (records.measure("dpo", name) for name in ("chosen", "rejected"))
    without = records.measure("dpo without a start", "chosen")
    length = {w: records.measure("dpo", f"length of beam {w}") for w in (5, last)}
    return [
        Finding(
            "from a fine-tuned start chosen and rejected answers both end less likely, and chosen ones less so",
            bool(((chosen < 0) & (rejected < chosen)).all()),
            {"chosen": mean(chosen), "rejected": mean(rejected)},
        ),
        Finding("without one chosen answers end likelier", bool((without > 0).all()), {"chosen": mean(without)}),
        above("on held-out prompts a beam of 5 scores higher than the likeliest tokens", worth[5], worth[first]),
        Finding(
            f"a beam of {last} gives longer answers that score lower than those of 5",
            length[last].mean() > length[5].mean() and worth[last].mean() < worth[5].mean(),
            {"length": difference(length[last], length[5]), "score": difference(worth[last], worth[5])},
        ),
    ]


claim = Claim(
    name="r-to-q",
    paper=PAPER,
    sentence="A policy that DPO trained knows which tokens were wrong, and its reference does not; as it learns, chosen answers "
    "become less likely, too, and a margin that still grows hides when its own become worse.",
    scales={
        "small": Scale("25 runs of tiny models, about 5 minutes on two free cores", small_arms(), small_verdict),
        "paper": Scale(
            "3 runs of EleutherAI/pythia-2.8b on trl-lib/tldr-preference, about a day each on 8 GPUs; scored by "
            "OpenAssistant/reward-model-deberta-v3-large-v2",
            paper_arms(),
            paper_verdict,
        ),
    },
    measure=measure,
)
