"""Tricks or traps: what each technique of critic-free reinforcement learning of text does, one switch at a time.

Small scale: sorting digits from the same half-trained start. The named algorithms must each improve on it; which is best is not
asked, since at this size they do not part. What must hold are the mechanisms: of dividing advantages by a group's deviation where
most answers are right, of averaging over tokens, of a wider clip upwards, and of leaving out answers that the limit cut off.
Paper scale: Qwen3 models on mathematics, Lite PPO beside GRPO and DAPO.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from palaestra.claims.claim import Arm, Claim, Finding, Records, Scale, above, arms_of
from palaestra.core.method import Budget, Method
from palaestra.language.policy import LanguagePolicy
from palaestra.language.tasks.sorting import Sorting
from palaestra.methods.language.batch import Batch
from palaestra.methods.language.dapo import DAPO
from palaestra.methods.language.dr_grpo import DrGRPO
from palaestra.methods.language.grpo import GRPO
from palaestra.methods.language.lite_ppo import LitePPO
from palaestra.methods.language.ppo_lm import PPOLM
from palaestra.methods.language.reinforce_pp import ReinforcePP
from palaestra.methods.language.rloo import RLOO
from palaestra.methods.language.sft import SFT
from palaestra.objectives.segments import Average, step_weights
from palaestra.runs.run import Run

PROBLEMS = 250
"""Held-out problems of a measurement."""
COPIES = 4
"""Answers to each that are drawn."""
ROUNDS = 24
"""Rounds of answers of a finished policy whose gradients are looked at."""
HOST: dict[str, Any] = {"lr": 3e-4, "prompts": 16, "group": 8}
"""What all arms share that learn from rewards."""


# ------------------------------------------------------------------------------------------------------- measurements


def measure(run: Run) -> dict[str, float]:
    """Held-out accuracy with room for every answer, what the run logged, and gradients at policies from which others begin."""
    assert run.method is not None
    task, policy = run.method.task, run.method.policy()
    assert isinstance(policy, LanguagePolicy)
    found = accuracy(policy, replace(task, limit=0), run.seed) if isinstance(task, Sorting) else {}
    if isinstance(run.config, GRPO):
        rows = [row for row in run.metrics if "policy/entropy" in row]
        found["clipped up"] = float(np.mean([row["policy/clipped_up"] for row in rows]))
        found["entropy at the end"] = float(np.mean([row["policy/entropy"] for row in rows[-10:]]))
        found["cut off"] = float(np.mean([row["answers/truncated"] for row in rows]))
    elif isinstance(task, Sorting):
        found |= gradients(run)
    return found


def accuracy(policy: LanguagePolicy, task: Sorting, seed: int) -> dict[str, float]:
    """The share of held-out answers that are right and ended by themselves, drawn and greedy."""
    found = {}
    for name, how in (("right", {"copies": COPIES, "seed": seed}), ("greedy right", {"greedy": True})):
        samples = policy.answer(task.rows("test")[:PROBLEMS], max_tokens=task.max_tokens, **how)  # type: ignore[arg-type]
        with task.judge() as judge:
            right = judge(samples).total == 1
        found[name] = float(np.mean([bool(one) and not s.truncated for one, s in zip(right, samples, strict=True)]))
    return found


def gradients(run: Run) -> dict[str, float]:
    """Of rounds of answers of the finished policy, without a step: advantages and gradients under each deviation that divides
    them, and the share of the longest quarter of the answers in the gradient under two averages."""
    method = GRPO(**HOST, model=str(run.folder / "policy")).bind(run.task, run.seed, Budget(updates=1))
    assert isinstance(method, GRPO)
    largest: dict[str, list[float]] = {scale: [] for scale in ("group", "batch", "none")}
    norms: dict[str, list[float]] = {scale: [] for scale in largest}
    share: dict[str, list[float]] = {"token-mean": [], "sequence-mean": []}
    solved = []
    for method.round in range(ROUNDS):
        samples, _ = method.sample()
        rewards, group = torch.tensor([s.reward for s in samples]), torch.tensor([s.group for s in samples])
        solved.append(float(rewards.mean()))
        for scale in largest:
            scaled: Any = scale
            method.scale = scaled
            batch = method.learnable(samples, rewards, group)
            largest[scale].append(max(float(part.advantage.abs().max()) for part in batch.parts))
            norms[scale].append(norm(method, weighed(batch, "sequence-mean")))
            if scale == "group":
                for average in share:
                    share[average].append(share_of_longest(method, batch, average))  # type: ignore[arg-type]
    found = {"solved": np.mean(solved)}
    for scale in largest:
        found[f"largest advantage, {scale}"] = np.max(largest[scale])
        found[f"spread of gradient norms, {scale}"] = np.std(norms[scale]) / max(np.mean(norms[scale]), 1e-12)
    for average, shares in share.items():
        found[f"share of the longest, {average}"] = np.nanmean(shares)
    return {name: float(value) for name, value in found.items()}


def weighed(batch: Batch, average: Average) -> Batch:
    """Answers with the weight of each token in an average over all of them."""
    return batch.with_weights(lambda mask, segment: step_weights(mask, segment, average))


def norm(method: GRPO, batch: Batch) -> float:
    """The norm of the policy's gradient on answers whose tokens have weights."""
    total: list[Tensor] = []
    for part in batch.micro(method.micro_tokens):
        found = torch.autograd.grad(method.loss(part)[0], method.optimiser.params)
        total = [a + b for a, b in zip(total, found, strict=True)] if total else list(found)
    return float(torch.stack([g.square().sum() for g in total]).sum().sqrt())


def share_of_longest(method: GRPO, batch: Batch, average: Average) -> float:
    """The gradient norm of the longest quarter of the answers, as a part of its sum with that of the others."""
    parts = sorted(weighed(batch, average).parts, key=lambda part: int(part.mask.sum()))
    cut = len(parts) - len(parts) // 4
    rest, longest = norm(method, Batch(parts[:cut])), norm(method, Batch(parts[cut:]))
    return longest / (longest + rest) if longest + rest else float("nan")


# --------------------------------------------------------------------------------------------------------- small scale

PRESETS: Mapping[str, Method] = {
    "grpo": GRPO(**HOST, epochs=2, kl_weight=0.001),
    "dapo": DAPO(**HOST, epochs=2),
    "dr-grpo": DrGRPO(**HOST, epochs=2),
    "lite-ppo": LitePPO(**HOST, epochs=2),
    "rloo": RLOO(**HOST, epochs=2),
    "reinforce-pp": ReinforcePP(**HOST, epochs=2),
    "ppo-lm": PPOLM(**HOST, epochs=2),
}
SEEDS = 3
CUT = 6
"""Tokens of an answer that does not have room for seven digits, nor for six and an end."""


def small_arms() -> dict[str, Arm]:
    arms = {
        "sft": Arm(SFT(model="tiny-64x2"), "sorting", updates=300, seeds=SEEDS),
        "sft, most solved": Arm(SFT(model="tiny-64x2"), "sorting", updates=1_000, seeds=SEEDS),
    }
    arms |= arms_of(PRESETS, "sorting", updates=240, seeds=SEEDS, begins_with="sft")
    clipped = {f"clip to {1 + high:g}": GRPO(**HOST, epochs=4, clip_high=high) for high in (0.2, 0.28)}
    arms |= arms_of(clipped, "sorting", updates=400, seeds=SEEDS, begins_with="sft")
    # Compared with its own group, an answer to a prompt of which all are cut off teaches nothing in either case.
    cut: Any = {**HOST, "epochs": 2, "centre": "batch", "scale": "batch"}
    methods = {"cut off, kept": GRPO(**cut), "cut off, masked": GRPO(**cut, overlong="mask")}
    return arms | arms_of(methods, "sorting", updates=240, seeds=SEEDS, settings={"limit": CUT}, begins_with="sft")


def small_verdict(records: Records) -> list[Finding]:
    easy, start, spread = "sft, most solved", "sft", "spread of gradient norms"
    share = "share of the longest"
    narrow, wide, kept, masked = "clip to 1.2", "clip to 1.28", "cut off, kept", "cut off, masked"
    of = records.measure
    return [
        *(above(f"sorting: {name} improves on its start", of(name, "right"), of(start, "right")) for name in PRESETS),
        above(
            "where most is solved, the largest advantage is larger under the group's deviation than under the batch's",
            of(easy, "largest advantage, group"),
            of(easy, "largest advantage, batch"),
        ),
        above(
            "where most is solved, gradient norms vary more under the group's deviation than under the batch's",
            of(easy, f"{spread}, group"),
            of(easy, f"{spread}, batch"),
        ),
        above(
            "the longest quarter of the answers has more of the gradient under the mean over tokens than within answers first",
            of(start, f"{share}, token-mean"),
            of(start, f"{share}, sequence-mean"),
        ),
        above("a wider clip upwards binds less often", of(narrow, "clipped up"), of(wide, "clipped up")),
        above(
            "a wider clip upwards leaves more entropy", of(wide, "entropy at the end"), of(narrow, "entropy at the end")
        ),
        above(
            "with answers that were cut off masked, more is right in the end", of(masked, "right"), of(kept, "right")
        ),
        above("and more of the greedy answers are", of(masked, "greedy right"), of(kept, "greedy right")),
    ]


# --------------------------------------------------------------------------------------------------------- paper scale

PAPER_HOST: dict[str, Any] = {
    "lr": 1e-6,
    "prompts": 128,
    "group": 8,
    "minibatches": 8,
    "temperature": 0.99,
    "top_k": 100,
    "top_p": 0.99,
    "max_tokens": 8192,
}
MATHS = "palaestra.language.tasks.maths:Maths"


def paper_arms() -> dict[str, Arm]:
    methods: dict[str, GRPO] = {
        "lite-ppo": LitePPO(**PAPER_HOST),
        "grpo": GRPO(**PAPER_HOST, kl_weight=0.001),
        "dapo": DAPO(**PAPER_HOST, soft_overlong=0.2),
    }
    sized = {
        f"{name} {size}": replace(method, model=f"Qwen/Qwen3-{size}-Base")
        for size in ("4B", "8B")
        for name, method in methods.items()
    }
    return arms_of(sized, MATHS, updates=2_400, seeds=1, settings={"path": "math", "limit": 8192})


def paper_verdict(records: Records) -> list[Finding]:
    return [
        above(
            f"{MATHS}, {size}: Lite PPO ends above {other}",
            records.final(f"lite-ppo {size}"),
            records.final(f"{other} {size}"),
        )
        for size in ("4B", "8B")
        for other in ("grpo", "dapo")
    ]


claim = Claim(
    name="tricks-or-traps",
    paper=LitePPO.paper,
    sentence="Two techniques, the group's mean with the batch's deviation and a loss over tokens, do what longer recipes do; "
    "every technique has a mechanism of its own that can be measured.",
    scales={
        "small": Scale(
            "39 short runs on sorting digits, about 15 minutes on one free core", small_arms(), small_verdict
        ),
        "paper": Scale(
            "6 runs of Qwen/Qwen3-4B-Base and Qwen/Qwen3-8B-Base on mathematics, 300 rounds each: days of 8 GPUs; needs the "
            "files of MATH in PALAESTRA_DATA (math/train.jsonl, math/test.jsonl)",
            paper_arms(),
            paper_verdict,
        ),
    },
    measure=measure,
)
