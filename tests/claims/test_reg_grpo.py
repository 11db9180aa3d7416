"""Reg-GRPO's claim: its verdict on made-up records, and what it measures."""

from __future__ import annotations

import dataclasses

import pytest

from palaestra.claims import reg_grpo
from palaestra.claims.claim import Records
from palaestra.claims.reg_grpo import AUGMENTED, BANDIT, REUSE, UNCLIPPED
from palaestra.core.task import as_task
from palaestra.language.tasks.bandit import Bandit
from palaestra.methods.language.rebel import REBEL
from palaestra.methods.language.reg_grpo import RegGRPO
from palaestra.runs.engine import Engine
from palaestra.runs.run import Run

from .test_verdicts import made_up, not_held

WORTH = {"reg-grpo": 0.9, "grpo": 0.85, UNCLIPPED: 0.8, "rebel": 0.95}
SHARES = {"grpo": 0.5, "reg-grpo": 0.5, AUGMENTED: 0.4}
MEASURES = {f"{name}, {label}": {"worth": value} for label in REUSE for name, value in WORTH.items()}
DIFFICULTY = {"sorting": reg_grpo.sorting, "clips": reg_grpo.clips}


def judged(changes):
    return made_up(reg_grpo.claim, {}, MEASURES | changes)


def test_it_holds_where_regression_earns_most_under_reuse():
    assert not_held(reg_grpo.claim, judged({})) == []


def test_earning_as_much_as_clipped_grpo_is_enough_but_not_for_the_clip_itself():
    label = next(iter(REUSE))
    assert not_held(reg_grpo.claim, judged({f"reg-grpo, {label}": {"worth": 0.85}})) == []
    assert not_held(reg_grpo.claim, judged({f"{UNCLIPPED}, {label}": {"worth": 0.85}})) != []


@pytest.mark.parametrize("label", REUSE)
def test_each_setting_of_reuse_counts(label):
    [sentence] = not_held(reg_grpo.claim, judged({f"reg-grpo, {label}": {"worth": 0.84}}))
    assert sentence == f"{label}: reg-grpo earns no less than grpo"
    [sentence] = not_held(reg_grpo.claim, judged({f"{UNCLIPPED}, {label}": {"worth": 0.86}}))
    assert sentence == f"{label}: grpo earns more than {UNCLIPPED}"


@pytest.mark.parametrize("task", DIFFICULTY)
def test_augmentation_must_leave_fewer_groups_without_spread_on_every_seed(task):
    claim, shares = DIFFICULTY[task], {f"{name}, {task}": {"without spread": x} for name, x in SHARES.items()}
    records = made_up(claim, {}, shares)
    assert not_held(claim, records) == []
    late = Records(
        dataclasses.replace(r, measures={"without spread": 0.5}) if r.arm.startswith(AUGMENTED) and r.seed else r
        for r in records
    )
    assert len(not_held(claim, late)) == 1


def test_the_arms_of_one_comparison_differ_in_the_method_alone():
    arms = reg_grpo.claim.scale("small").arms
    for label, (lr, epochs) in REUSE.items():
        own = [arms[f"{name}, {label}"] for name in WORTH]
        assert {(a.updates, a.seeds, a.method.lr, a.method.epochs, a.method.group, a.method.prompts) for a in own} == {
            (30 * epochs, 4, lr, epochs, 8, 16)
        }
    clipped, free = (arms[f"{name}, {label}"].method for name in ("grpo", UNCLIPPED))
    assert dataclasses.replace(free, clip=clipped.clip) == clipped
    for task, claim in DIFFICULTY.items():
        own = claim.scale("small").arms
        plain, augmented = (own[f"{name}, {task}"].method for name in ("reg-grpo", AUGMENTED))
        assert dataclasses.replace(augmented, hints=0.0, noise=0.0) == plain
        plain, augmented = (own[f"{name}, {task}"].method.config for name in ("grpo", "grpo, augmented"))
        assert plain.items() <= augmented.items() and augmented["hints"] == augmented["noise"] == 1.0


def test_what_a_policy_earns_when_it_samples_is_computed_from_its_probabilities():
    engine = Engine(quiet=True, tensorboard=False, evaluate_episodes=1)
    tiny = {"model": "tiny-16x1", "prompts": 2, "group": 3, "lr": 1e-5}
    run = Run(REBEL(**tiny), Bandit(**BANDIT), updates=4, folder="bandit", engine=engine).train()
    found = reg_grpo.measure(run)
    # A model that has learnt nothing says arms and other things about equally often.
    said = run.task.probabilities(run.method.policy())
    assert found["worth"] == pytest.approx(float((said * run.task.rewards).sum(1).mean()))
    assert 0.5 * float(run.task.rewards.mean()) < found["worth"] < float(run.task.rewards.mean())
    assert 0 <= found["without spread"] <= 1
    run = Run(RegGRPO(**tiny), as_task("sorting"), updates=4, folder="sorting", engine=engine).train()
    assert "worth" not in reg_grpo.measure(run)
