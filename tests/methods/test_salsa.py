"""SALSA: a soup as the reference, PPO where the soup is the start, and rewards along the line between two models."""

from __future__ import annotations

import warnings

import pytest
import torch

from palaestra.core.errors import BadSetting
from palaestra.core.method import Budget
from palaestra.core.task import as_task
from palaestra.language.policy import LanguagePolicy
from palaestra.language.soups import barrier, on_line, scores_on_line, soup, weights_of
from palaestra.methods.language.ppo_lm import PPOLM
from palaestra.methods.language.sft import SFT
from palaestra.methods.preference.salsa import SALSA

TASK = as_task("noisy-sort")
TINY = {"prompts": 6, "lr": 1e-2, "kl_weight": 0.2}


def bound(method, task="noisy-sort"):
    return method.bind(as_task(task), 0, Budget(updates=100))


@pytest.fixture
def starts(tmp_path):
    found = []
    for seed in (1, 2, 3):
        torch.manual_seed(seed)
        found.append(str(LanguagePolicy.make("tiny-16x1", as_task("noisy-sort")).save(tmp_path / f"start{seed}")))
    return found


def test_with_the_start_alone_in_the_soup_it_is_ppo_bit_for_bit(starts):
    plain = bound(PPOLM(**TINY, model=starts[0]))
    alone = bound(SALSA(**TINY, model=starts[0], other=starts[1], alpha=1.0))
    for _ in range(2):
        plain.step(), alone.step()
    for p, q in zip(plain.language_policy.parameters(), alone.language_policy.parameters(), strict=True):
        assert torch.equal(p, q)


def test_a_soup_that_is_the_model_itself_is_refused(starts):
    with pytest.raises(BadSetting, match="is the model itself; give another start"):
        bound(SALSA(**TINY, model=starts[0], other=f"{starts[0]}, {starts[0]}"))


def test_the_policy_begins_at_its_start_and_its_first_divergence_is_that_from_the_soup(starts):
    method = bound(SALSA(**TINY, model=starts[0], other=starts[1], lam=1.0, standardise=False))
    first, second = (LanguagePolicy.load(start) for start in starts[:2])
    for p, q in zip(method.language_policy.parameters(), first.parameters(), strict=True):
        assert torch.equal(p, q)
    samples, _ = method.sample()
    batch = method.learnable(samples, torch.zeros(6), torch.arange(6))
    mixed = soup([first, second])
    for part in batch.parts:
        apart = first.score(part).logp - mixed.score(part).logp
        # Rewards of tokens are minus the weighted divergence alone, and a critic that begins at 0 expects nothing.
        place = int(part.mask.nonzero()[0])
        torch.testing.assert_close(part.target[place], -0.2 * apart.sum().detach(), atol=1e-5, rtol=1e-4)
    metrics = bound(SALSA(**TINY, model=starts[0], other=starts[1])).step()
    apart = torch.stack([(part.logp - part.ref_logp)[part.mask].sum() for part in batch.parts]).mean()
    torch.testing.assert_close(metrics["answers/kl_reference"], apart)
    assert apart != 0


def test_more_than_two_starts_share_what_the_first_leaves(starts):
    method = SALSA(model=starts[0], other=",".join(starts[1:]), alpha=0.5)
    expected = soup([LanguagePolicy.load(start) for start in starts], [0.5, 0.25, 0.25])
    found = LanguagePolicy.make(method.refers_to)
    for name, weight in weights_of(expected.model).items():
        torch.testing.assert_close(weights_of(found.model)[name], weight)


def test_a_line_goes_through_both_models_and_beyond(starts):
    first, second = (LanguagePolicy.load(start) for start in starts[:2])
    a, b = (dict(policy.model.named_parameters()) for policy in (first, second))
    for share in (0.0, 1.0, -0.5, 1.5):
        for name, weight in on_line(first, second, share).model.named_parameters():
            torch.testing.assert_close(weight, a[name] + share * (b[name] - a[name]), atol=1e-6, rtol=1e-5)
    task = as_task("noisy-sort")
    found = scores_on_line(first, second, task, prompts=10, shares=(0.0, 1.0))
    assert found[0.0] == pytest.approx(float(task.answered(first, 10, 0)[1].mean()))
    assert found[1.0] == pytest.approx(float(task.answered(second, 10, 0)[1].mean()))


def test_a_soup_that_is_worse_than_what_it_is_made_of_is_warned_of(starts, monkeypatch):
    method = bound(SALSA(**TINY, model=starts[0], other=starts[1], alpha=0.25))
    rows = TASK.rows("train")[:32]
    first, second = (LanguagePolicy.load(start) for start in starts[:2])
    line = barrier(first, second, rows).loss  # whose share of the second rises from 0
    assert method.rise() == pytest.approx(line[3] - 0.25 * line[0] - 0.75 * line[4], abs=1e-6)
    monkeypatch.setattr(SALSA, "rise", lambda self: 0.4)
    with pytest.warns(UserWarning, match=r"the soup's loss is 0.4 nats a token above"):
        bound(SALSA(**TINY, model=starts[0], other=starts[1]))


def test_models_that_learnt_the_same_apart_make_no_soup(starts):
    for start, tuned, updates in ((0, 0, 60), (1, 1, 60), (0, 2, 3)):
        method = SFT(model=starts[start], lr=1e-2).bind(TASK, tuned + 1, Budget(updates=updates))
        for _ in range(updates):
            method.step()
        method.language_policy.save(starts[tuned])
    with pytest.warns(UserWarning, match="fine-tuned from the same model"):
        bound(SALSA(**TINY, model=starts[0], other=starts[1]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bound(SALSA(**TINY, model=starts[0], other=starts[2]))


def test_how_far_the_policy_is_from_its_start_is_logged(starts):
    method = bound(SALSA(**TINY, model=starts[0], other=starts[1]))
    assert float(method.step()["answers/kl_start"]) == pytest.approx(0.0, abs=1e-4)
    for _ in range(3):
        last = method.step()
    assert float(last["answers/kl_start"]) > 0.01


@pytest.mark.parametrize(
    "settings", [{"other": ""}, {"alpha": 1.5}, {"kl_weight": 0.0}, {"reference": "somewhere"}], ids=str
)
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(BadSetting):
        SALSA(**{"other": "elsewhere", **settings}).check()


@pytest.mark.parametrize("other", ["sft:tiny-16x1:2,sft:tiny-16x1:4", "sft:tiny-16x1:2, elsewhere", "elsewhere,sft:x"])
def test_a_start_that_is_trained_first_stands_alone_and_several_are_folders(other):
    SALSA(other="sft:tiny-16x1:2").check()
    with pytest.raises(BadSetting, match="of several starts, each is a folder or a hub name, got sft:"):
        SALSA(other=other).check()
