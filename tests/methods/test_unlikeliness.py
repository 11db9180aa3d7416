"""Unlikeliness as a method: what it learns from, ranks, skipped steps, and what it refuses."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from palaestra.core.errors import BadSetting
from palaestra.core.experience import Experience
from palaestra.core.method import Budget, make_method
from palaestra.language.tasks.bandit import Bandit
from palaestra.methods.language.batch import Batch
from palaestra.methods.language.dapo import DAPO
from palaestra.methods.language.grpo import GRPO
from palaestra.methods.language.lite_ppo import LitePPO
from palaestra.methods.language.rloo import RLOO
from palaestra.methods.language.unlikeliness import MOST_SAMPLINGS, RankDiscount, Unlikeliness

TINY = {"model": "tiny-16x1", "prompts": 4, "group": 8, "epochs": 1, "kl_weight": 0.0, "answers_wanted": 0}
EASY = {"contexts": 6, "arms": 4, "share": 0.5}


def bound(method, **settings):
    return method.bind(Bandit(**{**EASY, **settings}), 0, Budget(updates=100))


def weights(method):
    return torch.cat([p.detach().flatten() for p in method.language_policy.model.parameters()])


def test_it_cannot_draw_its_groups_anew():
    with pytest.raises(Exception, match="resample"):
        make_method("unlikeliness", {"resample": 2})


def test_without_a_discount_it_is_grpo_bit_for_bit_where_all_groups_have_right_and_wrong_answers():
    ours = bound(Unlikeliness(**TINY | {"group": 100}, discount=0.0))
    theirs = bound(GRPO(model="tiny-16x1", prompts=4, group=100, average="token-mean"))
    for _ in range(3):
        metrics = [m.step() for m in (ours, theirs)]
        assert all(float(m["groups/without_spread"]) == 0 for m in metrics)
    assert torch.equal(weights(ours), weights(theirs))


def test_with_a_discount_it_is_not():
    ours, other = bound(Unlikeliness(**TINY)), bound(Unlikeliness(**TINY, discount=0.0))
    for m in (ours, other):
        m.step()
    assert not torch.equal(weights(ours), weights(other))


def answer(ids, logp, group=0):
    mask = torch.arange(len(ids)) >= 1
    return Experience(
        action=torch.tensor(ids), mask=mask, logp=torch.tensor(logp), group=torch.full((len(ids),), group)
    )


def test_ranks_go_by_log_probability_per_token_or_of_the_whole_answer():
    batch = Batch([answer([5, 1, 2], [0, -1.0, -1.0]), answer([5, 3], [0, -1.5])])
    mean, total = (bound(Unlikeliness(**TINY, rank_by=by)).likelihood(batch) for by in ("mean", "sum"))
    assert mean.tolist() == [-1.0, -1.5] and total.tolist() == [-2.0, -1.5]


def test_the_same_answer_is_equally_likely_whatever_rounding_says():
    batch = Batch([answer([5, 1], [0, -1.0]), answer([5, 1], [0, -1.0000001]), answer([5, 1], [0, -3.0], group=1)])
    found = bound(Unlikeliness(**TINY)).likelihood(batch)
    assert found[0] == found[1] and found[2] == -3


def test_only_groups_with_right_and_wrong_answers_are_left_and_sampling_goes_on_until_there_are_enough():
    method = bound(Unlikeliness(**TINY | {"group": 4, "answers_wanted": 40}))
    samples, metrics = method.sample()
    rewards = torch.tensor([s.reward for s in samples])
    group = torch.tensor([s.group for s in samples])
    assert 40 <= len(samples) < 40 + 16 and metrics["groups/samplings"] > 1
    for g in group.unique():
        assert len(rewards[group == g]) == 4 and set(rewards[group == g].tolist()) == {0, 1}
    assert sorted(group.unique().tolist()) == list(range(len(samples) // 4))
    assert method.counters.episodes == 16 * int(metrics["groups/samplings"])


def test_log_probabilities_in_the_buffer_are_those_of_the_policy_that_learns():
    method = bound(Unlikeliness(**TINY | {"answers_wanted": 60}))
    method.step()
    samples, _ = method.sample()
    batch = method.learnable(
        samples, torch.tensor([s.reward for s in samples]), torch.tensor([s.group for s in samples])
    )
    again = method.scored(method.language_policy, batch)
    for part, logp in zip(batch.parts, again, strict=True):
        torch.testing.assert_close(part.logp, logp * part.mask, atol=1e-5, rtol=0)


def test_where_everything_is_right_it_stops_asking_and_learns_nothing():
    method = bound(Unlikeliness(**TINY | {"answers_wanted": 1000}), worth="binary", share=1.0)
    method.noted = lambda samples: torch.tensor([s.__dict__.update(reward=1.0) or 1.0 for s in samples])
    before = weights(method)
    metrics = method.step()
    assert metrics["groups/samplings"] == MOST_SAMPLINGS
    assert torch.equal(weights(method), before)


def test_a_step_with_a_large_gradient_is_left_out_and_counted():
    method = bound(Unlikeliness(**TINY, skip_norm=1e-9))
    before = weights(method)
    metrics = method.step()
    assert metrics["policy/skipped"] == 1 and torch.equal(weights(method), before)
    assert bound(Unlikeliness(**TINY)).step()["policy/skipped"] == 0


def test_a_step_whose_gradient_is_no_number_is_left_out_too(monkeypatch):
    method = bound(Unlikeliness(**TINY))
    before = weights(method)
    loss = method.loss
    monkeypatch.setattr(method, "loss", lambda batch: (loss(batch)[0] * float("nan"), loss(batch)[1]), raising=False)
    metrics = method.step()
    assert metrics["policy/skipped"] == 1 and "policy/gradient_norm" not in metrics
    assert torch.equal(weights(method), before) and bool(before.isfinite().all())


def test_different_right_answers_are_counted_once():
    method = bound(Unlikeliness(**TINY), contexts=2)
    counts = [int(method.step()["answers/distinct_right"]) for _ in range(12)]
    assert counts == sorted(counts) and counts[-1] == 4  # two right arms in each of two contexts


def test_it_says_whether_right_answers_became_likelier():
    metrics = bound(Unlikeliness(**TINY | {"group": 32, "lr": 1e-2})).step()
    found = [float(value) for name, value in metrics.items() if name.startswith("uplift/")]
    assert len(found) >= 2 and all(0 <= share <= 1 for share in found)


@pytest.mark.parametrize("host", [RLOO, LitePPO, DAPO])
def test_it_goes_before_other_members_of_the_family(host):
    @dataclass
    class Mine(RankDiscount, host):
        """The discount on another host."""

    size, alone = {"model": "tiny-16x1", "prompts": 2, "group": 100}, {"answers_wanted": 0}
    plain, mine, none = (bound(m) for m in (host(**size), Mine(**size, **alone), Mine(**size, **alone, discount=0.0)))
    for method in (plain, mine, none):
        assert method.step()["groups/without_spread"] == 0
    assert torch.equal(weights(none), weights(plain)) and not torch.equal(weights(mine), weights(plain))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"discount": -0.1}, "discount"),
        ({"discount": 1.5}, "discount"),
        ({"group": 1}, "two answers|group = 1"),
        ({"discount_form": "other"}, "discount_form"),
        ({"rank_by": "max"}, "rank_by"),
        ({"answers_wanted": -1}, "answers_wanted"),
        ({"skip_norm": 0.0}, "skip_norm"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(BadSetting, match=message):
        Unlikeliness(**{**TINY, **settings}).check()


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_answers_that_are_masked_out_have_the_ranks_that_their_likelihood_gives_them(temperature):
    @dataclass
    class Mine(RankDiscount, DAPO):
        """The discount before a method that may mask answers out."""

    kept, masked = (
        bound(Mine(**TINY | {"temperature": temperature}, overlong=overlong)) for overlong in ("keep", "mask")
    )
    samples, _ = kept.sample()
    for i, sample in enumerate(samples):
        sample.truncated, sample.reward = i % 3 == 0, float(i % 2)
    rewards, group = (torch.tensor([getattr(s, name) for s in samples]) for name in ("reward", "group"))
    found, expected = (
        torch.stack([part.advantage[-1] for part in method.learnable(samples, rewards, group).parts])
        for method in (masked, kept)
    )
    torch.testing.assert_close(found, expected)


def test_before_dapo_the_discount_takes_no_punishment_that_makes_rewards_negative():
    @dataclass
    class Both(RankDiscount, DAPO):
        pass

    with pytest.raises(BadSetting, match="leave soft_overlong at 0"):
        Both(**TINY, soft_overlong=0.2).check()


def test_negative_rewards_are_refused_and_graded_ones_unless_asked_for():
    with pytest.raises(BadSetting, match="negative"):
        bound(Unlikeliness(**TINY), worth="levels").step()
    with pytest.raises(BadSetting, match="graded"):
        bound(Unlikeliness(**TINY), worth="cubed").step()
    bound(Unlikeliness(**TINY, graded=True), worth="cubed").step()
