"""GRPO and what differs from it by a switch: each loss written out by hand on the same answers, and every switch by itself."""

from __future__ import annotations

import dataclasses
from typing import get_args

import pytest
import torch

from palaestra.core.errors import BadSetting
from palaestra.core.method import Budget
from palaestra.core.task import as_task
from palaestra.core.world import World
from palaestra.methods.language import rounds
from palaestra.methods.language.dapo import DAPO
from palaestra.methods.language.dr_grpo import DrGRPO
from palaestra.methods.language.grpo import GRPO
from palaestra.methods.language.lite_ppo import LitePPO
from palaestra.methods.language.reinforce_pp import ReinforcePP
from palaestra.methods.language.rloo import RLOO
from palaestra.methods.online.ppo import PPO
from palaestra.objectives import policy
from palaestra.objectives.segments import Average

from .tiny import bind

TINY = {"model": "tiny-16x1", "prompts": 3, "group": 4, "lr": 1e-2}
LIMIT = 4
"""Tokens of the longest answer."""


def bound(method, **settings):
    return method.bind(as_task("sorting", **{"least": 1, "most": LIMIT - 1, **settings}), 0, Budget(updates=100))


def round_of(method):
    """A round's answers and made-up rewards, which vary within groups and between them."""
    samples, _ = method.sample()
    rewards = torch.rand(len(samples), generator=torch.Generator().manual_seed(1))
    rewards[4:8] *= 0.1
    return samples, rewards, torch.tensor([s.group for s in samples])


def moved(batch):
    """The batch as if it had been sampled by another policy, so that some ratios leave the clip on either side."""
    generator = torch.Generator().manual_seed(2)
    return batch.replace(logp=[part.logp + 0.4 * torch.randn(len(part), generator=generator) for part in batch.parts])


def stepped(method, batch):
    """The gradient of a step, before it is clipped, `(P,)`."""
    seen = []
    method.optimiser.apply = lambda gradients, scale=None: seen.append(torch.cat([g.flatten() for g in gradients]))
    method.update(batch)
    return seen[0]


def by_hand(method, batch, advantage, weigh, low=0.2, high=0.2):
    """The gradient of -sum_i sum_t w_i min(r A, clip(r) A), one answer at a time, `(P,)`."""
    loss, lengths = 0.0, [int(part.mask.sum()) for part in batch.parts]
    for part, a, length in zip(batch.parts, advantage, lengths, strict=True):
        logp = method.language_policy.score(part).logp[part.mask]
        ratio = (logp - part.logp[part.mask]).exp()
        loss = loss - weigh(length, lengths) * torch.minimum(ratio * a, ratio.clamp(1 - low, 1 + high) * a).sum()
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, method.optimiser.params)])


def over_groups(rewards, scale):
    """(R - mean of its group) / scale(its group)."""
    groups = rewards.view(3, 4)
    return torch.cat([(g - g.mean()) / scale(g) for g in groups])


def others_mean(rewards):
    return torch.cat([g - (g.sum() - g) / 3 for g in rewards.view(3, 4)])


NAMED = {
    "grpo": (GRPO, lambda r: over_groups(r, torch.std), lambda own, all: 1 / (len(all) * own), 0.2),
    "dapo": (DAPO, lambda r: over_groups(r, torch.std), lambda own, all: 1 / sum(all), 0.28),
    "dr-grpo": (DrGRPO, lambda r: over_groups(r, lambda g: 1), lambda own, all: 1 / (len(all) * LIMIT), 0.2),
    "lite-ppo": (LitePPO, lambda r: over_groups(r, lambda g: r.std()), lambda own, all: 1 / sum(all), 0.2),
    "rloo": (RLOO, others_mean, lambda own, all: 1 / len(all), 0.2),
}


@pytest.mark.parametrize("name", NAMED)
def test_the_gradient_is_that_of_the_named_algorithm(name):
    cls, advantage, weigh, high = NAMED[name]
    method = bound(cls(**TINY))
    samples, rewards, group = round_of(method)
    batch = moved(method.learnable(samples, rewards, group))
    expected = by_hand(method, batch, advantage(rewards), weigh, high=high)
    torch.testing.assert_close(stepped(method, batch), expected, atol=1e-5, rtol=1e-3)


def test_with_one_update_a_round_rloo_is_reinforce_with_the_mean_of_the_others_as_its_baseline():
    method = bound(RLOO(**TINY))
    samples, rewards, group = round_of(method)
    batch = method.learnable(samples, rewards, group)
    loss = 0.0
    for part, a in zip(batch.parts, others_mean(rewards), strict=True):
        loss = loss - a * method.language_policy.score(part).logp[part.mask].sum() / 12
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(loss, method.optimiser.params)])
    torch.testing.assert_close(stepped(method, batch), expected, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("average", get_args(Average))
@pytest.mark.parametrize("settings", [{}, {"kl_weight": 0.5}, {"dual_clip": 1.1}], ids=["plain", "kl", "dual clip"])
def test_the_gradient_is_the_same_in_however_many_passes(average, settings):
    found = []
    for tokens, passes in ((16_384, 1), (1, 12)):
        method = bound(GRPO(**TINY, average=average, micro_tokens=tokens, **settings))
        batch = moved(method.learnable(*round_of(method)))
        assert len(batch.micro(tokens)) == passes
        found.append(stepped(method, batch))
    torch.testing.assert_close(found[1], found[0], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("average", get_args(Average))
def test_masked_answers_that_were_cut_off_are_as_if_they_were_not_there_but_in_the_advantages(average):
    method = bound(GRPO(**TINY, average=average, overlong="mask"))
    samples, rewards, group = round_of(method)
    for sample in samples:
        sample.truncated = False
    samples[1].truncated = samples[5].truncated = True
    batch = method.learnable(samples, rewards, group)
    torch.testing.assert_close(
        torch.stack([part.advantage[0] for part in batch.parts]), method.advantages(rewards, group)
    )
    rest = batch.take([i for i in range(12) if i not in (1, 5)])
    torch.testing.assert_close(stepped(method, batch), stepped(method, rest), atol=1e-6, rtol=1e-4)
    kept = bound(GRPO(**TINY, average=average))
    assert not torch.allclose(stepped(kept, kept.learnable(samples, rewards, group)), stepped(method, batch), rtol=1e-2)


def test_an_answer_that_ends_at_the_limit_by_itself_was_not_cut_off():
    method = bound(GRPO(**TINY, overlong="mask", max_tokens=3))
    end = method.language_policy.tokeniser.eos_token_id
    samples = [s for _ in range(40) for s in method.answers(method.next_rows(3), f"round/{_}")]
    full = [s for s in samples if len(s.completion) == 3]
    assert {s.truncated for s in full} == {True, False}
    for sample, mask in zip(samples, method.usable(samples), strict=True):
        assert sample.truncated == (int(sample.ids[-1]) != end)
        assert bool(mask.any()) == (not sample.truncated)


def test_a_round_of_answers_that_were_all_cut_off_changes_nothing():
    method = bound(GRPO(**TINY, overlong="mask"))
    samples, rewards, group = round_of(method)
    for sample in samples:
        sample.truncated = True
    before = [p.clone() for p in method.optimiser.params]
    assert method.update(method.learnable(samples, rewards, group)) == {}
    for p, was in zip(method.optimiser.params, before, strict=True):
        torch.testing.assert_close(p, was)


@pytest.mark.parametrize("scale", ["group", "batch"])
def test_a_round_of_equal_rewards_changes_nothing(scale):
    method = bound(GRPO(**TINY, scale=scale))
    samples, _, group = round_of(method)
    assert method.update(method.learnable(samples, torch.full((12,), 0.7), group)) == {}


def test_the_divergence_pulls_back_to_where_training_began():
    method = bound(GRPO(**TINY, kl_weight=0.5))
    samples, _, group = round_of(method)
    with torch.no_grad():
        for p in method.optimiser.params:
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(3)))
    batch = method.learnable(samples, torch.zeros(12), group)
    lengths = [int(part.mask.sum()) for part in batch.parts]
    loss = 0.0
    for part, length in zip(batch.parts, lengths, strict=True):
        difference = part.ref_logp[part.mask] - method.language_policy.score(part).logp[part.mask]
        loss = loss + 0.5 * (difference.exp() - difference - 1).sum() / (12 * length)
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(loss, method.optimiser.params)])
    torch.testing.assert_close(stepped(method, batch), expected, atol=1e-5, rtol=1e-3)
    assert expected.norm() > 0


# ------------------------------------------------------------------------------------------------------------ sampling


def rewarded(method, reward):
    """Replace the judge: `reward(round, i)` for the i-th answer of the n-th call."""
    calls = []

    def judged(samples):
        for i, sample in enumerate(samples):
            sample.reward, sample.rewards = float(reward(len(calls), i)), {"made up": 0.0}
        calls.append(len(samples))
        return samples

    method.judged = judged
    return calls


def test_prompts_whose_answers_are_all_alike_are_replaced_at_most_so_many_times():
    method = bound(DAPO(**TINY, resample=2))
    calls = rewarded(method, lambda call, i: 1.0)
    samples, metrics = method.sample()
    assert calls == [12, 12, 12]
    assert metrics["groups/resampled"] == 2
    assert len(samples) == 12
    assert method.step()["groups/without_spread"] == 1


def test_only_the_prompts_that_teach_nothing_are_replaced_and_a_round_stays_as_large():
    method = bound(DAPO(**TINY, resample=3))
    # At first the second group alone has a spread; then both new ones have.
    calls = rewarded(method, lambda call, i: i % 4 == 0 if call or i // 4 == 1 else 1.0)
    samples, metrics = method.sample()
    assert calls == [12, 8]
    assert metrics["groups/resampled"] == 1
    assert sorted(s.group for s in samples) == sorted([0, 1, 2] * 4)
    for g in range(3):
        own = [s for s in samples if s.group == g]
        assert sorted(s.reward for s in own) == [0, 0, 0, 1]
        assert len({str(s.row["prompt"]) for s in own}) == 1


def test_without_resampling_a_round_is_asked_once():
    method = bound(GRPO(**TINY))
    calls = rewarded(method, lambda call, i: 1.0)
    method.sample()
    assert calls == [12]


# ------------------------------------------------------------------------------------------------------------ settings


@pytest.mark.parametrize("cls", [GRPO, DAPO, DrGRPO, LitePPO, RLOO])
def test_a_group_of_one_has_nothing_to_be_compared_with(cls):
    with pytest.raises(BadSetting, match="group = 1"):
        cls(group=1).check()


def test_a_group_of_one_may_be_compared_with_the_batch():
    GRPO(group=1, centre="batch", scale="batch").check()
    ReinforcePP(group=1).check()


@pytest.mark.parametrize(
    "settings",
    [
        {"clip": 1.0},
        {"clip": 0.0},
        {"clip_high": 0.0},
        {"dual_clip": 1.0},
        {"resample": -1},
        {"prompts": 0},
        {"epochs": 0},
        {"minibatches": 200},
        {"temperature": 0.0},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"max_tokens": 0},
        {"max_tokens": 2.5},
        {"group": 2.5},
        {"lr": "abc"},
        {"lr": None},
        {"model": None},
        {"overlong": "x"},
        {"recompute": 1},
        {"warmup": -3},
        {"max_grad_norm": 0.0},
        {"kl_weight": -0.1},
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(BadSetting, match=next(iter(settings))):
        GRPO(**settings).check()


@pytest.mark.parametrize("name", ["centre", "scale", "average"])
def test_an_unknown_switch_is_refused_and_the_known_ones_named(name):
    with pytest.raises(BadSetting, match=rf"{name} must be .*(none|token-mean).*, got 'mean'"):
        GRPO(**TINY, **{name: "mean"}).check()


# ---------------------------------------------------------------------------------------------------------- one equation


def test_robots_and_texts_learn_by_the_same_clipped_surrogate(monkeypatch):
    calls, original = [], policy._ClippedSurrogate

    class Counted(original):
        @staticmethod
        def forward(ctx, logp, *rest):
            calls.append(tuple(logp.shape))
            return original.forward(ctx, logp, *rest)

    monkeypatch.setattr(policy, "_ClippedSurrogate", Counted)
    bind(PPO(num_envs=2, rollout_steps=16, minibatch=8, epochs=1), "CartPole-v1").step()
    assert set(calls) == {(8,)}
    calls.clear()
    method = bound(GRPO(**TINY))
    batch = method.learnable(*round_of(method))
    method.update(batch)
    assert calls == [(sum(int(part.mask.sum()) for part in batch.parts),)]


def test_the_entropy_of_sampling_is_in_the_metrics_of_a_round_whose_groups_have_no_spread():
    method = GRPO(model="tiny-16x1", prompts=4, group=8).bind(as_task("sorting"), 0, Budget(updates=1))
    method.judged = lambda samples: samples  # all with the same reward
    metrics = method.step()
    assert metrics["groups/without_spread"] == 1 and "policy/entropy" not in metrics
    choices = torch.tensor(float(method.language_policy.model.config.vocab_size)).log()
    assert 0.9 * choices < metrics["answers/entropy"] < 1.1 * choices  # a fresh model chooses evenly


def test_whatever_judging_counts_is_added_up_over_processes(monkeypatch):
    class Two(World):
        """Two processes that find the same."""

        def gather(self, items):
            return items + items

    method = GRPO(**TINY).bind(as_task("sorting"), 0, Budget(updates=1))
    counters, judged = method.counters, method.judged
    names = [field.name for field in dataclasses.fields(counters)]

    def counting(samples):
        for name in names:
            setattr(counters, name, getattr(counters, name) + 3)
        return judged(samples)

    counters.load_state_dict(dict.fromkeys(names, 5))
    monkeypatch.setattr(method, "judged", counting)
    monkeypatch.setattr(rounds, "world", Two)
    asked = len(method.answers(method.next_rows(2), "a round"))
    found = counters.state_dict()
    assert found.pop("steps") > 11
    assert (found.pop("episodes"), found.pop("judge_calls")) == (11 + asked, 11 + asked)
    assert set(found.values()) == {5 + 2 * 3}
