"""The best of n answers in a reward model's eyes."""

from __future__ import annotations

import math

import pytest
import torch

from palaestra.core.task import as_task
from palaestra.language.best_of import BestOf, best_of
from palaestra.language.policy import LanguagePolicy
from palaestra.language.reward_policy import RewardPolicy


def test_one_answer_is_plain_sampling_and_a_model_that_knows_the_truth_selects_the_best():
    task = as_task("noisy-sort")
    torch.manual_seed(0)
    policy = LanguagePolicy.make("tiny-16x1", task)
    model = RewardPolicy.make("tiny-16x1", task)
    gold = task.answered(policy, 12, 3, copies=4)[1].view(12, 4)
    model.judge = lambda samples, tokeniser: gold.flatten()
    one, two, four = best_of(policy, model, task, (1, 2, 4), prompts=12, seed=3)
    assert one.gold == pytest.approx(float(gold.mean())) == pytest.approx(one.proxy)
    assert two.gold == pytest.approx(float(gold.view(12, 2, 2).amax(-1).mean()))
    assert four.gold == pytest.approx(float(gold.amax(-1).mean()))
    model.judge = lambda samples, tokeniser: -gold.flatten()
    assert best_of(policy, model, task, (4,), prompts=12, seed=3)[0].gold == pytest.approx(float(gold.amin(-1).mean()))


def test_the_divergence_of_the_best_of_n():
    assert BestOf(1, 0, 0).kl == 0
    assert BestOf(4, 0, 0).kl == pytest.approx(math.log(4) - 0.75)
