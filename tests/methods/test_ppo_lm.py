"""PPO for language models: advantages of tokens by hand, and a critic that has not seen the token it judges."""

from __future__ import annotations

import pytest
import torch

from palaestra.core.errors import BadSetting
from palaestra.core.experience import Experience
from palaestra.core.method import Budget
from palaestra.core.task import as_task
from palaestra.methods.language.ppo_lm import PPOLM, answer_advantages

TINY = {"model": "tiny-16x1", "prompts": 6, "lr": 1e-2}


def bound(method):
    return method.bind(as_task("sorting", least=1, most=3), 0, Budget(updates=100))


def test_advantages_of_answers_of_unequal_length_by_hand():
    rewards = [torch.tensor([0.0, 0.0, 1.0]), torch.tensor([1.0]), torch.tensor([-0.5, 2.0])]
    values = [torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.4]), torch.tensor([1.0, 1.5])]
    found = answer_advantages(rewards, values, lam=0.5)
    # From the end: 1 - 0.3; (0.3 - 0.2) + 0.7 / 2; (0.2 - 0.1) + 0.45 / 2.
    torch.testing.assert_close(found[0], torch.tensor([0.325, 0.45, 0.7]))
    torch.testing.assert_close(found[1], torch.tensor([0.6]))
    torch.testing.assert_close(found[2], torch.tensor([-0.5 + 1.5 - 1.0 + 0.25, 0.5]))


def test_with_lambda_1_an_advantage_is_the_return_less_the_value():
    rewards, values = (
        [torch.tensor([0.0, -0.2, 1.0]), torch.tensor([3.0])],
        [torch.tensor([5.0, -1, 2]), torch.zeros(1)],
    )
    found = answer_advantages(rewards, values, lam=1.0)
    torch.testing.assert_close(found[0], torch.tensor([0.8 - 5, 0.8 + 1, 1 - 2.0]))
    torch.testing.assert_close(found[1], torch.tensor([3.0]))


def test_the_reward_comes_with_the_last_token_and_the_divergence_with_each():
    method = bound(PPOLM(**TINY, kl_weight=0.5))
    part = Experience(
        action=torch.zeros(4, dtype=torch.int64),
        mask=torch.tensor([False, True, True, True]),
        segment=torch.zeros(4, dtype=torch.int64),
        logp=torch.tensor([9.0, 1, 0, 2]),
        ref_logp=torch.tensor([0.0, 0, 1, 0]),
    )
    assert method.token_rewards(part, torch.tensor(3.0)).tolist() == [-0.5, 0.5, 3 - 1.0]


def test_a_value_does_not_depend_on_the_token_whose_state_it_judges():
    method = bound(PPOLM(**TINY))
    torch.nn.init.normal_(method.critic.head.weight)
    samples, _ = method.sample()
    batch = method.learnable(samples, torch.zeros(len(samples)), torch.arange(len(samples)))
    part = next(p for p in batch.parts if int(p.mask.sum()) > 1)
    values = method.critic(part)
    other = part.action.clone()
    other[-1] = (other[-1] + 1) % 10
    torch.testing.assert_close(method.critic(part.replace(action=other)), values)
    other = part.action.clone()
    other[-2] = (other[-2] + 1) % 10
    changed = method.critic(part.replace(action=other)) != values
    assert changed.tolist() == [False] * (len(part) - 1) + [True]
    assert (values[~part.mask] == 0).all()


def test_a_critic_begins_at_0_and_learns_what_answers_are_worth():
    method = bound(PPOLM(**TINY, value_lr=1e-2, lam=1.0))
    samples, _ = method.sample()
    rewards = torch.tensor([float(s.row["prompt"][0] > "4") for s in samples])
    batch = method.learnable(samples, rewards, torch.arange(len(samples)))
    assert all((part.target[part.mask] == reward).all() for part, reward in zip(batch.parts, rewards, strict=True))
    losses = [float(method.update(batch)["loss/value"]) for _ in range(40)]
    assert losses[-1] < 0.3 * losses[0]


def test_the_critic_s_loss_is_the_same_in_however_many_passes():
    found = []
    for tokens in (16_384, 1):
        method = bound(PPOLM(**TINY, micro_tokens=tokens))
        samples, _ = method.sample()
        batch = method.learnable(samples, torch.arange(len(samples)).float(), torch.arange(len(samples)))
        seen = []
        method.value_optimiser.apply = lambda gradients, scale=None, seen=seen: seen.append(
            torch.cat([g.flatten() for g in gradients])
        )
        method.update(batch)
        found.append(seen[0])
    torch.testing.assert_close(found[1], found[0], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("settings", [{"lam": 1.1}, {"lam": -0.1}, {"value_lr": 0.0}], ids=str)
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(BadSetting, match=next(iter(settings))):
        PPOLM(**settings).check()
