"""pass@k of a policy: against what its probabilities say."""

from __future__ import annotations

import pytest
import torch

from palaestra.core.errors import BadSetting
from palaestra.language.generation.beam import BeamSearch
from palaestra.language.passes import passes, rates
from palaestra.language.policy import LanguagePolicy
from palaestra.language.tasks.bandit import Bandit
from palaestra.objectives.coverage import chance_of_pass

TASK = Bandit(contexts=12, arms=6, share=0.34)


@pytest.fixture
def policy():
    torch.manual_seed(0)
    return LanguagePolicy.make("tiny-16x1", TASK)


def test_it_estimates_the_chance_that_one_of_k_answers_is_right(policy):
    found = passes(policy, TASK, samples=2000, prompts=12, seed=1)
    chance = (TASK.probabilities(policy) * (TASK.levels == 1)).sum(-1)
    for k in (1, 4, 16):
        assert found.at(k) == pytest.approx(float(chance_of_pass(chance, k).mean()), abs=0.025)
    assert found.right.shape == (12,) and found.samples == 2000


def test_different_right_answers_are_counted_for_each_prompt(policy):
    found = passes(policy, TASK, samples=400, prompts=5, seed=2)
    assert found.distinct.tolist() == [2] * 5
    assert rates(found, (1, 8)) == {"pass@1": found.at(1), "pass@8": found.at(8), "distinct_right": 2.0}


def test_more_prompts_than_there_are_are_those_that_there_are(policy):
    assert len(passes(policy, TASK, samples=2, prompts=1000).right) == 12


@pytest.mark.parametrize(("samples", "prompts"), [(0, 1), (1, 0)])
def test_nothing_cannot_be_counted(policy, samples, prompts):
    with pytest.raises(BadSetting):
        passes(policy, TASK, samples, prompts)


def test_answers_that_there_are_not_cannot_be_counted(policy):
    there_are = policy.model.config.vocab_size
    policy.engine = BeamSearch(there_are + 1)
    with (
        pytest.warns(UserWarning, match="answers were asked for"),
        pytest.raises(BadSetting, match=f"pass@k counts {there_are + 1} answers to each prompt"),
    ):
        passes(policy, TASK, samples=there_are + 1, prompts=2)
