"""To backtrack or not: one long answer that searches, or as many short ones as the same compute buys.

Small scale: CountDown with three numbers and Sudoku with four digits, models of a third of a million parameters, trained from
scratch on answers alone ("direct") or on depth-first searches ("backtrack"; "mix" and "think" are its variants). Searches are
answered greedily, direct answers sampled at temperature 1, and every sample counts, the unreadable too. Which of the two wins
at Sudoku is reported. Variants of searches, and rewards for them, are a claim of their own, since they take longer than all
else; it says what the paper found, which a model of this size may be too small for.
Paper scale: its sizes of models, and its problems.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from palaestra.claims.claim import Arm, Claim, Finding, Records, Scale, difference, mean
from palaestra.core.method import Paper
from palaestra.language.compute import Shape
from palaestra.language.policy import LanguagePolicy
from palaestra.language.rows import Row
from palaestra.language.sample import Sample
from palaestra.language.task import TextTask
from palaestra.language.tasks.countdown import CountDown
from palaestra.language.tasks.countdown_search import Node, State
from palaestra.language.verifiers.equations import read_trace
from palaestra.language.verifiers.sudoku import read_filled
from palaestra.methods.language.grpo import GRPO
from palaestra.methods.language.sft import SFT
from palaestra.objectives.coverage import pass_at_k
from palaestra.runs.run import Run

PAPER = Paper("To Backtrack or Not to Backtrack: When Sequential Search Limits Model Reasoning", 2025, "2504.07052")
PROBLEMS = 150
"""Held-out problems of a measurement, the same for all arms of a game."""
DRAWN = {"direct": 64, "path": 64}
"""Answers drawn for each problem; 16 searches where nothing else is said."""
TRIES = (*range(1, 17), 20, 24, 28, 32, 40, 48, 56, 64)
"""The k of pass@k."""
BUDGETS = (16, 32, 48, 64, 96, 128, 192, 256, 512, 1024)
"""Tokens within which an answer must end to count."""


# ------------------------------------------------------------------------------------------------------- measurements


def measure(run: Run) -> dict[str, float]:
    """Pass@k of sampled answers, and what the greedy one reaches within every budget, with what both cost."""
    assert run.method is not None
    task: Any = run.method.task
    policy: Any = run.method.policy()
    rows = task.rows("test")[:PROBLEMS]
    copies = DRAWN.get(task.form, 16)
    drawn, right = answers(policy, task, rows, copies=copies, seed=run.seed)
    found = {f"pass@{k}": float(pass_at_k(right.sum(1), copies, k).mean()) for k in TRIES if k <= copies}
    shape = Shape.of(policy.model)
    found |= {"tokens": _tokens(drawn).mean(), "flops": _flops(shape, drawn).mean()}
    greedy, [*solved] = answers(policy, task, rows, greedy=True)
    found |= within(greedy, torch.stack(solved).squeeze(1).numpy(), shape, task.max_tokens)
    found["mistakes"] = before_success(right) if task.form in DRAWN else undone(greedy)
    if isinstance(task, CountDown):
        found |= habits(task, greedy, rows)
    return found


def answers(
    policy: LanguagePolicy, task: TextTask, rows: Sequence[Row], **how: Any
) -> tuple[list[Sample], torch.Tensor]:
    """Answers to every row, and whether each is right, `(rows, copies)`."""
    samples = policy.answer(rows, max_tokens=task.max_tokens, stop=task.stop, **how)
    with task.judge() as judge:
        right = judge(samples).parts["correct"] == 1
    for sample, one in zip(samples, right, strict=True):
        sample.reward = float(one)
    return samples, right.view(len(rows), -1)


def within(samples: Sequence[Sample], right: np.ndarray, shape: Shape, limit: int) -> dict[str, float]:
    """The share that is right within so many tokens, and the operations that this takes: one that is cut off is wrong."""
    tokens = _tokens(samples)
    found = {"greedy": right.mean(), "greedy tokens": tokens.mean(), "greedy flops": _flops(shape, samples).mean()}
    for budget in BUDGETS:
        if budget < limit:
            found[f"greedy in {budget}"] = (right & (tokens <= budget)).mean()
            found[f"flops in {budget}"] = _flops(shape, samples, budget).mean()
    return {name: float(value) for name, value in found.items()}


def habits(task: CountDown, samples: Sequence[Sample], rows: Sequence[Row]) -> dict[str, float]:
    """How much alike the numbers are that a model and the search of its data look at, and what that search solves."""
    similar, solved = [], []
    for sample, row in zip(samples, rows, strict=True):
        numbers = tuple(sorted(row["numbers"]))
        found = task.searched((numbers, row["target"]))
        similar.append(jaccard(set(read_trace(sample.text, numbers).visited), looked_at(found.root)))
        solved.append(float(found.solved))
    return {"likeness to the search": float(np.mean(similar)), "solved by the search": float(np.mean(solved))}


def looked_at(root: Node) -> set[State]:
    """The numbers after every step of a search."""
    return {state for node in root.tried for state in (node.state, *looked_at(node))}


def jaccard(first: set[Any], second: set[Any]) -> float:
    """What two sets share, as a part of what is in either; 1 where both are empty."""
    return len(first & second) / len(first | second) if first | second else 1.0


def before_success(right: torch.Tensor) -> float:
    """Mean number of wrong answers before the first right one, `right` `(problems, answers)`, where there is one."""
    first = right.int().argmax(1)[right.any(1)]
    return float(first.float().mean()) if len(first) else 0.0


def undone(samples: Sequence[Sample]) -> float:
    """Mean number of times that a right answer took something back."""
    counts = [
        (read_filled(s.text, s.row["givens"]) if "givens" in s.row else read_trace(s.text, s.row["numbers"])).undone
        for s in samples
        if s.reward
    ]
    return float(np.mean(counts)) if counts else 0.0


def _tokens(samples: Sequence[Sample]) -> np.ndarray:
    return np.array([int(s.mask.sum()) for s in samples])


def _flops(shape: Shape, samples: Sequence[Sample], budget: int | None = None) -> np.ndarray:
    tokens = _tokens(samples)
    if budget is not None:
        tokens = tokens.clip(max=budget)
    return np.array([shape.generation_flops(s.prompt, int(n)) for s, n in zip(samples, tokens, strict=True)], float)


# ------------------------------------------------------------------------------------------------------------ verdicts


def as_many(records: Records, direct: str, trace: str, unit: str) -> np.ndarray:
    """Pass@k of direct answers, with the largest k measured that costs no more `unit` than a whole trace; a number per seed, 0
    where not one fits."""
    ratio = records.measure(trace, f"greedy {unit}") / records.measure(direct, unit)
    fits = [max([k for k in TRIES if k <= r], default=0) for r in ratio]
    return np.array([records.measure(direct, f"pass@{k}")[i] if k else 0.0 for i, k in enumerate(fits)])


def at_equal_cost(
    records: Records, answers: str, trace: str, sentence: str, trace_ahead: bool = False
) -> list[Finding]:
    """That answers are right more often than one trace, or the other way round, at the tokens of a whole trace and at its
    operations; the `sentence` has a place for which of the two."""
    findings = []
    for unit, cost in (("tokens", "tokens"), ("flops", "operations")):
        many, one = as_many(records, answers, trace, unit), records.measure(trace, "greedy")
        gap = difference(one, many) if trace_ahead else difference(many, one)
        numbers = {"difference": gap, "direct": mean(many), "trace": mean(one)}
        findings.append(Finding(sentence.format(cost), gap.value > 0, numbers))
    return findings


def answers_ahead(records: Records) -> list[Finding]:
    """That at CountDown answers win, whether those demonstrated are any solutions or the ones that the searches find."""
    sentence = "countdown: at the {} of whole traces, as many %s as fit are right more often than one trace"
    return [
        *at_equal_cost(records, "countdown direct", "countdown backtrack", sentence % "direct answers"),
        *at_equal_cost(
            records, "countdown path", "countdown backtrack", sentence % "answers by the searches' own solutions"
        ),
    ]


def after_grpo(records: Records) -> list[Finding]:
    """That GRPO on direct answers finds no less at once, and less in many tries."""
    change = {
        k: difference(
            records.measure("countdown direct, grpo", f"pass@{k}"), records.measure("countdown direct", f"pass@{k}")
        )
        for k in (1, 64)
    }
    return [
        Finding("countdown: GRPO on direct answers does not lower pass@1", change[1].value >= 0, {"change": change[1]}),
        Finding("countdown: GRPO on direct answers lowers pass@64", change[64].value < 0, {"change": change[64]}),
    ]


def more_is_better(records: Records, budget: int) -> list[Finding]:
    """That traces use the tokens and direct answers the tries that they are given."""
    whole, part = (records.measure("sudoku backtrack", name) for name in ("greedy", f"greedy in {budget}"))
    many, one = (records.measure("sudoku direct", f"pass@{k}") for k in (16, 1))
    longer, tried = difference(whole, part), difference(many, one)
    return [
        Finding(
            f"sudoku: whole traces are right more often than their first {budget} tokens",
            longer.value > 0,
            {"gain": longer},
        ),
        Finding("sudoku: 16 direct answers are right more often than one", tried.value > 0, {"gain": tried}),
    ]


def searches_ahead(records: Records) -> list[Finding]:
    """That at Sudoku one trace wins."""
    sentence = "sudoku: one trace is right more often than as many direct answers as fit into its {}"
    return at_equal_cost(records, "sudoku direct", "sudoku backtrack", sentence, trace_ahead=True)


# --------------------------------------------------------------------------------------------------------- small scale

SEEDS = 3
COUNTDOWN: dict[str, Any] = {"train_rows": 12_000}
SUDOKU: dict[str, Any] = {"train_rows": 20_000}


def imitating(form: str) -> Arm:
    """A model from scratch on CountDown's answers or searches."""
    method = SFT(model="tiny-96x3", batch_size=128 if form in DRAWN else 48)
    return Arm(method, "countdown", updates=1_200, seeds=SEEDS, settings={**COUNTDOWN, "form": form})


def rewarded(form: str) -> Arm:
    """The same, further by reinforcement learning."""
    method = GRPO(lr=5e-5, prompts=16, group=16, epochs=2, average="token-mean", kl_weight=0.001)
    settings = {**COUNTDOWN, "form": form}
    return Arm(method, "countdown", updates=240, seeds=SEEDS, settings=settings, begins_with=f"countdown {form}")


def small_arms() -> dict[str, Arm]:
    arms = {f"countdown {form}": imitating(form) for form in ("direct", "path", "backtrack")}
    return arms | {"countdown direct, grpo": rewarded("direct")}


def sudoku_arms() -> dict[str, Arm]:
    method = SFT(model="tiny-96x3", batch_size=64)
    return {
        f"sudoku {form}": Arm(method, "sudoku", updates=2_000, seeds=SEEDS, settings={**SUDOKU, "form": form})
        for form in ("direct", "backtrack")
    }


def variants_arms() -> dict[str, Arm]:
    arms = {f"countdown {form}": imitating(form) for form in ("backtrack", "mix", "think")}
    return arms | {"countdown backtrack, grpo": rewarded("backtrack")}


def countdown_verdict(records: Records) -> list[Finding]:
    return [*answers_ahead(records), *after_grpo(records)]


def sudoku_verdict(records: Records) -> list[Finding]:
    return [*more_is_better(records, 48), *searches_ahead(records)]


# --------------------------------------------------------------------------------------------------------- paper scale

PUBLISHED: dict[str, Any] = {
    "numbers": 4,
    "largest": 99,
    "low": 10,
    "high": 100,
    "ceiling": 9801,
    "held_targets": 0.1,
    "train_rows": 500_000,
    "budget": 100,
}
HARD: dict[str, Any] = {"size": 9, "train_rows": 1_000_000, "budget": 350}
"""Searches are cut where sequences would leave the positions that a tiny model has."""


def published_arms() -> dict[str, Arm]:
    games = {"countdown": ("tiny-384x7", PUBLISHED, 230_000), "sudoku": ("tiny-576x7", HARD, 460_000)}
    forms = {"countdown": ("direct", "path", "backtrack", "mix", "think"), "sudoku": ("direct", "backtrack")}
    arms = {
        f"{game} {form}": Arm(
            SFT(model=model, lr=2e-4, warmup=1_000), game, updates=updates, seeds=3, settings={**settings, "form": form}
        )
        for game, (model, settings, updates) in games.items()
        for form in forms[game]
    }
    grpo = GRPO(lr=1e-5, prompts=64, group=16, minibatches=2, average="token-mean", kl_weight=0.001)
    return arms | {
        f"{game} {form}, grpo": Arm(
            grpo, game, updates=1_000, seeds=3, settings={**games[game][1], "form": form}, begins_with=f"{game} {form}"
        )
        for game in games
        for form in ("direct", "backtrack")
    }


def paper_arms(game: str) -> dict[str, Arm]:
    arms = published_arms().items()
    return {label: arm for label, arm in arms if label.startswith(game) and not label.startswith(VARIED)}


def paper_variants() -> dict[str, Arm]:
    return {
        label: arm
        for label, arm in published_arms().items()
        if label.startswith(VARIED) or label == "countdown backtrack"
    }


VARIED = ("countdown mix", "countdown think", "countdown backtrack, grpo")
"""Arms of the claim on variants."""


def variants_verdict(records: Records) -> list[Finding]:
    """That searches are imitated better if they are of many kinds or in part left to thought, and that rewards improve them."""
    plain, likeness = "countdown backtrack", "likeness to the search"
    findings = []
    for label, sentence in (
        ("countdown mix", "countdown: searches of many kinds are right more often than those of one"),
        ("countdown think", "countdown: searches without their first dead ends are right more often than whole ones"),
        ("countdown backtrack, grpo", "countdown: GRPO makes searches right more often"),
    ):
        gain = difference(records.measure(label, "greedy"), records.measure(plain, "greedy"))
        findings.append(Finding(sentence, gain.value > 0, {"gain": gain}))
    change = difference(records.measure("countdown backtrack, grpo", likeness), records.measure(plain, likeness))
    sentence = "countdown: GRPO makes searches less like the one that they imitate"
    return [*findings, Finding(sentence, change.value < 0, {"change": change})]


claim = Claim(
    name="backtrack",
    paper=PAPER,
    sentence="At equal compute many direct answers solve more CountDown problems than one search that backtracks, and "
    "reinforcement learning makes a direct model surer and less various.",
    scales={
        "small": Scale(
            "12 runs of small models from scratch, an hour and a half on a core that others use too",
            small_arms(),
            countdown_verdict,
        ),
        "paper": Scale(
            "12 runs of models of 17M parameters on 500,000 problems, 30 epochs, about 8 GPU-days",
            paper_arms("countdown"),
            countdown_verdict,
        ),
    },
    measure=measure,
)

sudoku = Claim(
    name="backtrack-sudoku",
    paper=PAPER,
    sentence="At Sudoku searches use the tokens and direct answers the tries that they are given, and one search is right more "
    "often than as many direct answers as fit into its compute.",
    scales={
        "small": Scale("6 runs of small models from scratch, about an hour on a core", sudoku_arms(), sudoku_verdict),
        "paper": Scale(
            "12 runs of models of 38M parameters on a million puzzles, about 9 GPU-days",
            paper_arms("sudoku"),
            sudoku_verdict,
        ),
    },
    measure=measure,
)

variants = Claim(
    name="backtrack-variants",
    paper=PAPER,
    sentence="Searches of many kinds, searches that leave part to thought, and rewards each improve on imitating one search.",
    scales={
        "small": Scale(
            "12 runs of small models from scratch, three hours of a core that others use too",
            variants_arms(),
            variants_verdict,
        ),
        "paper": Scale(
            "12 runs of models of 17M parameters on 500,000 problems, about 8 GPU-days",
            paper_variants(),
            variants_verdict,
        ),
    },
    measure=measure,
)
