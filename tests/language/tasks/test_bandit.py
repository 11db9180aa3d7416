"""The bandit in text: its table, its demonstrations, and what is computed from probabilities."""

from __future__ import annotations

import json
from collections import Counter

import pytest
import torch

from palaestra.core.errors import BadSetting, UnknownName
from palaestra.language.policy import LanguagePolicy
from palaestra.language.tasks.bandit import Bandit
from tests.language.tasks.laws import scores

SMALL = {"contexts": 6, "arms": 8}


def test_rows_and_table_are_functions_of_the_settings():
    first, second = Bandit(**SMALL, seed=3), Bandit(**SMALL, seed=3)
    assert first.rows("train")[:40] == second.rows("train")[:40]
    assert torch.equal(first.rewards, second.rewards)
    assert not torch.equal(first.rewards, Bandit(**SMALL, seed=4).rewards)
    json.dumps(first.describe())


def test_both_splits_ask_about_every_context():
    task = Bandit(**SMALL)
    for split in ("train", "test"):
        assert {row["prompt"] for row in task.rows(split)[:6]} == {f"{i}:" for i in range(6)}
    with pytest.raises(UnknownName, match="split"):
        task.rows("dev")


@pytest.mark.parametrize(("arms", "share", "right"), [(8, 0.25, 2), (50, 0.04, 2), (8, 0.01, 1), (8, 1.0, 8)])
def test_every_context_has_that_share_of_right_arms_and_one_at_least(arms, share, right):
    rewards = Bandit(contexts=6, arms=arms, share=share).rewards
    assert (rewards == 1).sum(-1).tolist() == [right] * 6
    assert set(rewards.unique().tolist()) <= {0.0, 1.0}


def test_levels_are_worth_what_they_are_in_puzzles():
    task = Bandit(contexts=6, arms=50, worth="levels", share=0.04)
    counts = Counter(task.levels.flatten().tolist())
    assert counts == {1: 12, 2: 96, 3: 96, 4: 96}
    assert [task.rewards[task.levels == level].unique().tolist() for level in (1, 2, 3, 4)] == [[3], [-0.5], [-1], [-3]]


def test_cubes_of_uniform_numbers_are_best_on_level_1():
    task = Bandit(contexts=50, arms=50, worth="cubed")
    assert task.rewards.min() >= 0 and task.rewards.max() <= 1
    assert float(task.rewards.mean()) == pytest.approx(0.25, abs=0.03)
    best = torch.where(task.levels == 1, task.rewards, 2.0).min(-1).values
    assert bool((best >= torch.where(task.levels == 1, -1.0, task.rewards).max(-1).values).all())


@pytest.mark.parametrize("text", ["", "5;", "05", "8", "-1", " 5", "5 6", "5:", "٥"])
def test_what_names_no_arm_is_worth_the_worst_and_on_level_4(text):
    task = Bandit(**SMALL, worth="levels")
    assert task.level(text, task.rows("test")[0]) == 4
    assert scores(task, [task.rows("test")[0]], [text])["total"] == [float(task.rewards.min())]


def test_every_arm_is_worth_what_the_table_says():
    task = Bandit(**SMALL)
    for context, row in enumerate(task.rows("test")):
        found = scores(task, [row] * 8, [str(arm) for arm in range(8)])["total"]
        assert found == task.rewards[context].tolist()
        assert [task.level(str(arm), row) for arm in range(8)] == task.levels[context].tolist()


def test_demonstrations_follow_habits_that_know_nothing_of_worth():
    task = Bandit(contexts=2, arms=8, habit=2.0, train_rows=8000)
    shown = Counter(row["completion"] for row in task.rows("train")[::2])
    share = torch.tensor([shown[f"{arm};"] for arm in range(8)]) / 4000
    torch.testing.assert_close(share, task.habits[0], atol=0.03, rtol=0)
    many = Bandit(habit=2.0)
    assert float((many.habits * many.rewards).sum(-1).mean()) == pytest.approx(0.25, abs=0.04)


def test_an_answer_is_one_token_and_its_end_is_no_cut():
    task = Bandit(**SMALL)
    policy = LanguagePolicy.make("tiny-16x1", task)
    assert len(policy.prompt_ids("5:")) == 1 and len(policy.completion_ids("5;")) == 2  # with the end of the sequence
    torch.manual_seed(0)
    with torch.no_grad():
        policy.model.model.norm.weight.mul_(0)  # every token is equally likely
    samples = policy.answer(task.rows("test"), copies=20, max_tokens=task.max_tokens, stop=task.stop, seed=1)
    assert all(len(s.completion) == 1 for s in samples)
    named = [s for s in samples if task.arm(s.text) is not None]
    assert named and not any(s.truncated for s in named)


def test_probabilities_are_those_that_answers_are_drawn_with():
    torch.manual_seed(1)
    task = Bandit(**SMALL)
    policy = LanguagePolicy.make("tiny-16x1", task)
    found = task.probabilities(policy)
    assert found.shape == (6, 8) and bool((found.sum(-1) < 1).all())
    for s in policy.answer(task.rows("test"), copies=30, max_tokens=1, stop=task.stop, seed=2):
        arm = task.arm(s.text)
        if arm is not None:
            assert float(s.logp.sum()) == pytest.approx(float(found[s.row["context"], arm].log()), abs=1e-4)


@pytest.mark.parametrize(
    "settings", [{"contexts": 0}, {"arms": 1}, {"worth": "linear"}, {"share": 0.0}, {"share": 1.1}, {"habit": -1.0}]
)
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(BadSetting):
        Bandit(**settings)
