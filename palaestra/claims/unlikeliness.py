"""Unlikeliness: GRPO raises what is likely already, so that many tries find less; a discount of likely answers mends that.

Small scale, 256 contexts and 64 arms in text, of which a quarter is right, after demonstrations that show some arms far
more often than others, right or wrong; what matters is computed from the policy's probabilities. In `unlikeliness-proofs`:
theorems, after demonstrations in one common style and three rare ones. GRPO is the same method with a discount of 0.
Paper scale: DeepSeek-Prover-V1.5-SFT on Lean, whose checker is a reward function that the user brings.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from palaestra.claims.claim import Arm, Claim, Finding, Records, Scale, above, arms_of, difference, mean
from palaestra.language.passes import passes, rates
from palaestra.language.tasks.bandit import Bandit
from palaestra.methods.language.sft import SFT
from palaestra.methods.language.unlikeliness import Unlikeliness
from palaestra.objectives.coverage import chance_of_pass, coverage
from palaestra.runs.run import Run

BANDITS, PROOFS = "bandit", "proofs"
HABIT = {"habit": 2.5}
DISCOUNTS = (0.0, 0.25, 0.5, 1.0)
ROUNDS = 100
TRIES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
DRAWS = 256
"""Of which the coverage of right answers is taken."""
THEOREMS = 40
BIAS = 0.2
"""By how much more often the likeliest quarter of right answers must be raised than the least likely one."""
COST = 0.1
"""What a discount of 0.25 may take from pass@1."""


def discounted(discount: float) -> str:
    return f"discount {discount:g}"


def bandit_arms() -> dict[str, Arm]:
    base = SFT(model="tiny-64x1", lr=5e-3, batch_size=256)
    arms = {"base": Arm(base, BANDITS, updates=400, seeds=3, settings=HABIT)}
    host = Unlikeliness(prompts=8, epochs=1, minibatches=2, kl_weight=0.0, answers_wanted=0, lr=2e-3)
    answers = ROUNDS * host.prompts * host.group
    methods = {discounted(d): replace(host, discount=d) for d in DISCOUNTS}
    methods["4 epochs"] = replace(host, discount=0.0, epochs=4)
    return arms | arms_of(methods, BANDITS, steps=answers, seeds=3, settings=HABIT, begins_with="base")


def proof_arms() -> dict[str, Arm]:
    arms = {"base": Arm(SFT(lr=3e-3), PROOFS, updates=400, seeds=2)}
    host = Unlikeliness(prompts=8, kl_weight=0.0, lr=1e-3)
    methods = {"grpo": replace(host, discount=0.0), "unlikeliness": replace(host, discount=0.25)}
    return arms | arms_of(methods, PROOFS, updates=120, seeds=2, begins_with="base")


def measure(run: Run) -> dict[str, float]:
    """How much is right in one try and in many, and how often right answers were raised."""
    policy = run.policy
    found = {}
    for part in ("least_likely", "most_likely"):
        rows = [row[f"uplift/{part}"] for row in run.metrics if f"uplift/{part}" in row]
        if rows:
            found[f"raised, {part.replace('_', ' ')}"] = float(np.mean(rows))
    if isinstance(run.task, Bandit):
        probability, right = run.task.probabilities(policy).double(), run.task.levels == 1  # type: ignore[arg-type]
        chance = (probability * right).sum(-1)
        found |= {f"pass@{k}": float(chance_of_pass(chance, k).mean()) for k in (1, 64)}
        return {**found, "coverage": float(coverage(probability, right, DRAWS).mean())}
    return found | rates(passes(policy, run.evaluated_on, TRIES[-1], THEOREMS, run.seed), TRIES)  # type: ignore[arg-type]


def bandit_verdict(records: Records) -> list[Finding]:
    def of(arm: str, name: str) -> np.ndarray:
        return records.measure(arm, name)

    def bias(arm: str) -> np.ndarray:
        return of(arm, "raised, most likely") - of(arm, "raised, least likely")

    plain = discounted(0.0)
    biases = [bias(discounted(d)) for d in DISCOUNTS]
    lists = {name: [of(discounted(d), name) for d in DISCOUNTS] for name in ("pass@1", "pass@64", "coverage")}
    lost = difference(lists["pass@1"][0], lists["pass@1"][1])
    return [
        Finding(
            f"GRPO raises the likeliest quarter of right answers at least {BIAS} more often than the least likely one",
            bool(biases[0].mean() >= BIAS),
            {"difference": mean(biases[0])},
        ),
        falling("that difference shrinks with every larger discount", biases),
        falling("pass@64 rises with every larger discount", [-x for x in lists["pass@64"]]),
        falling("the coverage of right answers rises with every larger discount", [-x for x in lists["coverage"]]),
        Finding(
            f"pass@1 falls with a discount of 0.25, by less than {COST}",
            0 < lost.value < COST,
            {"fall": lost},
        ),
        above(
            "four epochs raise the least likely quarter more often than one",
            of("4 epochs", "raised, least likely"),
            of(plain, "raised, least likely"),
        ),
    ]


def proof_verdict(records: Records) -> list[Finding]:
    most = f"pass@{TRIES[-1]}"
    return [
        above(f"{better} is above {worse} in {what}", records.measure(better, name), records.measure(worse, name))
        for name, what, better, worse in (
            ("pass@1", "pass@1", "grpo", "base"),
            ("pass@1", "pass@1", "unlikeliness", "base"),
            (most, most, "unlikeliness", "grpo"),
            ("distinct_right", "different right proofs", "unlikeliness", "grpo"),
        )
    ]


def falling(sentence: str, samples: list[np.ndarray]) -> Finding:
    """That means fall from each sample to the next."""
    steps = {
        f"from {a:g} to {b:g}": difference(first, second)
        for a, b, first, second in zip(DISCOUNTS, DISCOUNTS[1:], samples, samples[1:])
    }
    return Finding(sentence, all(step.value > 0 for step in steps.values()), steps)


LEAN = {"data": "lean_workbook.parquet", "reward": "lean.py:proved", "column": "prompt", "limit": 512}
"""The paper's statements as rows, and a reward function that runs Lean on statement and proof."""


EPOCH = 1_750
"""Rounds that go once through 28,000 statements, 16 at a time, where one sampling is enough for an update."""


def paper_arms() -> dict[str, Arm]:
    """The methods that are compared. How much the divergence weighs in the paper's plain GRPO is not released, only that it is
    less than 0.1; here it is 0."""
    host = Unlikeliness(model="deepseek-ai/DeepSeek-Prover-V1.5-SFT", lr=1e-6)
    methods = {
        "grpo": replace(host, discount=0.0, kl_weight=0.0, epochs=1),
        "grpo, high divergence weight": replace(host, discount=0.0, epochs=1),
        "unlikeliness-1": replace(host, epochs=1),
        "unlikeliness-2": host,
    }
    return {
        name: Arm(method, "prompts", updates=EPOCH * method.epochs, seeds=1, settings=LEAN)
        for name, method in methods.items()
    }


def paper_verdict(records: Records) -> list[Finding]:
    return [
        above(
            f"prompts in Lean: unlikeliness-2 is above grpo in pass@{k}",
            records.measure("unlikeliness-2", f"pass@{k}"),
            records.measure("grpo", f"pass@{k}"),
        )
        for k in (128, 256)
    ]


PAPER_SCALE = Scale(
    "4 runs of deepseek-ai/DeepSeek-Prover-V1.5-SFT on 28,000 Lean statements, several GPU-weeks; needs them as "
    "lean_workbook.parquet (column `prompt`), and in lean.py a reward function `proved` that runs Lean",
    paper_arms(),
    paper_verdict,
)

claim = Claim(
    name="unlikeliness",
    paper=Unlikeliness.paper,
    sentence="GRPO raises right answers that are likely already, and finds less in many tries than a policy whose likely answers "
    "are worth less; that one pays little for it in one try.",
    scales={
        "small": Scale(
            "18 short runs of tiny models, about 6 minutes on two free cores", bandit_arms(), bandit_verdict
        ),
        "paper": PAPER_SCALE,
    },
    measure=measure,
)

proofs = Claim(
    name="unlikeliness-proofs",
    paper=Unlikeliness.paper,
    sentence="Of proofs, too, a policy whose likely right answers are worth less finds more in many tries than GRPO's.",
    scales={
        "small": Scale("6 runs of tiny models, about 10 minutes on two free cores", proof_arms(), proof_verdict),
        "paper": PAPER_SCALE,
    },
    measure=measure,
)
