"""MMaDA: UniGRPO improves a masked-diffusion language model after fine-tuning, in text and in images, by one and the same update.

Small scale: two-digit addition with a carry thought of first, in a place of 9 tokens that 4 passes fill in; fine-tuning is kept
short, so that there is something to improve. Against UniGRPO stand shares of masks that are drawn anew in each pass, and d1's
masking (reported; nothing must hold there). Fine-tuning without the thought is compared at equal updates. In `mmada-images`:
captions of 8 by 8 images and images of captions, one model, joint fine-tuning and joint UniGRPO.
Paper scale: LLaDA-8B-Instruct on GSM8K.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from palaestra.claims.claim import Arm, Claim, Finding, Records, Scale, above, arms_of, difference, estimate, mean
from palaestra.language.diffusion.policy import DiffusionLanguagePolicy
from palaestra.language.task import TextTask
from palaestra.language.tasks.squares import Squares
from palaestra.methods.language.mdm_sft import MDMSFT
from palaestra.methods.language.unigrpo import UniGRPO
from palaestra.runs.run import Run

ADDITION, SQUARES, WORDS = "arithmetic", "squares", "gsm8k"
SEEDS = 3
POINTS = 0.15
"""By how much the accuracy after UniGRPO must exceed that after fine-tuning, on every seed."""
ASKED = 1000
"""Held-out prompts behind an accuracy."""
TUNING: dict[str, Any] = {"lr": 3e-3}
TUNED = 550
"""Updates of fine-tuning on addition, after which about half of the answers are right."""
LEARNING: dict[str, Any] = {"lr": 2e-4, "warmup": 20, "prompts": 64, "group": 8, "epochs": 4}
PICTURES = {"colours": 4, "largest": 2, "shades": False}
D1: dict[str, Any] = {"masking": "d1", "clip": 0.5}


def addition_arms() -> dict[str, Arm]:
    arms = {
        "sft": Arm(MDMSFT(**TUNING, batch_size=128, steps=4), ADDITION, updates=TUNED, seeds=SEEDS),
        "sft without thoughts": Arm(
            MDMSFT(**TUNING, batch_size=128, steps=2),
            ADDITION,
            updates=TUNED,
            seeds=SEEDS,
            settings={"scratch": False},
        ),
    }
    methods = {
        "unigrpo": UniGRPO(**LEARNING),
        "random shares": UniGRPO(**LEARNING, masking="random"),
        "d1": UniGRPO(**LEARNING, **D1),
    }
    return arms | arms_of(methods, ADDITION, updates=320, seeds=SEEDS, begins_with="sft")


def image_arms() -> dict[str, Arm]:
    tuning = MDMSFT(**TUNING, batch_size=64, steps=4, image_steps=8, image_masking="cosine")
    return {
        "sft": Arm(tuning, SQUARES, updates=1500, seeds=SEEDS, settings=PICTURES),
        "unigrpo": Arm(UniGRPO(**LEARNING), SQUARES, updates=320, seeds=SEEDS, settings=PICTURES, begins_with="sft"),
    }


def measure(run: Run) -> dict[str, float]:
    """Accuracies on held-out prompts: of the likeliest answers and of sampled ones; of squares, of captions and of images."""
    assert isinstance(run.policy, DiffusionLanguagePolicy)
    tasks: dict[str, TextTask] = {"": run.evaluated_on}  # type: ignore[dict-item]
    if isinstance(run.task, Squares):
        tasks = {"captions, ": replace(run.task, ask="caption"), "images, ": replace(run.task, ask="draw")}
    return {
        f"{of}{how}": accuracy(run.policy, task, run.seed, greedy=how == "greedy")
        for of, task in tasks.items()
        for how in ("greedy", "sampled")
    }


def accuracy(policy: DiffusionLanguagePolicy, task: TextTask, seed: int, greedy: bool) -> float:
    """The share of held-out prompts that are answered rightly."""
    rows = [task.rows("test")[i] for i in range(ASKED)]
    samples = policy.answer(rows, max_tokens=task.max_tokens, greedy=greedy, seed=seed)
    with task.judge() as judge:
        return float(judge(samples).total.mean())


def addition_verdict(records: Records) -> list[Finding]:
    found = {arm: records.measure(arm, "greedy") for arm in addition_arms()}
    return [
        on_every_seed(f"UniGRPO is right at least {POINTS:.0%} more often than fine-tuning", found, POINTS),
        at_least("UniGRPO is right at least as often as with random shares", found["unigrpo"], found["random shares"]),
        at_least("with a thought, fine-tuning is right at least as often as without", *_pair(found, "sft")),
    ]


def _pair(found: dict[str, np.ndarray], arm: str) -> tuple[np.ndarray, np.ndarray]:
    return found[arm], found[f"{arm} without thoughts"]


def on_every_seed(sentence: str, found: dict[str, np.ndarray], least: float) -> Finding:
    """That UniGRPO's accuracy lies at least so far above that of the fine-tuned model it began with, on every seed."""
    smallest = estimate(np.min, found["unigrpo"] - found["sft"])
    numbers = {"smallest difference": smallest, **{arm: mean(values) for arm, values in found.items()}}
    return Finding(sentence, smallest.value >= least, numbers)


def at_least(sentence: str, first: np.ndarray, second: np.ndarray) -> Finding:
    """That the mean of `first` is not below that of `second`."""
    gap = difference(first, second)
    return Finding(sentence, gap.value >= 0, {"difference": gap})


def image_verdict(records: Records) -> list[Finding]:
    return [
        above(
            f"UniGRPO raises the accuracy of {of}",
            records.measure("unigrpo", f"{of}, greedy"),
            records.measure("sft", f"{of}, greedy"),
        )
        for of in ("captions", "images")
    ]


def paper_arms() -> dict[str, Arm]:
    answers = {"max_tokens": 128, "steps": 128, "block": 64}
    tuning = MDMSFT(model="GSAI-ML/LLaDA-8B-Instruct", lr=5e-5, warmup=5000, batch_size=1280, **answers)
    learning = {"lr": 1e-6, "prompts": 512, "group": 16, "temperature": 0.8, "minibatches": 64, "epochs": 5, **answers}
    arms = {"sft": Arm(tuning, WORDS, updates=50_000, seeds=1)}
    methods = {
        "unigrpo": UniGRPO(**learning),
        "random shares": UniGRPO(**learning, masking="random"),
        "d1": UniGRPO(**learning, **D1),
    }
    return arms | arms_of(methods, WORDS, updates=16_000, seeds=1, begins_with="sft")


def paper_verdict(records: Records) -> list[Finding]:
    others = {"sft": "fine-tuning", "random shares": "random shares", "d1": "d1's masking"}
    return [
        above(f"{WORDS}: UniGRPO ends above {called}", records.final("unigrpo"), records.final(other))
        for other, called in others.items()
    ]


PAPER_SCALE = Scale(
    "4 runs of GSAI-ML/LLaDA-8B-Instruct on GSM8K, hundreds of GPU-days; needs the files of GSM8K in PALAESTRA_DATA",
    paper_arms(),
    paper_verdict,
)

claim = Claim(
    name="mmada",
    paper=UniGRPO.paper,
    sentence="UniGRPO teaches a fine-tuned masked-diffusion language model much that fine-tuning did not, and shares of masks "
    "that are spread evenly teach no less than shares drawn at random.",
    scales={
        "small": Scale(
            "15 short runs of tiny models, about 7 minutes on two free cores", addition_arms(), addition_verdict
        ),
        "paper": PAPER_SCALE,
    },
    measure=measure,
)

images = Claim(
    name="mmada-images",
    paper=UniGRPO.paper,
    sentence="One model captions images and draws captions, and one update with one reward of each raises both.",
    scales={
        "small": Scale("6 runs of tiny models, some 20 minutes on two cores", image_arms(), image_verdict),
        "paper": PAPER_SCALE,
    },
    measure=measure,
)
