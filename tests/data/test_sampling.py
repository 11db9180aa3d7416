"""Which steps are drawn: the probabilities of trajectory weighting (Hong et al., arXiv 2306.13085) and what is drawn by them."""

from __future__ import annotations

import math
from pathlib import Path

import gymnasium as gym
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palaestra.core.errors import BadDataset, BadSetting
from palaestra.core.method import Budget, make_method
from palaestra.core.seeding import Streams
from palaestra.data.sampling import (
    BLOCK,
    Sampler,
    effective_size,
    expected_return,
    positive_sided_variance,
    read_sampler,
    weights,
)
from palaestra.data.task import DatasetTask
from palaestra.methods.offline.td3_bc import TD3BC
from palaestra.runs.begin import from_folder
from palaestra.runs.engine import Engine
from palaestra.runs.folder import load_config
from palaestra.runs.run import Run

from .test_dataset import dataset


def logs(episodes: list[tuple[int, float]], first: list[float] | None = None):
    """Episodes of these lengths and returns, the reward at the end; `first` holds the first number that each observes."""
    made = dataset([n for n, _ in episodes], [r for n, g in episodes for r in [0.0] * (n - 1) + [g]])
    if first is not None:
        made.steps.obs[made.starts, 0] = torch.tensor(first)
        made.steps.obs[made.starts, 1] = 0.0
    return made


many = st.lists(st.tuples(st.integers(1, 6), st.floats(-100, 100, width=32)), min_size=2, max_size=12)
KINDS = ("uniform", "rw", "aw", "top")


def test_two_episodes_by_hand():
    """T = (1, 3), G = (0, 1), alpha = 1: p = (1, e, e, e) / (1 + 3e)."""
    p = weights(logs([(1, 0.0), (3, 1.0)]), "rw", 1.0)
    expected = torch.tensor([1, math.e, math.e, math.e], dtype=torch.float64) / (1 + 3 * math.e)
    torch.testing.assert_close(p, expected, rtol=1e-14, atol=0)


def test_a_high_temperature_is_uniform_over_steps_and_a_low_one_takes_the_best_only():
    made = logs([(2, -3.0), (3, 5.0), (4, 1.0)])
    torch.testing.assert_close(weights(made, "rw", 1e9), weights(made, "uniform"), rtol=1e-8, atol=0)
    assert weights(made, "rw", 1e-3).tolist() == pytest.approx([0.0] * 2 + [1 / 3] * 3 + [0.0] * 4)


@settings(max_examples=100)
@given(many, st.sampled_from(KINDS), st.floats(0.01, 1))
def test_probabilities_sum_to_one_and_are_equal_within_an_episode(episodes, kind, number):
    made = logs(episodes)
    p = weights(made, kind, number)
    assert p.dtype == torch.float64 and len(p) == len(made)
    assert float(p.sum()) == pytest.approx(1, abs=1e-12)
    assert torch.equal(p, p[made.starts][made.episode])


@settings(max_examples=100)
@given(many, st.floats(0.05, 10))
def test_an_episode_with_a_higher_return_is_never_drawn_less(episodes, temperature):
    made = logs(episodes)
    order = made.returns.argsort()
    assert bool((weights(made, "rw", temperature)[made.starts][order].diff() >= 0).all())


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(-50, 50).map(float)), min_size=2, max_size=8),
    st.sampled_from([2.0**-40, 0.25, 2.0**20]),
    st.sampled_from([-64.0, 0.0, 1000.0]),
)
def test_scaling_all_rewards_and_adding_to_all_returns_change_nothing(episodes, scale, shift):
    moved = [(n, scale * (g + shift)) for n, g in episodes]
    torch.testing.assert_close(weights(logs(episodes), "rw"), weights(logs(moved), "rw"), rtol=1e-9, atol=1e-15)


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(-50, 50).map(float)), min_size=4, max_size=8),
    st.sampled_from([2.0**-10, 2.0**10]),
    st.sampled_from([-64.0, 0.0, 64.0]),
)
def test_the_same_of_what_the_start_does_not_explain(episodes, scale, shift):
    starts = [float(i * i) for i in range(len(episodes))]
    moved = [(n, scale * (g + shift)) for n, g in episodes]
    torch.testing.assert_close(
        weights(logs(episodes, starts), "aw"), weights(logs(moved, starts), "aw"), rtol=1e-6, atol=1e-12
    )


@settings(max_examples=60)
@given(many, st.floats(0.05, 10), st.floats(1, 10))
def test_the_lower_the_temperature_the_higher_the_weighted_behaviours_return(episodes, low, factor):
    made = logs(episodes)
    cold, warm, mean = (
        expected_return(made, p)
        for p in (weights(made, "rw", low), weights(made, "rw", low * factor), weights(made, "uniform"))
    )
    assert cold >= warm - 1e-9 and warm >= mean - 1e-9


@pytest.mark.parametrize("kind", ["rw", "aw"])
def test_equal_returns_are_drawn_uniformly(kind):
    made = logs([(1, 7.0), (3, 7.0), (2, 7.0)], first=[0.0, 1.0, 5.0])
    torch.testing.assert_close(weights(made, kind), weights(made, "uniform"))
    silent = logs([(1, 0.0), (3, 0.0)])
    torch.testing.assert_close(weights(silent, kind), weights(silent, "uniform"))


def test_what_the_first_observation_explains_is_not_preferred():
    """G affine in s_0: rw prefers the lucky starts, aw is uniform, in spite of rounding and without NaN."""
    starts = [0.1 * i for i in range(20)]
    made = logs([(1 + i % 3, 3.0 * s - 7.0) for i, s in enumerate(starts)], first=starts)
    torch.testing.assert_close(weights(made, "aw"), weights(made, "uniform"))
    assert weights(made, "rw")[-1] > 100 * weights(made, "rw")[0]


def test_aw_is_rw_of_what_is_left_after_the_linear_fit():
    starts, luck = [0.0, 1.0, 2.0, 3.0], [1.0, -1.0, -1.0, 1.0]  # luck has no linear part
    made = logs([(2, 10 * s + u) for s, u in zip(starts, luck, strict=True)], first=starts)
    torch.testing.assert_close(weights(made, "aw", 0.5), weights(logs([(2, u) for u in luck]), "rw", 0.5))


def test_top_keeps_the_best_share_of_episodes_and_at_least_one():
    made = logs([(2, 1.0), (3, 9.0), (1, 5.0), (2, 3.0)])
    assert weights(made, "top", 0.5).tolist() == [0, 0] + [0.25] * 4 + [0, 0]
    assert weights(made, "top", 0.01).tolist() == [0, 0] + [1 / 3] * 3 + [0, 0, 0]
    assert weights(made, "top", 1.0).tolist() == [0.125] * 8
    hundred = logs([(1, float(i)) for i in range(100)])
    assert int((weights(hundred, "top", 0.29) > 0).sum()) == 29  # 100 * 0.29 is a little below 29


def test_positive_sided_variance_by_hand():
    """G = (0, 0, 3): (3 - 1)^2 / 3."""
    assert float(positive_sided_variance(torch.tensor([0.0, 0.0, 3.0]))) == pytest.approx(4 / 3)


def test_the_weighted_behaviours_return_and_the_effective_number_of_steps():
    made = logs([(1, 0.0), (3, 1.0)])
    uniform, weighted = weights(made, "uniform"), weights(made, "rw", 1.0)
    assert expected_return(made, uniform) == pytest.approx(0.5)
    assert expected_return(made, weighted) == pytest.approx(math.e / (1 + math.e))
    assert effective_size(uniform) == pytest.approx(4)
    assert effective_size(weighted) == pytest.approx((1 + 3 * math.e) ** 2 / (1 + 3 * math.e**2))


def test_what_cannot_be_weighted_is_refused():
    with pytest.raises(BadDataset, match="one episode"):
        weights(logs([(5, 1.0)]), "rw")
    with pytest.raises(BadDataset, match="the return of episode 1 is not finite"):
        weights(logs([(1, 0.0), (2, math.inf)]), "top")
    pixels = logs([(1, 0.0), (2, 1.0)])
    pixels.observation_space = gym.spaces.Box(0, 255, (3,), "uint8")
    pixels.steps.obs = torch.zeros(3, 3, dtype=torch.uint8)
    with pytest.raises(BadDataset, match="aw needs observations that are float vectors; use rw"):
        weights(pixels, "aw")


@pytest.mark.parametrize(
    ("sampler", "said"),
    [
        ("best", "sampler must be uniform or rw or aw or top, got 'best'"),
        ("best:0.1", "sampler must be uniform or rw or aw or top, got 'best:0.1'"),
        ("uniform:1", "the sampler uniform takes no number, got 'uniform:1'"),
        ("rw:0", "the sampler rw takes a positive temperature, as in rw:0.05, got 'rw:0'"),
        ("aw:inf", "the sampler aw takes a positive temperature"),
        ("aw:cold", "the sampler aw takes a positive temperature, as in aw:0.05, got 'aw:cold'"),
        ("aw:", "the sampler aw takes a positive temperature"),
        ("top:1.5", r"the sampler top takes a share in \(0, 1\], as in top:0.2, got 'top:1.5'"),
        ("top:nan", "the sampler top takes a share"),
    ],
)
def test_a_sampler_that_makes_no_sense_is_refused_when_the_method_is_set_up(sampler, said):
    with pytest.raises(BadSetting, match=said):
        TD3BC(sampler=sampler).bind(DatasetTask(logs([(5, 1.0), (5, 2.0)])), 0, Budget(updates=1))


def test_a_sampler_may_name_its_temperature_or_its_share():
    assert [read_sampler(text) for text in ("uniform", "aw", "rw:2", "top:0.25")] == [
        ("uniform", 0.1),
        ("aw", 0.1),
        ("rw", 2.0),
        ("top", 0.25),
    ]
    made = logs([(1, 0.0), (3, 1.0), (2, 2.0)])
    method = TD3BC(sampler="rw:0.5", network=(4,)).bind(DatasetTask(made), 0, Budget(updates=1))
    drawn = Sampler(made, Streams(0), weights(made, "rw", 0.5))
    assert torch.equal(method.data.rows(64), drawn.rows(64))


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ({"sampler": "aw", "temperature": 0.05, "top_share": 0.3}, "aw:0.05"),
        ({"sampler": "top", "temperature": 0.05, "top_share": "2e-1"}, "top:2e-1"),
        ({"sampler": "rw", "temperature": 0.1, "top_share": 0.1}, "rw"),
        ({"sampler": "uniform", "temperature": 0.5, "top_share": 0.5}, "uniform"),
        ({"temperature": 0.5}, "uniform"),
    ],
)
def test_settings_of_runs_from_before_samplers_held_their_number_are_understood(before, now):
    assert make_method("td3-bc", {**before, "lr": 1e-2}) == TD3BC(sampler=now, lr=1e-2)


def test_a_run_from_before_goes_on():
    dataset().save("logs")
    method, options = TD3BC(sampler="rw:0.5", network=(4,)), {"quiet": True, "tensorboard": False}
    run = Run(method, "logs", updates=2, folder="run", engine=Engine(**options)).train()
    config = Path("run/config.yaml")
    config.write_text(
        config.read_text().replace("sampler: rw:0.5", "sampler: rw\n  temperature: 0.5\n  top_share: 0.1")
    )
    assert load_config("run/config.yaml")["settings"]["temperature"] == 0.5
    assert Run(method, "logs", updates=2, folder="run", engine=Engine(**options)).train(resume=True).finished
    assert from_folder("run").config == method and run.finished


@pytest.mark.parametrize("kind", ["rw", "aw", "top:0.3"])
def test_what_is_drawn_does_not_depend_on_how_the_host_scales_rewards(kind):
    """A shift of -1 a step would make long episodes look worse."""
    task = DatasetTask(logs([(9, 5.0), (2, 4.0), (5, 1.0), (4, 3.0)], first=[0.0, 1.0, 3.0, 2.0]))
    plain, scaled = (
        TD3BC(sampler=kind, network=(4,), **settings).bind(task, 0, Budget(updates=1))
        for settings in ({}, {"reward_scale": "returns", "reward_shift": -1.0})
    )
    assert torch.equal(plain.data.rows(256), scaled.data.rows(256))


# Drawing.


@pytest.mark.parametrize("kind", KINDS)
def test_a_million_draws_are_as_frequent_as_they_should_be(kind):
    made = logs([(3, 0.0), (1, 0.5), (4, 1.0), (2, -1.0)], first=[0.0, 3.0, 1.0, 2.0])
    p = weights(made, kind, 0.6)
    sampler = Sampler(made, Streams(3), None if kind == "uniform" else p)
    n = 1_000_000
    drawn = torch.cat([sampler.rows(1000) for _ in range(n // 1000)])
    count = torch.bincount(drawn, minlength=len(made)).double()
    sigma = (n * p * (1 - p)).sqrt()
    assert bool(((count - n * p).abs() <= 4 * sigma).all())
    assert not bool(count[p == 0].any())


def test_a_batch_holds_the_rows_that_were_drawn():
    made = logs([(3, 0.0), (2, 1.0)])
    batch = Sampler(made, Streams(0)).sample(16)
    rows = Sampler(made, Streams(0)).rows(16)
    assert torch.equal(batch.obs, made.steps.obs[rows]) and torch.equal(batch.reward, made.steps.reward[rows])


@pytest.mark.parametrize("at", [0, 1, BLOCK - 1, BLOCK, 2 * BLOCK + 3])
@pytest.mark.parametrize("kind", ["uniform", "rw"])
def test_a_resumed_sampler_goes_on_with_the_same_rows(at, kind):
    made = logs([(3, 0.0), (2, 1.0)])
    p = None if kind == "uniform" else weights(made, kind)
    first = Sampler(made, Streams(5), p)
    for _ in range(at):
        first.rows(7)
    second = Sampler(made, Streams(5), p)
    second.rows(7)
    second.load_state_dict(first.state_dict())
    for _ in range(BLOCK + 2):
        assert torch.equal(first.rows(7), second.rows(7))


def test_seeds_draw_other_rows():
    made = logs([(300, 0.0), (200, 1.0)])
    assert not torch.equal(Sampler(made, Streams(0)).rows(64), Sampler(made, Streams(1)).rows(64))
