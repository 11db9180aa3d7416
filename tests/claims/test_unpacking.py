"""The verdict on the grid of DPO and PPO, on made-up records: it holds where it should, and each finding can fail."""

from __future__ import annotations

import numpy as np
import pytest

from palaestra.claims.claim import Record, Records
from palaestra.claims.grid import START, Cell
from palaestra.claims.reproduce import Trial
from palaestra.claims.unpacking import FACTORS, GRIDS, claim, effects, small

from .test_verdicts import not_held

GRID = GRIDS["small"]
SKILLS = ("sort", "reverse", "max")
AVERAGES = {
    START: 0.74,
    "dpo, clean": 0.80,
    "dpo, flipped": 0.77,
    "dpo, one skill": 0.70,
    "ppo, clean, usual, same": 0.84,
    "ppo, clean, usual, reverse": 0.838,
    "ppo, clean, small, same": 0.83,
    "ppo, clean, large, same": 0.845,
    "ppo, clean, truth, same": 0.97,
    "ppo, flipped, usual, same": 0.8,
    "ppo, one skill, usual, same": 0.74,
}
MODELS = {
    "reward model, clean, small": (0.7, 0.8),
    "reward model, clean, usual": (0.8, 0.85),
    "reward model, clean, large": (0.9, 0.9),
    "reward model, flipped, usual": (0.7, 0.8),
    "reward model, one skill, usual": (0.6, 0.75),
}
LEVEL = {**{f"dpo, {data}": 0.8 for data in GRID.data}, **{f"ppo, {data}, usual, same": 0.84 for data in GRID.data}}
"""Averages by algorithms alone."""
REVERSE = {"ppo, clean, usual, reverse": 0.9}


def made_up(averages=(), models=(), reverse=()) -> Records:
    """Of each cell its first variant is the best; seeds differ more than cells do, and alike in all of them."""
    averages, models, reverse = AVERAGES | dict(averages), MODELS | dict(models), REVERSE | dict(reverse)
    found = Records()
    for seed in range(GRID.seeds):
        apart = 0.3 * seed / GRID.seeds
        for label, (right, best) in models.items():
            told = {"pairs right": right, "best of 1": 0.74, "best of 4": 0.78, "best of 16": best}
            found.append(Record(label, seed, ((1, right),), told))
        for cell, labels in [(START, [START]), *((str(cell), GRID.labels(cell)) for cell in GRID.cells())]:
            for i, label in enumerate(labels):
                average = averages[cell] + apart - 0.05 * i
                skills = dict.fromkeys(SKILLS, average) | {"reverse": reverse.get(cell, averages[cell]) + apart}
                found.append(Record(label, seed, ((1, average),), {"average": average, **skills, "choosing": -0.1 * i}))
    return found


def test_every_arm_has_its_records():
    assert {record.arm for record in made_up()} == set(claim.scale("small").arms)


def test_it_holds_where_the_paper_s_picture_shows():
    assert not_held(claim, made_up()) == []


@pytest.mark.parametrize(
    ("averages", "models", "reverse", "words"),
    [
        ({"dpo, clean": 0.73, "dpo, one skill": 0.62}, {}, {}, "DPO on the clean data"),
        ({START: 0.9, "dpo, clean": 0.95, "ppo, one skill, usual, same": 0.6, "dpo, flipped": 0.5}, {}, {}, "PPO on the clean"),
        ({"dpo, flipped": 0.95, "dpo, clean": 0.91}, {}, {}, "PPO answers better than DPO"),
        (LEVEL, {}, {}, "further with the data"),
        ({"ppo, clean, large, same": 0.89}, {}, {}, "further with the algorithm"),
        ({"ppo, clean, usual, reverse": 0.81}, {}, {}, "further with the reward model"),
        ({}, {"reward model, clean, large": (0.65, 0.9)}, {}, "more held-out pairs"),
        ({"ppo, clean, small, same": 0.845, "ppo, clean, large, same": 0.83},
         {"reward model, clean, large": (0.9, 0.795)}, {}, "worth more in its eyes"),
        ({}, {"reward model, clean, large": (0.9, 0.81)}, {}, "PPO makes less of it"),
        ({}, {}, {"ppo, clean, usual, reverse": 0.839}, "prompts about reverse lift reverse"),
        ({"ppo, clean, usual, reverse": 0.845}, {}, {"ppo, clean, usual, reverse": 0.842}, "more than the average"),
    ],
)  # fmt: skip
def test_each_finding_can_fail_by_itself(averages, models, reverse, words):
    [sentence] = not_held(claim, made_up(averages, models, reverse))
    assert words in sentence


def test_how_far_a_factor_moves_the_score_is_the_range_of_its_levels_around_the_first_ones():
    score = {cell: AVERAGES[str(cell)] for cell in GRID.cells()}
    assert effects(score, GRID) == pytest.approx(
        {"data": 0.1, "algorithm": 2.38 / 3 - 2.27 / 3, "reward model": 0.015, "prompts": 0.002}
    )
    assert tuple(effects(score, GRID)) == FACTORS
    score[Cell("clean", "ppo", "truth", "same")] = 0.1
    assert effects(score, GRID)["reward model"] == pytest.approx(0.015), "the truth is no reward model"


def test_intervals_are_over_differences_within_seeds():
    """Seeds lie far apart, and what is compared has the same ones."""
    for finding in claim.scale("small").verdict(made_up()):
        for number in finding.numbers.values():
            assert number.high - number.low < 1e-9


@pytest.mark.parametrize("scale", ["small", "paper"])
def test_both_algorithms_are_tried_alike_from_the_same_pairs_and_the_same_start(scale):
    grid, arms = GRIDS[scale], claim.scale(scale).arms
    assert {arm.begins_with for label, arm in arms.items() if label[:4] in ("dpo,", "ppo,")} == {START}
    assert len({arm.seeds for arm in arms.values()}) == 1
    for data in grid.data:
        dpo = arms[grid.labels(Cell(data, "dpo"))[0]]
        ppo = arms[grid.labels(Cell(data, "ppo", "usual", "same"))[0]]
        model = arms[ppo.named["reward_model"]]
        assert dpo.settings == ppo.settings == model.settings
    if scale == "small":
        tried = {name: len(level.variants()) for name, level in grid.algorithms.items()}
        assert tried == {"dpo": 9, "ppo": 8}, "the one that is to lead is not tried more often"


def test_the_findings_on_the_paper_s_scale_can_be_told():
    grid, found = GRIDS["paper"], Records()
    for label in grid.arms():
        model = label.startswith("reward model")
        told = {"pairs right": 0.7, **{f"best of {n}": 0.5 for n in (1, 4, 16)}} if model else {}
        found.append(Record(label, 0, (), told or dict.fromkeys(("average", "gsm8k", "humaneval", "choosing"), 0.5)))
    assert len(claim.scale("paper").verdict(found)) == len(claim.scale("small").verdict(made_up()))
    assert len(claim.scale("paper").tables(found)["Grid"]) == 2 + len(grid.cells())


def test_an_arm_of_each_kind_runs_and_is_measured_at_a_tiny_size(monkeypatch):
    import dataclasses

    grid = small()
    tiny = {"rewards": {"usual": grid.rewards["usual"]}, "data": {"clean": {}}, "prompts": {"same": {}}, "seeds": 1}
    grid = dataclasses.replace(grid, settings={"test_rows": 20, "train_rows": 30}, **tiny)

    def less(level):
        method = dataclasses.replace(
            level.method, **{key: 4 for key in ("prompts", "batch_size") if key in level.method.config}
        )
        return dataclasses.replace(level, method=method, updates=2, tried={})

    start = less(dataclasses.replace(grid.start, method=dataclasses.replace(grid.start.method, model="tiny-16x1")))
    algorithms = {name: less(level) for name, level in grid.algorithms.items()}
    grid = dataclasses.replace(grid, start=start, algorithms=algorithms, rewards={"usual": less(grid.rewards["usual"])})
    scale = dataclasses.replace(claim.scale("small"), arms=grid.arms())
    tried = dataclasses.replace(claim, scales={"small": scale})
    monkeypatch.setitem(GRIDS, "small", grid)
    told = {arm: Trial(tried, "small", arm, 0).train().read().measures for arm in grid.arms()}
    policies = {"average", "choosing", *SKILLS}
    assert {arm: set(names) for arm, names in told.items()} == {
        START: policies,
        "reward model, clean, usual": {"pairs right", "best of 1", "best of 4", "best of 16"},
        "dpo, clean": policies,
        "ppo, clean, usual, same": policies,
    }
    assert all(np.isfinite(value) for names in told.values() for value in names.values())
