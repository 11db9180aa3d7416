"""DPO and PPO unpacked: what matters in learning from preferences is the data, then the algorithm, then reward model and prompts.

Small scale: three skills with digits, from a model that imitates answers of which 35% of the digits are drawn anew. Preferences
between two such answers to each of 3000 prompts are right, or 30% of them are the wrong way round, or they are about one skill
alone. DPO on the pairs; PPO on a reward model of the same pairs, of one of three sizes (the largest has four times the pairs,
too), or on the truth; PPO on prompts of all skills, or of one. Both algorithms at several learning rates and weights of the
divergence, of which those count that answer best, to other prompts than those that are reported.
Paper scale: a 7B model on UltraFeedback and HH-RLHF, evaluated by GSM8K and HumanEval.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from palaestra.claims.claim import Claim, Finding, Records, Scale, above, estimate
from palaestra.claims.grid import AVERAGE, BEST_OF, RIGHT, START, Cell, Grid, Level
from palaestra.claims.study import PAPER
from palaestra.methods.language.ppo_lm import PPOLM
from palaestra.methods.language.sft import SFT
from palaestra.methods.preference.dpo import DPO
from palaestra.methods.preference.reward_model import RewardModelling
from palaestra.runs.run import Run

FACTORS = ("data", "algorithm", "reward model", "prompts")
"""From the one that matters most, as the paper has it."""
BEST = f"best of {BEST_OF[-1]}"
DPO_TRIED = {"lr": (2e-5, 5e-5, 2e-4), "beta": (0.2, 1.0, 3.0)}
PPO_TRIED = {"lr": (1e-4, 3e-4), "kl_weight": (0.05, 0.2, 1.0, 3.0)}
"""Of which the best lies inside, where there is one: PPO on a reward model wants a large weight, on the truth a small one."""


def small() -> Grid:
    reward: dict[str, Any] = {"prompts": 64, "lr": 1e-3}
    ppo = PPOLM(prompts=128, epochs=2, minibatches=4, endless=-10.0)
    return Grid(
        task="skill-mix",
        start=Level(SFT(model="tiny-48x2"), 900),
        data={"clean": {}, "flipped": {"flip": 0.3}, "one skill": {"skills": ("max",)}},
        algorithms={
            "dpo": Level(DPO(prompts=64), 150, tried=DPO_TRIED),
            "ppo": Level(ppo, 240, tried=PPO_TRIED),
        },
        rewards={
            "usual": Level(RewardModelling(**reward, model=START), 300),
            "small": Level(RewardModelling(**reward, model="sft:tiny-32x1:600"), 300),
            "large": Level(RewardModelling(**reward, model="sft:tiny-64x2:900"), 600, {"train_rows": 12_000}),
            "truth": None,
        },
        prompts={"same": {}, "reverse": {"skills": ("reverse",)}},
        settings={"test_rows": 2000},
        seeds=5,
    )


def paper() -> Grid:
    """About 60,000 pairs of each data: one pass for reward models and of prompts, three for DPO, as the released scripts do."""
    base = "Qwen/Qwen2.5-7B"
    reward: dict[str, Any] = {"prompts": 512, "lr": 1e-5, "warmup": 4, "recompute": True}
    ppo = PPOLM(
        prompts=512,
        minibatches=8,
        temperature=0.7,
        lr=1e-6,
        warmup=95,
        value_lr=1e-6,
        value_clip=0.2,
        critic_from="reward-model",
        endless=-10.0,
        recompute=True,
    )
    return Grid(
        task="prompts",
        settings={"faulty": "skip", "limit": 1024},
        start=Level(
            SFT(model=base, lr=1e-5, batch_size=128, warmup=150, recompute=True),
            5_100,
            {"data": "allenai/tulu-v2-sft-mixture"},
        ),
        data={
            "ultrafeedback": {"data": "trl-lib/ultrafeedback_binarized"},
            "hh-rlhf": {"data": "trl-lib/hh-rlhf-helpful-base"},
        },
        algorithms={
            "dpo": Level(DPO(prompts=32, lr=5e-7, warmup=570, recompute=True), 5_700, tried={"beta": (0.1,)}),
            "ppo": Level(ppo, 950, tried={"kl_weight": (0.05, 0.0325)}),
        },
        rewards={
            "usual": Level(RewardModelling(**reward, model=START), 119),
            "small": Level(RewardModelling(**reward, model="Qwen/Qwen2.5-1.5B"), 119),
            "large": Level(RewardModelling(**reward, model="Qwen/Qwen2.5-32B"), 119),
        },
        prompts={"same": {}, "gsm8k": {"task": "gsm8k"}},
        evaluate=("gsm8k", "humaneval"),
        seeds=1,
    )


GRIDS = {"small": small(), "paper": paper()}


def effects(score: Mapping[Cell, float], grid: Grid) -> dict[str, float]:
    """How far each factor moves the score: the largest difference between its levels, where all else is as at first.

    Of data the mean over algorithms, of algorithms that over data. A reward that is the truth is no reward model.
    """
    data, algorithms = list(grid.data), list(grid.algorithms)
    models = [name for name, level in grid.rewards.items() if level is not None]
    first, prompts = models[0], list(grid.prompts)

    def at(algorithm: str, which: str) -> float:
        asks = grid.algorithms[algorithm].asks
        return score[Cell(which, algorithm, first, prompts[0]) if asks else Cell(which, algorithm)]

    table = np.array([[at(algorithm, which) for which in data] for algorithm in algorithms])
    [asking] = [name for name, level in grid.algorithms.items() if level.asks]
    return {
        "data": float(np.ptp(table, axis=1).mean()),
        "algorithm": float(np.ptp(table.mean(1))),
        "reward model": float(np.ptp([score[Cell(data[0], asking, name, prompts[0])] for name in models])),
        "prompts": float(np.ptp([score[Cell(data[0], asking, first, name)] for name in prompts])),
    }


def verdict(records: Records, grid: Grid, targeted: str) -> list[Finding]:
    """The findings on a grid of DPO and PPO, whose second prompts are to help with the group that is `targeted`."""
    cells, (first, *_), (same, aimed) = grid.cells(), grid.data, grid.prompts
    every = np.stack([grid.scores(records, cell) for cell in cells], axis=1)  # (seeds, cells)
    start = records.measure(START, AVERAGE)

    def dpo(data: str = first) -> np.ndarray:
        return grid.scores(records, Cell(data, "dpo"))

    def ppo(data: str = first, reward: str = "usual", prompts: str = same, group: str = AVERAGE) -> np.ndarray:
        return grid.scores(records, Cell(data, "ppo", reward, prompts), group)

    def model(name: str, measure: str) -> np.ndarray:
        return records.measure(Cell(first, "ppo", name).model, measure)

    def further(more: str, fewer: str) -> Finding:
        def moved(seeds: np.ndarray) -> dict[str, float]:
            return effects(dict(zip(cells, seeds.mean(0), strict=True)), grid)

        lead = estimate(lambda seeds: moved(seeds)[more] - moved(seeds)[fewer], every)
        both = f"{moved(every)[more]:.3f} and {moved(every)[fewer]:.3f}"
        return Finding(
            f"the average moves further with the {more} than with the {fewer} ({both})",
            lead.value > 0,
            {"difference": lead},
        )

    ahead = partial(above, paired=True)
    lead = np.mean([ppo(data) - dpo(data) for data in grid.data], axis=0)
    selected = model("large", BEST) - model("small", BEST)
    gain, everywhere = (ppo(prompts=aimed, group=g) - ppo(group=g) for g in (targeted, AVERAGE))
    return [
        ahead(f"DPO on the {first} data answers better than its start", dpo(), start),
        ahead(f"PPO on the {first} data answers better than its start", ppo(), start),
        ahead("over all data PPO answers better than DPO on the same pairs", lead, np.zeros_like(lead)),
        *(further(more, fewer) for more, fewer in pairwise(FACTORS)),
        ahead(
            "the large reward model is right about more held-out pairs than the small one",
            model("large", RIGHT),
            model("small", RIGHT),
        ),
        ahead(
            "the best of 16 answers is worth more in its eyes than in those of the small one",
            model("large", BEST),
            model("small", BEST),
        ),
        ahead(
            "PPO makes less of it than the choice among 16 does", selected, ppo(reward="large") - ppo(reward="small")
        ),
        ahead(f"prompts about {targeted} lift {targeted}", gain, np.zeros_like(gain)),
        ahead(f"they lift {targeted} more than the average", gain, everywhere),
    ]


def measure(run: Run) -> dict[str, float]:
    """What the grid of its scale measures."""
    return GRIDS[run.scale].measure(run)  # type: ignore[attr-defined]


claim = Claim(
    name="unpacking-dpo-ppo",
    paper=PAPER,
    sentence="In learning from preferences the quality of the data matters most, then whether DPO or PPO learns from them; a "
    "better reward model helps PPO less than it helps to choose among answers, and prompts help with what they are about.",
    scales={
        "small": Scale(
            "445 runs of tiny models, two hours and a quarter on one core",
            GRIDS["small"].arms(),
            lambda records: verdict(records, GRIDS["small"], "reverse"),
            GRIDS["small"].tables,
        ),
        "paper": Scale(
            "17 runs of Qwen/Qwen2.5-7B, with reward models from Qwen/Qwen2.5-1.5B and Qwen/Qwen2.5-32B too, on "
            "allenai/tulu-v2-sft-mixture, trl-lib/ultrafeedback_binarized and trl-lib/hh-rlhf-helpful-base, about a month on 8 "
            "GPUs; needs the files of GSM8K and HumanEval in PALAESTRA_DATA",
            GRIDS["paper"].arms(),
            lambda records: verdict(records, GRIDS["paper"], "gsm8k"),
            GRIDS["paper"].tables,
        ),
    },
    measure=measure,
)
