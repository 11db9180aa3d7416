"""Reinforced token optimisation: its token rewards by hand, and without them PPO."""

from __future__ import annotations

import pytest
import torch

from palaestra.core.errors import BadSetting, PalaestraError
from palaestra.core.experience import Experience
from palaestra.core.method import Budget
from palaestra.core.task import as_task
from palaestra.language.policy import LanguagePolicy
from palaestra.methods.language.batch import Batch
from palaestra.methods.language.ppo_lm import PPOLM
from palaestra.methods.preference.rto import RTO
from palaestra.objectives.token_mdp import implicit_reward

TINY = {"model": "tiny-16x1", "prompts": 6, "lr": 1e-2}


def bound(method, task="noisy-sort"):
    return method.bind(as_task(task), 0, Budget(updates=100))


@pytest.fixture
def dpo_model(tmp_path):
    torch.manual_seed(5)
    return str(LanguagePolicy.make("tiny-32x1", as_task("noisy-sort")).save(tmp_path / "dpo"))


def test_token_rewards_of_the_card_by_hand_weighted_first_and_then_clipped(dpo_model):
    method = bound(RTO(**TINY, dpo_model=dpo_model, beta1=0.05, token_clip=0.05, kl_weight=0.01))
    ratio = torch.tensor([0.0, 0.4, -2.0, 0.1])
    dense = method.clamped(implicit_reward(ratio, torch.zeros(4), method.beta1))
    torch.testing.assert_close(dense[1:], torch.tensor([0.02, -0.05, 0.005]))
    part = Experience(
        mask=torch.tensor([False, True, True, True]),
        logp=torch.tensor([0.0, 1, 0, -1]),
        ref_logp=torch.zeros(4),
        reward=dense,
    )
    torch.testing.assert_close(method.token_rewards(part, torch.tensor(2.0)), torch.tensor([0.01, -0.05, 2.015]))


def test_without_the_dpo_policy_s_part_it_is_ppo_bit_for_bit(dpo_model):
    same = {**TINY, "kl_weight": 0.1, "value_clip": 0.2, "average": "sequence-mean", "minibatches": 2}
    plain, without = bound(PPOLM(**same)), bound(RTO(**same, dpo_model=dpo_model, beta1=0.0))
    for _ in range(3):
        plain.step(), without.step()
    for p, q in zip(
        (*plain.language_policy.parameters(), *plain.critic.parameters()),
        (*without.language_policy.parameters(), *without.critic.parameters()),
        strict=True,
    ):
        assert torch.equal(p, q)


def test_rewards_on_a_scale_of_their_own_keep_the_weight_of_beta3(dpo_model):
    for weight in (0.1, 1.0):
        method = bound(RTO(**TINY, dpo_model=dpo_model, beta3=weight, reward_scale="deviation"))
        found = method.advantages(torch.tensor([0.0, 1.0]), torch.tensor([0, 0]))
        assert float(found[1]) == pytest.approx(weight * 2**0.5, rel=0.2)


def test_the_critic_s_loss_may_be_a_mean_over_answers_as_released(dpo_model):
    method = bound(RTO(**TINY, dpo_model=dpo_model, value_average="sequence-mean", value_clip=None))
    lengths, errors = (1, 3), (2.0, 4.0)
    parts = [
        Experience(mask=torch.ones(n, dtype=torch.bool), target=torch.full((n,), error), segment=torch.full((n,), i))
        for i, (n, error) in enumerate(zip(lengths, errors, strict=True))
    ]
    seen = []
    method.critic.forward = lambda batch: torch.zeros(len(batch.mask))
    method.value_optimiser.accumulate = lambda loss, pieces: (
        seen.extend(loss(piece) for piece in pieces) or [outputs for _, outputs in seen]
    )
    method.valued(Batch(parts))
    assert sum(float(loss) for loss, _ in seen) == pytest.approx(0.5 * (2**2 + 4**2) / 2)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_the_dpo_policy_and_the_reference_are_asked_about_the_policy_s_own_answers(dpo_model, temperature):
    """At temperature 1, at which DPO compared them, whatever answers are sampled at."""
    method = bound(RTO(**TINY, dpo_model=dpo_model, token_clip=None, beta1=2.0, temperature=temperature))
    samples, _ = method.sample()
    batch = method.learnable(samples, torch.zeros(6), torch.arange(6))
    policy = LanguagePolicy.load(dpo_model)
    part = batch.parts[0]
    expected = 2 * (policy.score(part).logp - method.anchor.policy.score(part).logp)
    torch.testing.assert_close(part.reward, expected.detach() * part.mask, atol=1e-5, rtol=1e-4)
    assert (part.reward[~part.mask] == 0).all() and part.reward.abs().max() > 0


def test_it_tells_how_large_token_rewards_are_and_how_much_of_them_is_the_end_s(dpo_model):
    method = bound(RTO(**TINY, dpo_model=dpo_model))
    rewards = [torch.tensor([0.0, 1.0, -1.0, 2.0]), torch.tensor([0.0, 3.0, 1.0])]
    masks = [torch.tensor([False, True, True, True]), torch.tensor([False, True, True])]
    batch = Batch([Experience(reward=r, mask=m) for r, m in zip(rewards, masks, strict=True)])
    found = method.looked_back(batch, torch.tensor([0.0, 1.0]))
    assert found["dpo/size"].item() == pytest.approx(8 / 5)
    assert found["dpo/end_share"].item() == pytest.approx(3 / 8)
    assert found["dpo/correlation"].item() == pytest.approx(1)
    assert {"dpo/size", "dpo/end_share", "answers/kl_reference"} <= set(method.step())


def test_an_answer_s_own_reward_may_be_left_out(dpo_model):
    method = bound(RTO(**TINY, dpo_model=dpo_model, beta1=0.0, beta3=0.0, lam=1.0))
    samples, _ = method.sample()
    batch = method.learnable(samples, torch.arange(6.0), torch.arange(6))
    assert all((part.target.abs() < 1e-4).all() for part in batch.parts)


def test_rewards_of_tokens_may_come_together_with_the_last(dpo_model):
    batches = []
    for dense in (True, False):
        method = bound(RTO(**TINY, dpo_model=dpo_model, dense=dense, token_clip=None, beta1=1.0, lam=1.0))
        samples, _ = method.sample()
        batches.append(method.learnable(samples, torch.arange(6.0), torch.arange(6)))
    for spread, late in zip(batches[0].parts, batches[1].parts, strict=True):
        first, *others = late.reward[late.mask].flip(0).tolist()
        assert not any(others) and first == pytest.approx(float(spread.reward.sum()), abs=1e-5)
        place = int(late.mask.nonzero()[0])
        torch.testing.assert_close(late.target[place], spread.target[place], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "settings", [{"dpo_model": ""}, {"beta1": -1.0}, {"beta3": -1.0}, {"token_clip": 0.0}], ids=str
)
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(BadSetting, match=next(iter(settings))):
        RTO(**{"dpo_model": "somewhere", **settings}).check()


def test_a_dpo_policy_of_another_vocabulary_is_refused(tmp_path):
    other = LanguagePolicy.make("tiny-16x1", as_task("cyclic-style")).save(tmp_path / "other")
    with pytest.raises(PalaestraError, match="vocabularies"):
        bound(RTO(**TINY, dpo_model=str(other)))
