"""Judges of trajectories by hand, what they must be, and tasks that have one."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from palaestra.core.errors import BadEnvironment, BadSetting, UnknownName, Unsupported
from palaestra.core.experience import Experience
from palaestra.core.method import Budget
from palaestra.core.task import as_task
from palaestra.envs.judged import JudgedTask
from palaestra.envs.judges import (
    Flipped,
    MaxReturn,
    Mixture,
    NonMarkovian,
    Ring,
    preferences,
    require_antisymmetric,
)
from palaestra.methods.online.ppo import PPO
from palaestra.objectives.games import from_payoff, minimax_winner
from palaestra.runs.trust import named_code


def earning(*rewards: list[float], horizon: int = 4) -> Experience:
    """Trajectories with these rewards, the shorter ones ended early."""
    mask = torch.tensor([[float(t < len(row)) for row in rewards] for t in range(horizon)])
    reward = torch.tensor([[row[t] if t < len(row) else 9.0 for row in rewards] for t in range(horizon)])
    return Experience(obs=torch.zeros(horizon, len(rewards), 2), reward=reward, mask=mask)


def ending(*places: tuple[float, float]) -> Experience:
    """Trajectories of three steps that end there."""
    seen = torch.zeros(3, len(places), 4)
    seen[2, :, :2] = torch.tensor(places)
    return Experience(obs=seen, next_obs=seen, reward=torch.zeros(seen.shape[:2]), mask=torch.ones(seen.shape[:2]))


def at(*degrees: float) -> Experience:
    return ending(*((math.cos(math.radians(d)), math.sin(math.radians(d))) for d in degrees))


def test_more_reward_is_preferred_and_nothing_counts_after_an_end():
    first, second = earning([1.0, 1.0], [0.0, 0.0, 0.0, 5.0], [2.0]), earning([1.0], [6.0], [1.0, 1.0])
    assert MaxReturn()(first, second).tolist() == [1.0, -1.0, 0.0]


def test_with_a_temperature_the_preference_is_that_of_bradley_and_terry():
    first, second = earning([3.0]), earning([1.0])
    p = 1 / (1 + math.exp(-(3.0 - 1.0) / 4.0))
    assert float(MaxReturn(4.0)(first, second)) == pytest.approx(2 * p - 1)


def test_returns_that_differ_by_rounding_alone_tie():
    tenth = earning([0.1] * 4), earning([0.4, 0.0, 0.0, 0.0])
    assert float(MaxReturn()(*tenth)) == 0.0


def test_what_is_earned_in_the_last_quarter_is_a_rule_and_before_it_a_wish():
    judge = NonMarkovian(threshold=1.0)
    modest, greedy = earning([1.0, 1.0, 1.0, 0.5]), earning([5.0, 5.0, 5.0, 1.5])
    assert float(judge(modest, greedy)) == 1.0 and float(judge(greedy, modest)) == -1.0
    assert float(judge(greedy, earning([9.0, 9.0, 9.0, 9.0]))) == 0.0, "neither keeps the rule"
    assert float(judge(earning([2.0, 1.0, 1.0, 1.0]), modest)) == 1.0, "at the threshold it is kept"


def test_each_sector_of_the_ring_beats_the_next_and_no_other():
    centres = [22.5 + 45 * k for k in range(8)]
    table = torch.stack([Ring()(at(*[c] * 8), at(*centres)) for c in centres])
    expected = torch.zeros(8, 8)
    for k in range(8):
        expected[k, (k + 1) % 8], expected[(k + 1) % 8, k] = 1.0, -1.0
    assert torch.equal(table, expected)
    winner = minimax_winner(from_payoff(table))
    assert float((table @ winner).max()) < 1e-6, "there is a mixture that nothing beats, and no single sector is one"
    assert bool((table.max(1).values == 1).all())


def test_of_three_voters_two_prefer_another_place_whatever_it_is():
    a, b, c = ((math.cos(x), math.sin(x)) for x in (math.pi / 6 + k * 2 * math.pi / 3 for k in range(3)))
    assert Mixture()(ending(b, c, a), ending(a, b, c)).tolist() == [1.0, 1.0, 1.0]


def test_an_erring_judge_says_the_opposite_a_share_of_the_time():
    assert float(Flipped(MaxReturn(), 0.2)(earning([1.0]), earning([0.0]))) == pytest.approx(0.6)


JUDGES = [
    MaxReturn(),
    MaxReturn(2.0),
    NonMarkovian(0.5),
    Ring(),
    Mixture(),
    Flipped(NonMarkovian(0.5, MaxReturn(1.0)), 0.3),
]


@given(st.integers(0, 2**31), st.sampled_from(JUDGES))
def test_all_are_antisymmetric_and_within_bounds(seed, judge):
    noise = torch.Generator().manual_seed(seed)
    first, second = (
        Experience(
            obs=torch.zeros(4, 20, 2),
            next_obs=torch.randn(4, 20, 2, generator=noise),
            reward=torch.randn(4, 20, generator=noise),
            mask=(torch.arange(4).unsqueeze(1) < torch.randint(1, 5, (20,), generator=noise)).float(),
        )
        for _ in range(2)
    )
    require_antisymmetric(judge, first, second)
    assert bool((preferences(judge, first, first) == 0).all())


def test_a_judge_who_likes_what_comes_first_is_refused():
    def first_come(first: Experience, second: Experience) -> torch.Tensor:
        return MaxReturn()(first, second) * 0.5 + 0.5

    with pytest.raises(BadEnvironment, match="first_come depends on the order"):
        require_antisymmetric(first_come, earning([1.0], [2.0]), earning([3.0], [0.0]))


def test_a_judge_that_draws_its_answers_is_believed_within_their_noise_and_no_further():
    noise = torch.Generator().manual_seed(0)
    pairs = earning(*[[1.0]] * 400), earning(*[[0.0]] * 400)

    def drawing(bias: float):
        def judge(first: Experience, second: Experience) -> torch.Tensor:
            p = (1 + 0.6 * MaxReturn()(first, second)) / 2 + bias
            return torch.where(torch.rand(p.shape, generator=noise) < p, 1.0, -1.0)

        return judge

    require_antisymmetric(drawing(0.0), *pairs)
    with pytest.raises(BadEnvironment, match="on average"):
        require_antisymmetric(drawing(0.15), *pairs)


@pytest.mark.parametrize(
    ("says", "words"),
    [
        (lambda a, b: torch.full((2,), torch.nan), "gave nan"),
        (lambda a, b: torch.full((2,), 1.5), "gave 1.5"),
        (lambda a, b: torch.zeros(3), r"shape \(3,\) for 2 pairs"),
    ],
)
def test_what_is_no_preference_is_refused(says, words):
    with pytest.raises(BadEnvironment, match=words):
        preferences(says, earning([1.0], [1.0]), earning([1.0], [1.0]))


def test_places_are_asked_for_where_there_are_some():
    images = ending((0.0, 1.0)).replace(next_obs=torch.zeros(3, 1, 8, 8, 3))
    with pytest.raises(Unsupported, match="positions"):
        Ring()(images, images)


# Tasks.


def test_the_task_knows_its_judge_and_how_long_a_trajectory_is():
    task = as_task("judged", env="palaestra/RingPoint-v0", judge="ring")
    assert isinstance(task.preference, Ring) and task.steps == 20
    assert as_task("judged", env="Pendulum-v1").steps == 200
    noisy = as_task("judged", flip=0.2, temperature=2.0)
    assert noisy.preference == Flipped(MaxReturn(2.0), 0.2)
    assert noisy.describe() == {"kind": "env", "spec": "judged", "kwargs": {"temperature": 2.0, "flip": 0.2}}


def test_a_judge_of_ones_own_is_named_by_file_and_is_code_of_ones_own():
    Path("mine.py").write_text(
        "def longer(first, second):\n    return (first.mask.sum(0) - second.mask.sum(0)).sign()\n"
    )
    task = as_task("judged", judge="mine.py:longer")
    assert task.preference(earning([0.0, 0.0]), earning([1.0])).tolist() == [1.0]
    assert named_code({"method": "spo", "task": task.describe()}) == ["mine.py:longer"]


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"judge": "max-retrun"}, UnknownName, "did you mean 'max-return'"),
        ({"flip": 1.2}, BadSetting, "flip"),
        ({"temperature": -1.0}, BadSetting, "temperature"),
        ({"env": "sorting"}, BadSetting, "sorting is none"),
        ({"env": "palaestra/CombinationLock-v0"}, BadSetting, "give horizon"),
    ],
)
def test_impossible_tasks_are_refused(settings, error, words):
    with pytest.raises(error, match=words):
        JudgedTask(**settings)


def test_a_method_without_a_judge_learns_from_the_reward_as_on_the_environment():
    found = []
    for task in (as_task("judged", judge="ring"), as_task("palaestra/PointGoal-v0")):
        method = PPO(num_envs=2, rollout_steps=20).bind(task, 0, Budget(steps=40))
        found.append(float(method.step()["loss/value"]))
    assert found[0] == found[1]
