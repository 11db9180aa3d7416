"""GRPO and what differs from it by a switch: each loss written out by hand on the same answers, and every switch by itself."""

from __future__ import annotations

import dataclasses
import warnings
from typing import get_args

import pytest
import torch

from palaestra.core.errors import BadSetting
from palaestra.core.method import Budget
from palaestra.core.task import as_task
from palaestra.core.world import World
from palaestra.language.generation.sampling import Sampling
from palaestra.language.policy import LanguagePolicy
from palaestra.language.tasks.clips import Clips
from palaestra.language.tasks.prompts import PromptTask
from palaestra.methods.language import language, rounds
from palaestra.methods.language.dapo import DAPO
from palaestra.methods.language.dr_grpo import DrGRPO
from palaestra.methods.language.grpo import GRPO
from palaestra.methods.language.lite_ppo import LitePPO
from palaestra.methods.language.ppo_lm import PPOLM
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


def test_rloo_takes_an_answer_s_log_ratio_off_its_reward_before_it_is_compared_with_the_others():
    method = bound(RLOO(**TINY, kl_weight=0.5))
    with torch.no_grad():
        for p in method.optimiser.params:
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(3)))
    samples, rewards, group = round_of(method)
    batch = method.learnable(samples, rewards, group)
    apart = torch.stack([(part.logp - part.ref_logp)[part.mask].sum() for part in batch.parts])
    assert apart.abs().min() > 1e-3
    torch.testing.assert_close(advantages(batch), others_mean(rewards - 0.5 * apart))
    expected = by_hand(method, batch, others_mean(rewards - 0.5 * apart), lambda own, all: 1 / len(all))
    torch.testing.assert_close(stepped(method, batch), expected, atol=1e-5, rtol=1e-3)


# -------------------------------------------------------------------------------------- rewards, masks and advantages


def with_lengths(samples, lengths):
    """Answers cut or filled up to have so many tokens."""
    for sample, length in zip(samples, lengths, strict=True):
        sample.ids = torch.cat([sample.ids[: sample.prompt], torch.zeros(length, dtype=torch.int64)])
        sample.mask = torch.arange(len(sample.ids)) >= sample.prompt
        sample.logp = sample.sampled_logp = torch.zeros(len(sample.ids))
    return samples


def advantages(batch):
    """The advantage of each answer, of which all tokens have the same."""
    each = [part.advantage[part.mask.bool()] for part in batch.parts]
    assert all((a == a[0]).all() for a in each)
    return torch.stack([a[0] for a in each])


def test_an_answer_loses_up_to_1_of_its_reward_over_the_last_share_of_the_limit():
    method = bound(GRPO(**TINY, soft_overlong=0.2, max_tokens=20, centre="none", scale="none"))
    samples, _ = method.sample()
    samples = with_lengths(samples, [1, 16, 17, 18, 19, 20] * 2)
    batch = method.learnable(samples, torch.ones(12), torch.arange(12) // 4)
    torch.testing.assert_close(advantages(batch), torch.tensor([1.0, 1, 0.75, 0.5, 0.25, 0] * 2))


def test_what_an_answer_loses_for_its_length_does_not_make_a_group_one_that_teaches():
    method = bound(DAPO(**TINY, soft_overlong=1.0, resample=2))
    calls = rewarded(method, lambda call, i: 1.0)
    assert method.step()["groups/without_spread"] == 1
    assert calls == [12, 12, 12]


def test_groups_that_are_too_hard_or_too_easy_are_masked_out_and_still_count_in_the_batch_s_deviation():
    rewards = torch.tensor([1.0, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0])
    method, plain = (bound(GRPO(**TINY, scale="batch", difficulty=d)) for d in ((0.1, 0.95), None))
    samples, _ = method.sample()
    for sample, reward in zip(samples, rewards.tolist(), strict=True):
        sample.reward = reward
    group = torch.arange(3).repeat_interleave(4)
    batch = method.learnable(samples, rewards, group)
    assert [bool(part.mask.any()) for part in batch.parts] == [False] * 4 + [True] * 4 + [False] * 4
    expected = torch.tensor([0.75, -0.25, -0.25, -0.25]) / rewards.std()
    torch.testing.assert_close(advantages(batch.take(range(4, 8))), expected, atol=1e-4, rtol=1e-4)
    rest = plain.learnable(samples, rewards, group).take(range(4, 8))
    torch.testing.assert_close(stepped(method, batch), stepped(plain, rest), atol=1e-6, rtol=1e-4)


def test_a_group_on_a_bound_of_difficulty_is_outside():
    method = bound(GRPO(**TINY, difficulty=(0.25, 0.75)))
    samples, _ = method.sample()
    for i, sample in enumerate(samples):
        sample.reward = float(i in (0, 4, 5, 8, 9, 10))  # 1, 2 and 3 of 4
    assert [bool(mask.any()) for mask in method.usable(samples)] == [False] * 4 + [True] * 4 + [False] * 4


def test_where_no_group_is_within_difficulty_the_round_is_passed_over():
    method = bound(GRPO(**TINY, difficulty=(0.1, 0.95)))
    rewarded(method, lambda call, i: 1.0)
    assert method.step()["reward/mean"] == 1
    assert (method.counters.passed_over, method.counters.updates) == (1, 0)


@pytest.mark.parametrize(
    ("settings", "first", "second"),
    [
        # Less the mean of all so far, 0.5 and then 1.5, over their deviation, root (1 / 3) and then root (10 / 7) ...
        ({"centre": "none", "scale": "none", "reward_scale": "standardise"}, [-0.8660, 0.8660], [0.4183, 1.2550]),
        # ... not less a mean, or less that of the group.
        ({"centre": "none", "scale": "none", "reward_scale": "deviation"}, [0.0, 1.7321], [1.6733, 2.5100]),
        ({"centre": "group", "scale": "none", "reward_scale": "deviation"}, [-0.8660, 0.8660], [-0.4183, 0.4183]),
        # Less both, which is less that of the group.
        ({"centre": "group", "scale": "none", "reward_scale": "standardise"}, [-0.8660, 0.8660], [-0.4183, 0.4183]),
        ({"centre": "none", "scale": "none", "reward_clip": 1.5}, [0.0, 1.0], [1.5, 1.5]),
    ],
    ids=str,
)
def test_rewards_on_the_scale_of_all_seen_so_far_by_hand(settings, first, second):
    method = bound(GRPO(**TINY, **settings))
    for rewards, expected in (([0.0, 0, 1, 1], first), ([2.0, 2, 3, 3], second)):
        found = method.advantages(torch.tensor(rewards), torch.zeros(4, dtype=torch.int64))
        torch.testing.assert_close(found[1:3], torch.tensor(expected), atol=1e-3, rtol=0)


def test_rewards_that_were_always_equal_have_no_scale():
    method = bound(GRPO(**TINY, centre="none", scale="none", reward_scale="standardise"))
    assert method.advantages(torch.full((7,), 0.7), torch.zeros(7, dtype=torch.int64)).abs().max() < 1e-7


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # Tokens are worth 0, 1, 1, 1 and 3: less 1.2, over the root of 4.8 / 4.
        ({"standardise": True}, [-1.0954, -0.1826, 1.6432]),
        ({"standardise": True, "advantage_clip": 1.0}, [-1.0, -0.1826, 1.0]),
        ({"advantage_clip": 0.5}, [0, 0.5, 0.5]),
    ],
    ids=str,
)
def test_advantages_of_tokens_are_standardised_over_those_that_count_and_clipped(settings, expected):
    method = bound(GRPO(**TINY, centre="none", scale="none", overlong="mask", **settings))
    samples, _ = method.sample()
    samples = with_lengths(samples[:4], [1, 3, 1, 2])
    for sample in samples:
        sample.truncated = sample is samples[3]
    batch = method.learnable(samples, torch.tensor([0.0, 1.0, 3.0, 100.0]), torch.arange(4))
    torch.testing.assert_close(advantages(batch.take(range(3))), torch.tensor(expected), atol=1e-4, rtol=0)
    assert (batch.parts[3].advantage == 0).all()


def test_equal_advantages_teach_nothing_once_they_are_standardised():
    method = bound(GRPO(**TINY, centre="none", scale="none", standardise=True))
    samples, _, group = round_of(method)
    assert method.update(method.learnable(samples, torch.full((12,), 0.7), group)) == {}


@pytest.mark.parametrize(
    ("rewards", "expected"),
    [
        ([1.0, 0, 1, 0], {"better": 3.0, "worse": 3.5}),
        ([0.2, 0.9, 0.1, 0.2], {"better": 2.0, "worse": 11 / 3}),
        ([0.7] * 4, {}),
    ],
    ids=str,
)
def test_the_lengths_of_answers_better_and_worse_than_the_mean_are_logged(rewards, expected):
    method = bound(GRPO(**TINY))
    samples = with_lengths(method.sample()[0][:4], [1, 2, 5, 5])
    found = rounds._reward_metrics(samples, torch.tensor(rewards), torch.zeros(4, dtype=torch.int64))
    lengths = {name.removeprefix("answers/length_"): float(x) for name, x in found.items() if "length_" in name}
    assert lengths == pytest.approx(expected)


# ------------------------------------------------------------------------------------------------------------ sampling


def test_answers_are_drawn_from_the_tokens_that_all_cuts_leave():
    settings = {"temperature": 0.99, "top_p": 0.99, "top_k": 100, "min_p": 0.01}
    assert GRPO(**settings).sampling == Sampling(**settings)
    method = bound(GRPO(**TINY, top_k=1))
    samples, _ = method.sample()
    assert all((s.sampled_logp[s.mask] == 0).all() for s in samples)  # the likeliest, each time
    assert len({s.text for s in samples if s.group == 0}) == 1
    batch = method.learnable(*round_of(method))
    assert all((part.weight[part.mask] < 1).all() for part in batch.parts)  # what the cut has added is taken off again


@pytest.mark.parametrize("asked", [4, 5])
def test_more_prompts_than_there_are_are_asked_with_a_word(asked):
    task = PromptTask([{"prompt": f"{i}="} for i in range(5)], lambda completions, **_: [1.0] * len(completions))
    rows = len(task.rows("train"))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        GRPO(prompts=rows if asked == 4 else rows + 1).check_task(task)
    words = [str(w.message) for w in said]
    assert len(words) == (asked == 5)
    assert all(f"asks {rows + 1} prompts" in text and f"prompts = {rows}" in text for text in words)


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


def test_a_group_of_one_does_not_say_how_difficult_a_prompt_is():
    with pytest.raises(BadSetting, match=r"group = 1 says nothing.*difficulty"):
        GRPO(group=1, centre="batch", scale="batch", difficulty=(0.1, 0.95)).check()


@pytest.mark.parametrize("cls", [ReinforcePP, PPOLM])
def test_a_group_of_one_never_has_the_spread_that_resampling_waits_for(cls):
    with pytest.raises(BadSetting, match=r"group = 1 .*resample"):
        cls(resample=2).check()
    cls(group=2, resample=2).check()


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
        {"top_k": -1},
        {"min_p": 1.0},
        {"soft_overlong": 1.5},
        {"difficulty": (0.95, 0.1)},
        {"difficulty": (0.1,)},
        {"reward_clip": 0.0},
        {"advantage_clip": -1.0},
        {"reward_scale": "running"},
        {"reward_scale": "deviation"},  # which the deviation of the group undoes
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
    monkeypatch.setattr(language, "world", Two)
    asked = len(method.answers(method.next_rows(2), "a round"))
    found = counters.state_dict()
    assert found.pop("steps") > 11
    assert (found.pop("episodes"), found.pop("judge_calls")) == (11 + asked, 11 + asked)
    assert set(found.values()) == {5 + 2 * 3}


def test_a_reference_by_its_name_is_shown_the_clips_that_answers_are_about(tmp_path):
    LanguagePolicy.make("tiny-video-16x1", Clips()).save(tmp_path / "start")
    start = str(tmp_path / "start")
    method = GRPO(model=start, reference=start, kl_weight=0.1, prompts=2, group=2).bind(Clips(), 0, Budget(updates=4))
    samples, _ = method.sample()
    batch = method.learnable(samples, torch.zeros(4), torch.tensor([s.group for s in samples]))
    for part in batch.parts:
        torch.testing.assert_close(part.ref_logp, part.logp, atol=1e-4, rtol=1e-4)
