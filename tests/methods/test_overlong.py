"""Answers that the limit cut off, masked out: a round of which some or all are left out goes on, whatever the method."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from palaestra.core.errors import Unscored
from palaestra.core.method import Budget
from palaestra.core.task import as_task
from palaestra.methods.language.grpo import GRPO
from palaestra.methods.language.ppo_lm import PPOLM
from palaestra.methods.language.reinforce_pp import ReinforcePP
from palaestra.methods.language.rloo import RLOO
from palaestra.methods.preference.ppo_max import PPOMax
from palaestra.methods.preference.rto import RTO

METHODS = {
    "grpo": GRPO,
    "rloo": RLOO,
    "reinforce-pp": ReinforcePP,
    "ppo-lm": PPOLM,
    "ppo-max": partial(PPOMax, critic_rounds=0),
    "rto": partial(RTO, dpo_model="tiny-16x1"),
    "rto, not dense": partial(RTO, dpo_model="tiny-16x1", dense=False),
}
GROUPED = {"model": "tiny-16x1", "prompts": 3, "group": 4, "overlong": "mask"}


def bound(name, cut, **settings):
    """A method whose i-th answer of a round the limit cut off if `cut(i)`; every other answer is right."""
    task = as_task("sorting", least=2, most=5)
    method = METHODS[name](**GROUPED, **settings).bind(task, 0, Budget(updates=100))

    def judged(samples):
        for i, sample in enumerate(samples):
            sample.truncated, sample.reward = cut(i), float(i % 2)
        return samples

    method.judged = judged
    return method


def weights(method):
    return torch.cat([p.detach().flatten() for p in method.optimiser.params])


@pytest.mark.parametrize("kl_weight", [0.0, 0.1])
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("passes", [{"minibatches": 12}, {"micro_tokens": 1}, {"minibatches": 3}], ids=str)
def test_minibatches_and_passes_of_answers_that_were_all_cut_off_leave_nothing_undefined(name, kl_weight, passes):
    method = bound(name, lambda i: i not in (0, 5), kl_weight=kl_weight, **passes)
    before = weights(method)
    metrics = [method.step() for _ in range(2)]
    assert all(bool(value.isfinite()) for row in metrics for value in row.values())
    assert not torch.equal(weights(method), before)
    assert metrics[0]["answers/truncated"] == pytest.approx(10 / 12)


@pytest.mark.parametrize("kl_weight", [0.0, 0.1])
@pytest.mark.parametrize("name", METHODS)
def test_a_round_of_which_all_was_cut_off_is_passed_over_and_the_tenth_in_a_row_ends_the_run(name, kl_weight):
    method = bound(name, lambda i: True, kl_weight=kl_weight)
    before = weights(method)
    for _ in range(9):
        metrics = method.step()
        assert metrics["answers/truncated"] == 1 and all(bool(value.isfinite()) for value in metrics.values())
    assert torch.equal(weights(method), before)
    assert (method.counters.passed_over, method.counters.updates) == (9, 0)
    with pytest.raises(
        Unscored,
        match=r"overlong, difficulty\) left all of them out of the loss in 10 rounds in a row; raise max_tokens",
    ):
        method.step()


@pytest.mark.parametrize("name", METHODS)
def test_a_single_token_that_is_left_of_a_round_is_learnt_from_as_far_as_it_can_be(name):
    method = bound(name, lambda i: i != 0, max_tokens=1)
    assert all(bool(value.isfinite()) for value in method.step().values())
    assert method.counters.updates == method.minibatches
