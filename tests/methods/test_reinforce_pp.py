"""REINFORCE++: returns of tokens by hand, standardised over all of them."""

from __future__ import annotations

import pytest
import torch

from palaestra.core.experience import Experience
from palaestra.core.method import Budget
from palaestra.core.task import as_task
from palaestra.methods.language.batch import Batch
from palaestra.methods.language.reinforce_pp import ReinforcePP

TINY = {"model": "tiny-16x1", "prompts": 4, "lr": 1e-2}


def bound(method):
    return method.bind(as_task("sorting", least=1, most=3), 0, Budget(updates=100))


def answer(number, mask, logp=None, ref_logp=None):
    count = len(mask)
    given = {"logp": logp, "ref_logp": ref_logp}
    return Experience(
        action=torch.zeros(count, dtype=torch.int64),
        mask=torch.tensor(mask),
        segment=torch.full((count,), number),
        **{name: torch.tensor(value) for name, value in given.items() if value is not None},
    )


def test_a_token_s_return_is_the_reward_less_the_divergence_from_there_on():
    method = bound(ReinforcePP(**TINY, kl_weight=0.5))
    batch = Batch(
        [
            # the first token is the prompt's; then log-ratios 1, -1, 2
            answer(0, [False, True, True, True], [9.0, 1, 0, 2], [0.0, 0, 1, 0]),
            answer(1, [False, True], [9.0, 1], [0.0, 1]),
        ]
    )
    found = method.credited(batch, torch.tensor([1.0, 0.0]), torch.tensor([0, 1]))
    # Rewards less their mean are 0.5 and -0.5; of the first, half of 1 - 1 + 2, of -1 + 2 and of 2 is taken off.
    returns = torch.tensor([0.5 - 1.0, 0.5 - 0.5, 0.5 - 1.0, -0.5])
    expected = (returns - returns.mean()) / returns.std()
    advantage = torch.cat([part.advantage[part.mask] for part in found.parts])
    torch.testing.assert_close(advantage, expected, atol=1e-4, rtol=1e-4)


def test_without_a_reference_all_tokens_of_an_answer_have_one_advantage():
    method = bound(ReinforcePP(**TINY, kl_weight=0.0))
    batch = Batch([answer(0, [False, True, True]), answer(1, [False, True]), answer(2, [True, True, True])])
    found = method.credited(batch, torch.tensor([1.0, 0.0, 1.0]), torch.tensor([0, 1, 2]))
    tokens = torch.cat([part.advantage[part.mask] for part in found.parts])
    assert tokens.mean().item() == pytest.approx(0, abs=1e-6)
    assert tokens.std().item() == pytest.approx(1, abs=1e-4)
    assert tokens[[0, 1, 3, 4, 5]].unique().numel() == 1


def test_its_baseline_variant_first_takes_off_the_mean_of_the_group():
    method = bound(ReinforcePP(**TINY, group=2, centre="group", kl_weight=0.0))
    batch = Batch([answer(i, [True]) for i in range(4)])
    found = method.credited(batch, torch.tensor([1.0, 0.0, 11.0, 10.0]), torch.tensor([0, 0, 1, 1]))
    assert torch.cat([part.advantage for part in found.parts]).sign().tolist() == [1, -1, 1, -1]
    assert found.parts[0].advantage.item() == pytest.approx(found.parts[2].advantage.item())


def test_answers_of_equal_reward_teach_nothing():
    method = bound(ReinforcePP(**TINY, kl_weight=0.0))
    found = method.credited(Batch([answer(i, [True, True]) for i in range(7)]), torch.full((7,), 0.7), torch.arange(7))
    assert all(part.advantage.abs().max() == 0 for part in found.parts)


def test_a_round_of_one_token_teaches_nothing():
    method = bound(ReinforcePP(**TINY, centre="none", kl_weight=0.0))
    found = method.credited(Batch([answer(0, [False, True])]), torch.tensor([1.0]), torch.tensor([0]))
    assert found.parts[0].advantage.tolist() == [0, 0]


def test_the_divergence_is_in_the_reward_and_not_in_the_loss():
    method = bound(ReinforcePP(**TINY, kl_weight=0.1))
    samples, _ = method.sample()
    rewards = torch.tensor([float(i % 2) for i in range(len(samples))])
    batch = method.learnable(samples, rewards, torch.arange(len(samples)))
    batch = batch.replace(ref_logp=[part.ref_logp - 1 for part in batch.parts])  # once advantages are what they are
    steps = []
    method.optimiser.apply = lambda gradients, scale=None: steps.append(torch.cat([g.flatten() for g in gradients]))
    metrics = method.update(batch)
    method.update(batch.replace(ref_logp=[None for _ in batch.parts]))
    assert torch.equal(*steps) and steps[0].norm() > 0
    assert metrics["policy/kl_reference"] > 0.1  # which is logged all the same
