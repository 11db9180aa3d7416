"""Reward models: the loss of a minibatch by hand, and that they learn what is better."""

from __future__ import annotations

import math

import pytest
import torch

import palaestra as pal
from palaestra.core.errors import BadSetting, PalaestraError, Unsupported
from palaestra.core.method import Budget
from palaestra.core.task import as_task
from palaestra.language.policy import LanguagePolicy
from palaestra.language.tasks.prompts import PromptTask
from palaestra.methods.preference.preference_loss import judged_in, pairs_of
from palaestra.methods.preference.reward_model import RewardModelling

TINY = {"model": "tiny-16x1", "prompts": 12, "lr": 3e-3}


def bound(method, task="noisy-sort", **settings):
    return method.bind(as_task(task, **settings), 0, Budget(updates=100))


def test_the_first_loss_is_the_logarithm_of_2_and_half_the_pairs_are_right():
    method = bound(RewardModelling(**TINY))
    metrics = method.step()
    assert metrics["loss/preference"].item() == pytest.approx(math.log(2))
    assert metrics["preference/accuracy"] == 0.5


def test_margins_are_gaps_of_the_rows_scores_and_the_likelihood_is_that_of_the_chosen_answers():
    method = bound(RewardModelling(**TINY, margin=2.0, lm_weight=0.25))
    batch = method.pool.take(12)
    given, group = judged_in(batch)
    better, worse = pairs_of(given, group)
    logp = method.seen(batch).logp
    assert (logp < 0).all()
    expected = torch.nn.functional.softplus(2 * (given[better] - given[worse])) - 0.25 * logp[better]
    loss, _ = method.cost(batch, method.units(batch))
    torch.testing.assert_close(loss, expected.mean())


@pytest.mark.parametrize("tokens", [16_384, 1])
def test_the_likelihood_may_be_the_mean_over_the_tokens_of_all_chosen_answers_in_however_many_passes(tokens):
    method = bound(RewardModelling(**TINY, lm_weight=0.25, lm_average="token-mean", micro_tokens=tokens))
    batch = method.pool.take(12)
    better, _ = method.paired(batch)
    answers = method.seen(batch)
    per_token = answers.logp[better].sum() / sum(batch.parts[i].mask.sum() for i in better.tolist())
    found = method.align(batch)["loss/preference"]
    torch.testing.assert_close(found, math.log(2) - 0.25 * per_token.detach())


def test_however_large_a_margin_is_all_pairs_are_learnt_from():
    plain, clear = (bound(RewardModelling(**TINY, margin=margin)) for margin in (0.0, 5.0))
    batch = plain.pool.take(12)
    for mine, theirs in zip(plain.paired(batch), clear.paired(batch), strict=True):
        assert torch.equal(mine, theirs) and len(mine)
    assert "loss/preference" in clear.step()


def test_a_step_is_the_same_in_however_many_passes():
    found = []
    for tokens in (16_384, 1):
        method = bound(RewardModelling(**TINY, micro_tokens=tokens))
        torch.nn.init.normal_(method.language_policy.head.weight, generator=torch.Generator().manual_seed(0))
        seen = []
        method.optimiser.apply = lambda gradients, scale=None, seen=seen: seen.extend(g.clone() for g in gradients)
        method.step()
        found.append(torch.cat([g.flatten() for g in seen]))
    torch.testing.assert_close(found[1], found[0], atol=1e-6, rtol=1e-3)


def test_it_learns_which_of_some_answers_are_better():
    method = bound(RewardModelling(**{**TINY, "lr": 1e-2}), train_rows=12)
    first = method.step()
    for _ in range(130):
        last = method.step()
    assert last["loss/preference"] < 0.3 * first["loss/preference"] and last["preference/accuracy"] > 0.95


def test_answers_may_be_drawn_from_a_language_model():
    method = bound(RewardModelling(**TINY, drawn=3))
    assert {len(method.pool.answers(place)) for place in range(3)} == {3}
    assert "loss/preference" in method.step()


def test_of_answers_that_are_drawn_it_learns_what_stands_before_a_stop_text_and_an_end():
    task = as_task("noisy-sort")
    vars(task)["stop"] = ("1", "2")
    method = bound(RewardModelling(**TINY, drawn=4), task)
    tokeniser = method.language_policy.tokeniser
    said = [part.action[part.mask].tolist() for place in range(12) for part in method.pool.answers(place)]
    assert not any({"1", "2"} & set(tokeniser.convert_ids_to_tokens(ids)) for ids in said)
    cut = [ids for ids in said if ids[-1] != tokeniser.eos_token_id]
    assert 0 < len(cut) < len(said) and {len(ids) for ids in cut} == {task.max_tokens}


def test_a_run_is_evaluated_by_pairs_and_leaves_a_folder_for_judges():
    run = pal.train(
        RewardModelling(**TINY), "noisy-sort", updates=4, quiet=True, tensorboard=False, evaluate_episodes=20
    )
    last = run.metrics[-1]
    assert 0 <= last["evaluation/return"] <= 1 and last["evaluation/pairs"] >= 20
    assert "evaluation/calibration_error" in last and "evaluation/length_correlation" in last


def test_pairs_need_no_reward_to_be_evaluated_by():
    rows = [{"prompt": f"{i}{i + 1}=", "chosen": f"{i}", "rejected": f"{i + 1}"} for i in range(6)]
    task = PromptTask(data={"train": rows[:4], "test": rows[4:]})
    with pytest.raises(PalaestraError, match="starts from scratch"):
        pal.train(RewardModelling(**TINY), task, updates=1, quiet=True)
    model = as_task("noisy-sort")
    LanguagePolicy.make("tiny-16x1", model).save("model")
    run = pal.train(RewardModelling(model="model", prompts=4), task, updates=2, quiet=True, tensorboard=False)
    assert run.metrics[-1]["evaluation/pairs"] == 2


@pytest.mark.parametrize("settings", [{"margin": -1.0}, {"lm_weight": -0.1}, {"reference": "tiny-16x1"}], ids=str)
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(BadSetting, match=next(iter(settings))):
        RewardModelling(**settings).check()


def test_held_out_rows_without_answers_to_compare_are_refused():
    with pytest.raises(Unsupported, match="evaluated by held-out pairs"):
        bound(RewardModelling(**TINY, drawn=2), "sorting")
