"""TRPA as a method: its gradient in any number of passes, whole groups, levels, the trust region, and what it refuses."""

from __future__ import annotations

import math
import warnings

import pytest
import torch

from palaestra.core.errors import BadSetting, Diverged
from palaestra.core.method import Budget
from palaestra.language.sample import Sample
from palaestra.language.tasks.bandit import Bandit
from palaestra.language.tasks.knights import Knights
from palaestra.language.tasks.sorting import Sorting
from palaestra.methods.language.trpa import AWHILE, ODPO, TRPA
from palaestra.objectives.divergences import kl_estimate
from palaestra.objectives.group_preference import preference_loss

TINY = {"model": "tiny-16x1", "prompts": 3, "group": 8}
TASK = {"contexts": 6, "arms": 8, "worth": "levels", "share": 0.25}


def bound(method, task=None):
    return method.bind(task or Bandit(**TASK), 0, Budget(updates=100))


def weights(method):
    return torch.cat([p.detach().flatten() for p in method.language_policy.model.parameters()])


def round_of(method):
    samples, _ = method.sample()
    rewards, group = (torch.tensor([getattr(s, name) for s in samples]) for name in ("reward", "group"))
    return method.learnable(samples, rewards, group)


def direct_loss(method, batch):
    """The whole loss in one pass with autograd, as the equations have it."""
    parts = batch.micro(1 << 20)
    (whole,) = parts
    scored = method.language_policy.score(whole)
    segments = torch.unique_consecutive(whole.segment, return_inverse=True)[1]
    n = int(segments.max()) + 1

    def per_answer(x):
        return torch.zeros(n).index_add(0, segments, x * whole.mask)

    count = per_answer(torch.ones(len(segments)))
    q = per_answer(scored.logp - whole.ref_logp) / (count if method.length == "mean" else 1)
    first = torch.cat([torch.tensor([0]), segments.diff().nonzero().squeeze(-1) + 1])
    found = preference_loss(
        q, whole.target[first], whole.group[first], method.beta, method.kappa, method.alone, method.per_prompt
    )
    chosen = whole.mask.bool()
    kl = kl_estimate(scored.logp[chosen], whole.logp[chosen]).mean()
    kl = (kl + 0.25).sqrt() if method.kl_root else kl
    return found.loss + method.kl_weight * kl - method.entropy_weight * scored.entropy[chosen].mean()


SETTINGS = (
    {},
    {"kl_weight": 0.5, "kl_root": True},
    {"length": "sum", "beta": 1.0},
    {"per_prompt": True, "alone": "prompt", "entropy_weight": 0.1},
)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("micro_tokens", [1 << 20, 20])
@pytest.mark.parametrize("task", [Sorting(most=3), Bandit(**TASK)], ids=["sorting", "bandit"])
def test_two_passes_give_the_gradient_of_one(settings, micro_tokens, task, monkeypatch):
    method = bound(TRPA(**{**TINY, "group": 12, "thresholds": None, **settings}, micro_tokens=micro_tokens), task)
    if isinstance(task, Sorting):  # nothing is right at first: a level that depends on the first digit
        monkeypatch.setattr(method, "levels", lambda samples: torch.tensor([1 + len(s) % 3 for s in samples]))
    with torch.no_grad():  # away from the reference and from the sampling policy
        batch = round_of(method)
        for p in method.language_policy.model.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    expected = torch.autograd.grad(direct_loss(method, batch), method.optimiser.params)
    found = []
    monkeypatch.setattr(method.optimiser, "apply", lambda gradients, scale: found.extend(gradients))
    method.update(batch)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-3)


def test_the_first_loss_is_log_2_and_its_pairs_are_even():
    metrics = bound(TRPA(**TINY)).step()
    assert float(metrics["loss/pairs"]) == pytest.approx(math.log(2), abs=1e-5)
    assert float(metrics["policy/kl"]) == pytest.approx(0, abs=1e-6)
    assert float(metrics["preference/better"]) == pytest.approx(0, abs=1e-5)


def test_level_1_becomes_likelier_and_is_set_apart():
    method = bound(TRPA(**{**TINY, "prompts": 6, "group": 32}, lr=1e-2))
    best = method.task.levels == 1
    before = method.task.probabilities(method.policy())
    for _ in range(20):
        metrics = method.step()
    after = method.task.probabilities(method.policy())
    assert float(after[best].mean()) > 1.5 * float(before[best].mean())
    assert metrics["preference/better"] > metrics["preference/worse"] and metrics["preference/accuracy"] > 0.6


def test_minibatches_hold_the_answers_to_a_prompt_together():
    method = bound(TRPA(**TINY, minibatches=2))
    batch = round_of(method)
    seen = [{int(part.group[0]) for part in piece.parts} for piece in method.minibatches_of(batch, 0)]
    sizes = [len(piece) for piece in method.minibatches_of(batch, 0)]
    assert len(seen) == 2 and not seen[0] & seen[1] and sum(sizes) == 24 and set(sizes) == {8, 16}


def test_online_dpo_is_the_same_without_slopes_and_trust_region():
    ours, theirs = bound(ODPO(**TINY, epochs=2)), bound(TRPA(**TINY, epochs=2, kappa=1.0, kl_weight=0.0))
    for method in (ours, theirs):
        method.step()
    assert torch.equal(weights(ours), weights(theirs))


def test_the_trust_region_holds_the_policy_near_the_one_that_answered():
    moved = []
    for weight in (0.0, 100.0):
        method = bound(TRPA(**TINY, epochs=8, lr=1e-2, kl_weight=weight))
        moved.append(float(method.step()["policy/kl"]))
    assert moved[1] < 0.5 * moved[0]


def test_the_reference_is_the_policy_that_training_began_with():
    method = bound(TRPA(**TINY, lr=1e-2))
    before = weights(method)
    for _ in range(3):
        method.step()
    kept = torch.cat([p.flatten() for p in method.anchor.policy.model.parameters()])
    assert torch.equal(kept, before) and not torch.equal(weights(method), before)


def answers(task, texts, rewards=()):
    none = torch.zeros(0)
    samples = [Sample(none.long(), none.bool(), none, none, 0, text, False, task.rows("test")[0]) for text in texts]
    for s, reward in zip(samples, rewards):
        s.reward = reward
    return samples


def test_levels_are_the_tasks_own_or_come_from_thresholds():
    knights = bound(TRPA(**TINY), Knights())
    right = Knights().rows("test")[0]["completion"]
    unread = "<think></think><answer>(1) who knows</answer>"
    assert knights.levels(answers(Knights(), [right, unread, ""])).tolist() == [1, 3, 4]
    rewards = [3.0, 1.0, 0.0]
    assert bound(TRPA(**TINY), Sorting()).levels(answers(Sorting(), "abc", rewards)).tolist() == [1, 1, 2]
    given = bound(TRPA(**TINY, thresholds=(2.0, 0.5)), Knights())
    assert given.levels(answers(Knights(), "abc", rewards)).tolist() == [1, 2, 3]


def test_levels_that_are_no_whole_numbers_from_1_on_are_refused(monkeypatch):
    method = bound(TRPA(**TINY))
    for wrong in (0, 1.5, None):
        monkeypatch.setattr(method.task, "level", lambda text, row, wrong=wrong: wrong, raising=False)
        with pytest.raises(BadSetting, match="whole numbers"):
            method.levels(answers(method.task, "a"))


def test_a_policy_that_is_no_longer_finite_is_noticed():
    method = bound(TRPA(**TINY))
    batch = round_of(method)
    with torch.no_grad():
        next(iter(method.language_policy.model.parameters())).fill_(float("nan"))
    with pytest.raises(Diverged, match="finite"):
        method.update(batch)


def test_it_warns_once_where_for_a_while_hardly_a_prompt_has_a_pair():
    method = bound(TRPA(**TINY))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(AWHILE - 1):
            method.watch_pairs(1.0)
        method.watch_pairs(0.5)
        for _ in range(AWHILE - 1):
            method.watch_pairs(0.95)
    with pytest.warns(UserWarning, match="one level"):
        method.watch_pairs(1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2 * AWHILE):
            method.watch_pairs(1.0)


def test_a_round_without_a_pair_changes_nothing(monkeypatch):
    method = bound(ODPO(**TINY))
    monkeypatch.setattr(method, "levels", lambda samples: torch.ones(len(samples), dtype=torch.int64))
    before = weights(method)
    metrics = method.step()
    assert torch.equal(weights(method), before) and metrics["groups/without_pair"] == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"group": 1}, "two answers"),
        ({"beta": 0.0}, "beta"),
        ({"kappa": -1.0}, "kappa"),
        ({"length": "max"}, "length"),
        ({"alone": "never"}, "alone"),
        ({"thresholds": (0.0, 1.0)}, "fall"),
        ({"entropy_weight": -1.0}, "entropy_weight"),
        ({"minibatches": 4}, "3 prompts"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(BadSetting, match=message):
        TRPA(**{**TINY, **settings}).check()
