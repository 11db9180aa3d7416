"""Single answers: A-LoL and its baselines, which answers they draw; TDPO's divergences."""

from __future__ import annotations

import pytest
import torch

from palaestra.core.errors import BadSetting
from palaestra.core.method import Budget
from palaestra.language.judges.judge import Judge
from palaestra.language.policy import LanguagePolicy
from palaestra.language.tasks.noisy_sort import NoisySort
from palaestra.language.tasks.noisy_sort import right as share
from palaestra.language.tasks.prompts import PromptTask
from palaestra.methods.preference.a_lol import ALoL, ALoLKL, ALoLRefFree, ALoLSeq
from palaestra.methods.preference.kto import KTO
from palaestra.methods.preference.leftover import PromptValue
from palaestra.methods.preference.preference_loss import PreferenceLoss
from palaestra.methods.preference.pro import PRO
from palaestra.methods.preference.rrhf import RRHF
from palaestra.methods.preference.tdpo import TDPO1, TDPO2
from palaestra.methods.preference.weighted import GOLD, RLoL, WeightedBC


class SignedSort(NoisySort):
    """Scores from -2 to 1, as of a reward model."""

    def judge(self):
        return Judge(lambda completions, answer, **_: [3 * right - 2 for right in share(completions, answer)])


MODEL = {"model": "tiny-16x1", "warmup": 0, "prompts": 8}
TASK = NoisySort(train_rows=100, answers=1, mix=True)


def bound(method, task=TASK):
    return method.bind(task, 0, Budget(updates=100))


def rows_of(*rows, reward=None):
    task = PromptTask([{"prompt": f"{i}=", **row} for i, row in enumerate(rows)], reward, held_out=0.0)
    task.tokeniser = TASK.tokeniser
    return task


def weights(method):
    return torch.cat([p.detach().flatten() for p in method.language_policy.model.parameters()])


def test_an_answer_is_worth_what_it_scores_above_what_is_expected():
    method = bound(ALoL(**MODEL, value="mean"))
    places, worth = method.appraised()
    scores = torch.tensor([float(method.pool.answers(p)[i].reward[0]) for p, i in places.tolist()])
    offset = scores - worth
    assert len(scores) == 100
    torch.testing.assert_close(offset, offset[0].expand_as(offset))
    assert 0 <= float(offset[0]) <= 1


def test_answers_that_are_no_better_than_expected_are_never_drawn():
    class Half(ALoL):
        def expected(self, score, places):
            return torch.full_like(score, 0.5)

    method = bound(Half(**MODEL))
    places, worth = method.appraised()
    useless = {tuple(method.pool.answers(p)[i].action.tolist()) for p, i in places[worth <= 0].tolist()}
    assert 0 < len(useless) < 100
    learnt = []
    method.learn = lambda batch: learnt.extend(tuple(part.action.tolist()) for part in batch.parts) or {}
    for _ in range(20):
        method.step()
        method.counters.updates += 1
    assert len(learnt) == 160 and not useless & set(learnt)


def test_drawn_uniformly_they_are_but_teach_nothing():
    method = bound(ALoL(**MODEL, draw="uniform"))
    method.appraised()[1].fill_(-0.1)
    before = weights(method)
    method.step()
    assert torch.equal(before, weights(method))


def test_what_answers_are_worth_does_not_depend_on_what_was_drawn_before():
    method, again = bound(ALoL(**MODEL)), bound(ALoL(**MODEL))
    torch.rand(7)
    assert all(torch.equal(a, b) for a, b in zip(method.appraised(), again.appraised(), strict=True))


def test_nothing_of_an_evaluation_s_prompts_goes_into_what_answers_are_worth():
    class Elsewhere(NoisySort):
        def rows(self, split):
            return super().rows(split) if split == "train" else super().rows(split)[:0]

    settings = {"train_rows": 100, "answers": 1, "mix": True}
    with_test, without = (bound(ALoL(**MODEL), task(**settings)) for task in (NoisySort, Elsewhere))
    assert torch.equal(with_test.appraised()[1], without.appraised()[1])


PAIRS = [{"chosen": str(i), "rejected": str(i + 1)} for i in range(4)]


@pytest.mark.parametrize("cls", [ALoL, WeightedBC, GOLD, RLoL])
@pytest.mark.parametrize("rescored", [False, True])
def test_of_a_pair_the_chosen_answer_alone_is_learnt_from_and_scored(cls, rescored):
    task = rows_of(*PAIRS, reward=lambda completions, **_: [1.0 for _ in completions])
    chosen, both = (bound(cls(**MODEL, rescored=rescored, sides=sides), task) for sides in ("chosen", "all"))
    assert chosen.appraised()[0][:, 1].tolist() == [0] * 4
    assert both.appraised()[0][:, 1].tolist() == [0, 1] * 4
    assert both.counters.judge_calls - chosen.counters.judge_calls == (4 if rescored else 0)
    for place in range(4):
        (own,), (first, _) = chosen.pool.answers(place), both.pool.answers(place)
        assert own.action.tolist() == first.action.tolist()


def test_lists_and_single_answers_are_learnt_from_whichever_side_of_pairs_is():
    listed = {"completions": ["1", "2"], "scores": [1.0, 0.0]}
    method = bound(WeightedBC(**MODEL), rows_of(listed, listed))
    assert method.appraised()[0][:, 1].tolist() == [0, 1] * 2


def test_a_rejected_answer_that_is_not_learnt_from_may_have_a_negative_score():
    pair = {"chosen": "1", "rejected": "2", "score_chosen": 1.0, "score_rejected": -3.0}
    WeightedBC(**MODEL).check_task(rows_of(pair))
    with pytest.raises(BadSetting, match="the least is -3"):
        WeightedBC(**MODEL, sides="all").check_task(rows_of(pair))


def test_the_share_of_ratios_that_is_clipped_is_reported():
    whole, tokens = bound(ALoL(**MODEL, lr=1e-2)), bound(ALoLSeq(**MODEL, lr=1e-2))
    assert float(whole.step()["policy/clipped"]) == float(tokens.step()["policy/clipped"]) == 0.0
    for _ in range(30):
        shares = [float(method.step()["policy/clipped"]) for method in (whole, tokens)]
    assert 0 < shares[1] < shares[0] <= 1
    assert float(bound(RLoL(**MODEL, clip=None)).step()["policy/clipped"]) == 0.0


def test_answers_of_rows_can_be_scored_anew_by_the_task_s_judge():
    task = NoisySort(train_rows=100, answers=2, flip=1.0)
    given, anew = (bound(PRO(**MODEL, rescored=rescored), task) for rescored in (False, True))
    for place in range(100):
        first, second = given.pool.answers(place), anew.pool.answers(place)
        assert [part.action.tolist() for part in first] == [part.action.tolist() for part in second]
        one, other = ([float(part.reward[0]) for part in parts] for parts in (first, second))
        torch.testing.assert_close(one, other[::-1])  # the rows' scores are the wrong way round
    assert (given.counters.judge_calls, anew.counters.judge_calls) == (0, 200)


def test_a_reward_model_needs_something_to_score():
    with pytest.raises(BadSetting, match="give drawn, or rescored"):
        PRO(reward_model="somewhere").check()
    PRO(reward_model="somewhere", rescored=True).check()


def test_while_the_policy_is_the_reference_all_ratios_are_one():
    after = [bound(cls(**MODEL)) for cls in (ALoL, ALoLSeq, ALoLRefFree)]
    for method in after:
        method.step()
    for other in after[1:]:
        torch.testing.assert_close(weights(after[0]), weights(other), atol=1e-5, rtol=1e-4)


def test_without_a_value_a_lol_is_r_lol_and_that_is_weighted_cloning():
    one, two = bound(RLoL(**MODEL)), bound(WeightedBC(**MODEL))
    one.step(), two.step()
    torch.testing.assert_close(weights(one), weights(two), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(one.appraised()[1], two.appraised()[1])


def test_the_share_that_is_learnt_from_is_reported():
    method = bound(ALoLKL(**MODEL))
    assert float(method.step()["data/positive"]) == pytest.approx(float((method.appraised()[1] > 0).float().mean()))


@pytest.mark.parametrize(("least", "largest"), [(0.0, 1.0), (-2.0, 1.0), (-3.0, -1.0)])
def test_a_prompt_s_value_stays_between_the_least_and_the_largest_score_and_fits_what_it_is_shown(least, largest):
    torch.manual_seed(0)
    states, mask = torch.randn(64, 5, 16), torch.ones(64, 5, dtype=torch.bool)
    reward = least + (largest - least) * (states[:, :, 0].mean(1) > 0).float()
    value = PromptValue(16, least, largest)
    before = float((value(states, mask) - reward).square().mean().detach())
    for _ in range(5):
        value.fit((states, mask), reward)
    found = value(states, mask).detach()
    assert float((found - reward).square().mean()) < before
    assert bool(((found >= least) & (found <= largest)).all())


def test_a_head_expects_scores_below_0_as_a_mean_does():
    task = SignedSort(train_rows=100)
    head, mean = (bound(ALoL(**MODEL, rescored=True, value=value), task) for value in ("head", "mean"))
    for method in (head, mean):
        places, worth = method.appraised()
        score = torch.stack([method.pool.answers(p)[i].reward[0] for p, i in places.tolist()])
        assert float((score - worth).mean()) < -1


def test_what_stands_behind_a_prompt_s_end_does_not_count():
    torch.manual_seed(0)
    value, states = PromptValue(16, 0.0, 1.0), torch.randn(1, 5, 16)
    padded = torch.cat([states, torch.full((1, 3, 16), 9.0)], 1)
    mask = torch.arange(8).unsqueeze(0) < 5
    torch.testing.assert_close(value(padded, mask), value(states, mask[:, :5]))


@pytest.mark.parametrize("cls", [TDPO1, TDPO2])
def test_tdpo_s_first_loss_is_log_two_and_its_divergences_are_zero(cls):
    method = bound(cls(**MODEL), NoisySort(train_rows=100))
    batch = method.pool.take(8)
    assert float(method.seen(batch).kl.detach().abs().max()) < 1e-4
    assert float(method.step()["loss/preference"]) == pytest.approx(0.693147, abs=1e-4)


def test_tdpo_asks_the_policy_once_about_a_pass_and_is_told_the_same(monkeypatch):
    method = bound(TDPO1(**MODEL), NoisySort(train_rows=100))
    batch = method.pool.take(4)
    assert batch.parts[0].ref_logp is None, "the reference is not asked ahead for a part of what a step asks for"
    expected = PreferenceLoss.seen(method, batch.replace(ref_logp=method.anchor.logp(batch.parts)))
    asked, before = [], LanguagePolicy._before
    monkeypatch.setattr(LanguagePolicy, "_before", lambda self, *given: asked.append(self) or before(self, *given))
    found = method.seen(batch)
    assert asked == [method.language_policy, method.anchor.policy]
    torch.testing.assert_close(found.logp, expected.logp)
    torch.testing.assert_close(found.ref_logp, expected.ref_logp)


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_a_step_of_tdpo_asks_either_model_once(rate, monkeypatch):
    method = bound(TDPO1(**MODEL, reference_rate=rate), NoisySort(train_rows=100))
    asked, before = [], LanguagePolicy._before
    monkeypatch.setattr(LanguagePolicy, "_before", lambda self, *given: asked.append(self) or before(self, *given))
    method.step()
    assert asked == [method.language_policy, method.anchor.policy]


def test_tdpo_s_divergence_is_that_of_whole_distributions():
    method = bound(TDPO1(**MODEL), NoisySort(train_rows=100))
    with torch.no_grad():
        for p in method.anchor.policy.model.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    batch = method.pool.take(2)
    found = method.seen(batch).kl.detach()
    part = batch.parts[0]
    with torch.no_grad():
        own, theirs = (
            policy.model(input_ids=part.action.unsqueeze(0)).logits[0].log_softmax(-1)
            for policy in (method.language_policy, method.anchor.policy)
        )
    places = part.mask.nonzero().squeeze(-1) - 1
    expected = (theirs[places].exp() * (theirs[places] - own[places])).sum()
    torch.testing.assert_close(found[0], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("method", "said"),
    [
        (ALoL(draw="often"), "draw must be worth, positive or uniform"),
        (ALoL(value="guess"), "value must be head or mean"),
        (ALoL(sides="rejected"), "sides must be chosen or all"),
        (ALoL(clip=1.5), "clip must be at least 0 and below 1"),
        (ALoLKL(beta=-1.0), "beta must not be negative"),
        (GOLD(floor=2.0), "floor is a probability"),
        (RLoL(clip=-0.1), "clip must be at least 0 and below 1"),
        (PRO(likelihood_weight=-1.0), "likelihood_weight must not be negative"),
        (RRHF(ranking_weight=-1.0), "ranking_weight must not be negative"),
        (KTO(good_weight=0.0), "good_weight must be positive"),
    ],
)
def test_settings_that_make_no_sense_are_refused(method, said):
    with pytest.raises(BadSetting, match=said):
        method.check()


@pytest.mark.parametrize("cls", [WeightedBC, GOLD, RLoL])
def test_pairs_whose_two_scores_are_0_have_no_negative_ones(cls):
    tied = {"chosen": "1", "rejected": "2", "score_chosen": 0.0, "score_rejected": 0.0}
    cls(**MODEL, sides="all").check_task(rows_of(tied, {"completions": ["1", "2"], "scores": [1.0, 0.0]}))


def test_a_task_that_scores_nothing_is_refused_before_the_reference_is_asked():
    with pytest.raises(BadSetting, match="reward"):
        ALoL(**MODEL).check_task(rows_of({"completions": ["1", "2"], "scores": [1.0, 0.0]}))


@pytest.mark.parametrize("cls", [WeightedBC, GOLD, RLoL])
@pytest.mark.parametrize("draw", ["worth", "positive", "uniform"])
def test_scores_below_0_are_no_weights_however_answers_are_drawn(cls, draw):
    with pytest.raises(
        BadSetting, match=r"must not be negative, and the least is -3; have scores of at least 0, or take a-lol"
    ):
        cls(**MODEL, draw=draw).check_task(rows_of({"completions": ["1", "2"], "scores": [1.0, -3.0]}))
    scored = rows_of({"completions": ["1", "2"], "scores": [1.0, -3.0]}, reward=lambda completions, **_: [-1.0, 1.0])
    ALoL(**MODEL, draw=draw).check_task(scored)
    with pytest.raises(BadSetting, match=r"must not be negative, and the least is -1\.4"):
        bound(cls(**MODEL, draw=draw, rescored=True), SignedSort(train_rows=100)).step()
