"""Each paper's verdict, on made-up records: it holds where it should, and each finding can fail by itself."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping

import pytest
import torch

from palaestra.claims import a2pr, ailboost, dsac_t, hnpg, mdpo, prdc, sac
from palaestra.claims.claim import Claim, Record, Records
from palaestra.core import registry
from palaestra.core.experience import Experience
from palaestra.data.task import DatasetTask
from palaestra.methods.offline.a2pr import A2PR
from palaestra.methods.offline.bc import BC
from palaestra.objectives.returns import rewards_to_go
from palaestra.runs.engine import Engine
from palaestra.runs.run import Run

from ..datasets import random_dataset

SCALES = ("0.1", "1", "10")


def made_up(
    claim: Claim, returns: Mapping[str, float], measures: Mapping[str, Mapping[str, float]] | None = None
) -> Records:
    """Two seeds per arm of the small scale, one point above and one below the return given; other arms have 0."""
    records = Records()
    for arm in claim.scale("small").arms:
        for seed, offset in enumerate((-1.0, 1.0)):
            value = returns.get(arm, 0.0) + offset
            records.append(Record(arm, seed, ((1, value), (2, value)), (measures or {}).get(arm, {})))
    return records


def not_held(claim: Claim, records: Records) -> list[str]:
    return [finding.sentence for finding in claim.scale("small").verdict(records) if not finding.held]


SAC_TARGETS = {"Pendulum-v1": -1.0, "HalfCheetah-v5": -6.0}
SAC_RETURNS = {
    **{f"{task} learned x{s}": -150.0 for task in SAC_TARGETS for s in SCALES},
    **{
        f"{task} alpha {a} x{s}": r
        for task in SAC_TARGETS
        for a in ("0.01", "0.2", "5")
        for s, r in zip(SCALES, (-1200.0, -150.0, -200.0))
    },
}
SAC_MEASURES = {f"{task} learned x{s}": {"entropy": h - 0.1} for task, h in SAC_TARGETS.items() for s in SCALES}


def test_sac_holds_where_only_fixed_temperatures_depend_on_the_reward_scale():
    assert not_held(sac.claim, made_up(sac.claim, SAC_RETURNS, SAC_MEASURES)) == []


SAC_FAILS = {
    "Pendulum-v1: with a learned temperature every seed ends above -250": (
        {f"Pendulum-v1 learned x{s}": -249.5 for s in SCALES},
        {},
    ),
    **{
        f"{task}: over reward scales 0.1, 1, 10 the return varies less with a learned temperature than with alpha 0.2": (
            {f"{task} alpha 0.2 x{s}": -500.0 for s in SCALES},
            {},
        )
        for task in SAC_TARGETS
    },
    **{
        f"{task}: at its worst reward scale a learned temperature returns more than alpha 0.2 at its own": (
            {f"{task} alpha 0.2 x{s}": r for s, r in zip(SCALES, (-140.0, -10.0, -20.0))},
            {},
        )
        for task in SAC_TARGETS
    },
    **{
        f"{task}, rewards x10: the entropy ends within 0.5 of its target {h:g}": (
            {},
            {f"{task} learned x10": {"entropy": h - 0.6}},
        )
        for task, h in SAC_TARGETS.items()
    },
}


@pytest.mark.parametrize("sentence", SAC_FAILS)
def test_each_finding_of_sac_can_fail_by_itself(sentence):
    returns, measures = SAC_FAILS[sentence]
    assert not_held(sac.claim, made_up(sac.claim, SAC_RETURNS | returns, SAC_MEASURES | measures)) == [sentence]


DSAC_RETURNS = {
    **{f"dsac-t x{s}": -150.0 for s in SCALES},
    **{f"dsac-v1 x{s}": r for s, r in zip(SCALES, (-150.0, -160.0, -900.0))},
    "sac x1": -150.0,
}
DSAC_MEASURES = {"dsac-t x1": {"bias": -3.0}, "single-critic sac": {"bias": 9.0}}


def test_dsac_t_holds_where_it_is_steady_as_good_as_sac_and_less_biased():
    assert not_held(dsac_t.claim, made_up(dsac_t.claim, DSAC_RETURNS, DSAC_MEASURES)) == []


@pytest.mark.parametrize(
    ("returns", "measures", "word"),
    [
        ({"dsac-t x10": -1000.0}, {}, "varies less"),
        ({f"dsac-t x{s}": -185.0 for s in SCALES}, {}, "within 20%"),
        ({}, {"dsac-t x1": {"bias": -9.5}}, "bias"),
    ],
)
def test_each_finding_of_dsac_t_can_fail(returns, measures, word):
    records = made_up(dsac_t.claim, DSAC_RETURNS | returns, DSAC_MEASURES | measures)
    [sentence] = not_held(dsac_t.claim, records)
    assert word in sentence


MDPO_RETURNS = {
    "mdpo m=10 CartPole-v1": 480.0,
    "mdpo m=1 CartPole-v1": 200.0,
    "ppo CartPole-v1": 470.0,
    "mdpo m=10 Pendulum-v1": -200.0,
    "mdpo m=1 Pendulum-v1": -900.0,
    "ppo Pendulum-v1": -250.0,
    "mdpo off-policy": -160.0,
    "sac": -150.0,
}


def test_mdpo_holds_where_it_keeps_up_with_ppo_and_sac():
    assert not_held(mdpo.claim, made_up(mdpo.claim, MDPO_RETURNS)) == []


@pytest.mark.parametrize(
    ("returns", "words"),
    [
        ({"mdpo m=10 CartPole-v1": 399.0, "ppo CartPole-v1": 300.0}, "reaches 400"),
        ({"mdpo m=1 Pendulum-v1": -199.0}, "Pendulum-v1: m = 10 beats m = 1"),
        ({"ppo CartPole-v1": 485.0}, "CartPole-v1: MDPO does not end below plain PPO"),
        ({"mdpo off-policy": -173.0}, "within 15% of SAC"),
    ],
)
def test_each_finding_of_mdpo_can_fail(returns, words):
    [sentence] = not_held(mdpo.claim, made_up(mdpo.claim, MDPO_RETURNS | returns))
    assert words in sentence


PENDULUM = ("medium", "random-expert-0.1")
PRDC_RETURNS = {
    f"{label} {quality}": value
    for quality in PENDULUM
    for label, value in {"prdc": -400.0, "td3-bc": -700.0, "bc": -750.0, "td3": -800.0}.items()
}
A2PR_RETURNS = {
    f"{label} {quality}": value
    for quality in PENDULUM
    for label, value in {"a2pr": -600.0, "td3-bc": -700.0, "prdc": -400.0, "td3": -800.0}.items()
}
A2PR_MEASURES = {
    f"{label} {quality}": {"excess value": value}
    for quality in PENDULUM
    for label, value in {"a2pr": 3.0, "td3": 30.0}.items()
}


def test_prdc_holds_where_it_ends_above_cloning_towards_the_state_s_own_action():
    assert not_held(prdc.claim, made_up(prdc.claim, PRDC_RETURNS)) == []


PRDC_FAILS = {
    **{f"Pendulum-v1/{q}: PRDC ends more than 200 above TD3+BC": {f"td3-bc {q}": -599.0} for q in PENDULUM},
    **{f"Pendulum-v1/{q}: PRDC ends above cloning": {f"bc {q}": -399.0} for q in PENDULUM},
    "Pendulum-v1/medium: PRDC ends above TD3 without a constraint": {"td3 medium": -399.0},
}


@pytest.mark.parametrize("sentence", PRDC_FAILS)
def test_each_finding_of_prdc_can_fail_by_itself(sentence):
    assert not_held(prdc.claim, made_up(prdc.claim, PRDC_RETURNS | PRDC_FAILS[sentence])) == [sentence]


@pytest.mark.parametrize("quality", PENDULUM)
def test_prdc_and_a2pr_must_be_ahead_on_every_seed(quality):
    for claim, name, returns, measures in (
        (prdc.claim, "PRDC", PRDC_RETURNS, {}),
        (a2pr.claim, "A2PR", A2PR_RETURNS, A2PR_MEASURES),
    ):
        records = made_up(claim, returns, measures)
        crossed = [
            dataclasses.replace(record, curve=((2, -1500.0 if record.seed else 300.0),))
            if record.arm == f"td3-bc {quality}"
            else record
            for record in records
        ]
        lost = not_held(claim, Records(crossed))
        assert f"Pendulum-v1/{quality}: {name} ends above TD3+BC on every seed" in lost


def test_a2pr_holds_where_it_ends_above_td3_bc_and_overestimates_less_than_td3():
    assert not_held(a2pr.claim, made_up(a2pr.claim, A2PR_RETURNS, A2PR_MEASURES)) == []


A2PR_FAILS = {
    **{f"Pendulum-v1/{q}: A2PR ends more than 80 above TD3+BC": ({f"td3-bc {q}": -679.0}, {}) for q in PENDULUM},
    **{
        f"Pendulum-v1/{q}: A2PR's critics exceed the data's returns by less than TD3's without a constraint": (
            {},
            {f"td3 {q}": {"excess value": 2.9}},
        )
        for q in PENDULUM
    },
}


@pytest.mark.parametrize("sentence", A2PR_FAILS)
def test_each_finding_of_a2pr_can_fail_by_itself(sentence):
    returns, measures = A2PR_FAILS[sentence]
    assert not_held(a2pr.claim, made_up(a2pr.claim, A2PR_RETURNS | returns, A2PR_MEASURES | measures)) == [sentence]


def test_a2pr_measures_its_guide_and_by_how_much_values_exceed_what_the_data_earned():
    engine = Engine(quiet=True, tensorboard=False, evaluate_episodes=1, log_every=5, compile=False)
    tiny = {"network": (8,), "batch_size": 8}
    data = DatasetTask(random_dataset("Pendulum-v1", 250))
    run = Run(A2PR(**tiny, critic_network=(8,), vae_network=(8,)), data, updates=20, folder="guided", engine=engine)
    found = a2pr.measure(run.train())
    last = [row for row in run.metrics if "guide/gated" in row][-1]
    assert {name: found[name] for name in ("gated", "proposed", "advantage")} == {
        name: pytest.approx(last[f"guide/{name}"]) for name in ("gated", "proposed", "advantage")
    }
    method, steps = run.method, run.task.dataset.steps
    method.critics.q = lambda obs, action: torch.full((2, len(obs)), 5.0)
    earned = rewards_to_go(steps.reward, run.task.dataset.starts, method.gamma).mean()
    assert a2pr.measure(run)["excess value"] == pytest.approx(5.0 - float(earned), rel=1e-4)
    assert a2pr.measure(Run(BC(**tiny), data, updates=5, folder="cloned", engine=engine).train()) == {}


AILBOOST_RETURNS = {
    "ailboost, last policy": -250.0,
    "ailboost, ensemble": -500.0,
    "dac": -250.0,
    "bc": -1250.0,
}


def test_ailboost_holds_where_it_and_dac_imitate_and_cloning_does_not():
    assert not_held(ailboost.claim, made_up(ailboost.claim, AILBOOST_RETURNS)) == []


@pytest.mark.parametrize(
    ("returns", "words"),
    [
        ({"ailboost, last policy": -501.0}, "last policy ends above -500"),
        ({"dac": -501.0}, "DAC ends above -500"),
        ({"bc": -999.0}, "cloning stays below -1000"),
        ({"ailboost, ensemble": -1249.5}, "ensemble is ahead of cloning"),
    ],
)
def test_each_finding_of_ailboost_can_fail(returns, words):
    [sentence] = not_held(ailboost.claim, made_up(ailboost.claim, AILBOOST_RETURNS | returns))
    assert words in sentence


HNPG_MEASURES = {
    "hnpg": {"success": 0.51, "return": 0.55},
    "hnpg without data": {"success": 0.0, "return": 0.14},
    "rlpd": {"success": 0.0, "return": 0.0},
    "hnpg 10": {"success": 0.51, "return": 0.55},
    "hnpg 10 without data": {"success": 0.0, "return": 0.14},
}


def test_hnpg_holds_where_it_opens_the_lock_and_cannot_without_data():
    assert not_held(hnpg.claim, made_up(hnpg.claim, {}, HNPG_MEASURES)) == []


@pytest.mark.parametrize(
    ("arm", "measured", "words"),
    [
        ("hnpg", {"success": 0.5, "return": 0.9}, "hnpg reaches the end"),
        ("hnpg without data", {"success": 0.1, "return": 0.16}, "without data returns less than 0.1 above"),
        ("hnpg 10", {"success": 0.5, "return": 0.9}, "hnpg 10 reaches the end"),
        ("hnpg 10 without data", {"success": 0.1, "return": 0.16}, "10 without data returns less than 0.1 above"),
    ],
)
def test_each_finding_of_hnpg_can_fail(arm, measured, words):
    [sentence] = not_held(hnpg.claim, made_up(hnpg.claim, {}, HNPG_MEASURES | {arm: measured}))
    assert words in sentence


def test_a_soft_return_counts_rewards_and_the_entropy_of_later_actions():
    rows = {
        "reward": [[1.0], [2.0], [4.0]],
        "logp": [[-0.5], [0.25], [1.0]],
        "terminated": [[0.0], [1.0], [0.0]],
        "truncated": [[0.0], [0.0], [0.0]],
    }
    steps = Experience(**{name: torch.tensor(value) for name, value in rows.items()})
    returns = dsac_t.soft_returns(steps, reward_scale=10.0, alpha=torch.tensor(2.0), gamma=0.5)
    # The second step ends its episode, so neither the third's reward nor its entropy belong to the first two.
    torch.testing.assert_close(returns, torch.tensor([[10 + 0.5 * (20 - 2 * 0.25)], [20.0], [40.0]]))


@pytest.mark.parametrize("name", sorted(registry.table("claims")))
def test_every_registered_claim_has_both_scales_and_says_what_it_takes(name):
    claim = registry.claim(name)
    assert claim.name == name
    assert set(claim.scales) == {"small", "paper"}
    assert claim.sentence.endswith(".")
    assert claim.paper.arxiv
    for scale in claim.scales.values():
        assert scale.cost
        assert scale.arms
        for arm in scale.arms.values():
            arm.method.check()
            assert (arm.steps or arm.updates) >= 1
            assert arm.seeds >= 1
            assert registry.method_class(arm.method.name) is type(arm.method)


@pytest.mark.parametrize("name", sorted(registry.table("claims")))
def test_the_paper_scale_judges_every_task_it_trains_on(name):
    scale = registry.claim(name).scale("paper")
    measures = defaultdict(lambda: 0.5)  # whatever a verdict asks for
    records = Records(Record(arm, seed, ((1, 1.0),), measures) for arm in scale.arms for seed in range(2))
    sentences = " ".join(finding.sentence for finding in scale.verdict(records))
    tasks = {arm.task.replace("/seed{seed}", "") for arm in scale.arms.values()}
    # A claim's own task is another one in a form of its own.
    assert all(task in sentences for task in tasks if not task.startswith("palaestra.claims"))
