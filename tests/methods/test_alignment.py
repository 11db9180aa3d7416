"""Direct alignment: which answers make pairs, the gradient in any number of passes, and rounds of contests."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from palaestra.core.errors import BadDataset, BadSetting, Diverged, Unsupported
from palaestra.core.experience import Experience
from palaestra.core.method import Budget, make_method
from palaestra.language.judges.judge import RewardFailed
from palaestra.language.judges.kinds import BothOrders
from palaestra.language.sample import Sample
from palaestra.language.tasks.clips import Clips
from palaestra.language.tasks.noisy_sort import NoisySort
from palaestra.language.tasks.prompts import PromptTask
from palaestra.language.tasks.sorting import Sorting
from palaestra.methods.language.batch import Batch
from palaestra.methods.preference.copg import CoPG
from palaestra.methods.preference.dno import DNO
from palaestra.methods.preference.dpo import DPO
from palaestra.methods.preference.inpo import INPO
from palaestra.methods.preference.ipo import IPO
from palaestra.methods.preference.iterated_dpo import IteratedDPO
from palaestra.methods.preference.kto import KTO
from palaestra.methods.preference.plackett_luce import PlackettLuce
from palaestra.methods.preference.preference_loss import pairs_of, whole_groups
from palaestra.methods.preference.pro import PRO
from palaestra.methods.preference.r_dpo import RDPO
from palaestra.methods.preference.simpo import SimPO
from palaestra.methods.preference.slic import SLiC
from palaestra.methods.preference.spo_lm import SPOLM
from palaestra.methods.preference.sppo import SPPO
from palaestra.methods.preference.tdpo import TDPO1, TDPO2

MODEL = {"model": "tiny-16x1", "warmup": 0}
TASK = NoisySort(train_rows=150)


def bound(method, task=TASK):
    return method.bind(task, 0, Budget(updates=100))


def weights(method):
    return torch.cat([p.detach().flatten() for p in method.language_policy.model.parameters()])


def pairs(score, group, *how):
    better, worse = pairs_of(torch.tensor(score), torch.tensor(group), *how)
    return list(zip(better.tolist(), worse.tolist(), strict=True))


# Pairs.


def test_every_two_answers_to_a_prompt_with_different_scores_are_a_pair():
    assert pairs([3.0, 1.0, 1.0, 5.0, 4.0], [0, 0, 0, 1, 1]) == [(0, 1), (0, 2), (3, 4)]


def test_answers_with_the_same_score_are_a_pair_only_with_ties():
    assert pairs([1.0, 1.0], [0, 0]) == []
    assert pairs([1.0, 1.0], [0, 0], "all", True) == [(0, 1)]


def test_extremes_are_the_best_and_the_worst_answer_to_each_prompt():
    assert pairs([2.0, 3.0, 1.0, 5.0, 5.0], [0, 0, 0, 1, 1], "extremes") == [(1, 2)]
    assert pairs([2.0, 3.0, 1.0, 5.0, 5.0], [0, 0, 0, 1, 1], "extremes", True) == [(1, 2), (3, 4)]


def test_pairs_below_a_margin_or_a_bar_are_left_out():
    rates, group = [0.9, 0.5, 0.1, 0.5, 0.3], [0, 0, 0, 1, 1]
    assert pairs(rates, group, "all", False, 0.4) == [(0, 1), (0, 2), (1, 2)]
    assert pairs(rates, group, "all", False, 0.4, 0.6) == [(0, 1), (0, 2)]
    assert pairs(rates, group, "extremes", False, 0.0, 0.5) == [(0, 2), (3, 4)]
    assert pairs(rates, group, "extremes", True, 0.3) == [(0, 2)]


def test_a_margin_is_reached_up_to_the_rounding_of_win_rates():
    all_won, three_of_five = torch.tensor(1.0), torch.tensor(3.0) / 5
    assert float(all_won - three_of_five) < 0.4  # in single precision
    assert pairs([1.0, float(three_of_five)], [0, 0], "all", False, 0.4) == [(0, 1)]


def test_a_prompt_with_one_answer_has_no_pair():
    assert pairs([1.0, 2.0], [0, 1], "all", True) == pairs([1.0, 2.0], [0, 1], "extremes", True) == []


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=12), st.booleans())
def test_pairs_are_of_one_prompt_and_in_the_order_of_scores(answers, ties):
    score, group = [float(s) for s, _ in answers], sorted(g for _, g in answers)
    for how in ("all", "extremes"):
        for i, j in pairs(score, group, how, ties):
            assert i != j and group[i] == group[j]
            assert score[i] >= score[j] if ties else score[i] > score[j]


def test_answers_to_one_prompt_stay_in_one_piece():
    parts = [
        Experience(action=torch.zeros(n), group=torch.full((n,), g))
        for n, g in ((4, 0), (5, 0), (2, 1), (3, 2), (3, 2))
    ]
    assert sorted(map(sorted, whole_groups(Batch(parts), 8))) == [[0, 1], [2, 3, 4]]


# Gradients.


@pytest.mark.parametrize("method", [DPO, IPO, CoPG, PRO, SimPO])
def test_a_step_does_not_depend_on_how_many_passes_it_takes(method):
    whole, parts = bound(method(**MODEL, prompts=8)), bound(method(**MODEL, prompts=8, micro_tokens=40))
    found = [(m.step(), weights(m)) for m in (whole, parts)]
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-4, atol=1e-6)
    for name, value in found[0][0].items():
        torch.testing.assert_close(value, found[1][0][name], rtol=1e-3, atol=1e-5)


def test_how_likely_both_sides_of_pairs_are_is_logged_beside_how_much_likelier_than_under_the_reference():
    metrics = bound(DPO(**MODEL)).step()
    for side in ("chosen", "rejected"):
        assert float(metrics[f"preference/{side}_logp"]) < -5  # five tokens of eleven, a model from scratch
        assert float(metrics[f"preference/{side}"]) == pytest.approx(0.0, abs=1e-5)
    alone = bound(SimPO(**MODEL)).step()  # has no reference, so that the two are the same
    assert "preference/chosen_logp" not in alone and float(alone["preference/chosen"]) < -5


def test_by_how_many_tokens_chosen_answers_are_longer_is_logged():
    task = rows_of(*[{"chosen": "123", "rejected": "2"}] * 4)
    assert float(bound(DPO(**MODEL), task).step()["preference/longer"]) == 2


def test_the_largest_lead_that_copg_aims_at_is_logged():
    task = rows_of({"completions": ["1", "2", "3"], "scores": [5.0, 0.0, 1.0]}, {"chosen": "1", "rejected": "2"})
    assert float(bound(CoPG(**MODEL, beta=0.05), task).step()["preference/aim"]) == pytest.approx(100.0)


def test_the_first_loss_of_dpo_is_log_two_since_nothing_is_likelier_than_under_the_reference():
    metrics = bound(DPO(**MODEL)).step()
    assert float(metrics["loss/preference"]) == pytest.approx(0.693147, abs=1e-5)
    assert float(metrics["preference/margin"]) == pytest.approx(0.0, abs=1e-5)


def test_steps_raise_the_lead_of_better_answers():
    method = bound(DPO(**MODEL, lr=1e-2, schedule="constant"))
    margins = [float(method.step()["preference/margin"]) for _ in range(6)]
    assert margins[-1] > margins[0] + 0.1


@pytest.mark.parametrize("warmup", [0, 2])
def test_the_learning_rate_falls_along_half_a_cosine_from_where_warming_up_has_brought_it(warmup):
    method = bound(DPO(**MODEL | {"warmup": warmup}, lr=1e-2, prompts=4))
    for done in range(4):
        method.step()
        risen = min(1.0, (done + 1) / warmup) if warmup else 1.0
        assert method.optimiser.lr == pytest.approx(1e-2 * risen * 0.5 * (1 + math.cos(math.pi * done / 100)))


def test_without_a_warmup_a_run_goes_on_from_a_checkpoint_as_if_it_had_not_stopped():
    whole, cut, resumed = (bound(DPO(**MODEL, lr=1e-2, prompts=4)) for _ in range(3))
    for _ in range(4):
        whole.step()
    cut.step(), cut.step()
    resumed.load_state_dict(cut.state_dict())
    resumed.step(), resumed.step()
    assert torch.equal(weights(whole), weights(resumed))


def test_a_reference_that_goes_all_the_way_is_the_policy_of_the_update_before():
    method = bound(DPO(**MODEL, lr=1e-2, schedule="constant", reference_rate=1.0))
    margins = [float(method.step()["preference/margin"]) for _ in range(3)]
    assert margins == pytest.approx([0.0, 0.0, 0.0], abs=1e-5)


def test_a_reference_that_hardly_moves_teaches_what_one_that_stays_does():
    still, moving = (bound(DPO(**MODEL, schedule="constant", reference_rate=rate)) for rate in (0.0, 1e-9))
    for _ in range(3):
        assert float(moving.step()["loss/preference"]) == pytest.approx(
            float(still.step()["loss/preference"]), abs=1e-6
        )


def test_a_minibatch_without_a_pair_teaches_nothing():
    method = bound(DPO(**MODEL))
    before, batch = weights(method), method.pool.take(4)
    alike = batch.replace(reward=[torch.zeros(len(part)) for part in batch.parts])
    assert method.learn(alike) == {"pairs/prompts_without": 1.0}
    assert torch.equal(before, weights(method)) and method.counters.updates == 1


def test_simpo_learns_from_all_pairs_however_far_chosen_answers_are_to_lead():
    batch = bound(DPO(**MODEL)).pool.take(32)
    for margin in (0.5, 1.6):
        method = bound(SimPO(**MODEL, margin=margin))
        before = weights(method)
        assert len(method.paired(batch)[0]) == len(bound(DPO(**MODEL)).paired(batch)[0]) > 10
        assert "loss/preference" in method.step() and not torch.equal(before, weights(method))


def test_answers_that_are_infinitely_unlikely_end_the_run():
    method = bound(DPO(**MODEL))
    with torch.no_grad():
        next(iter(method.language_policy.model.parameters())).fill_(float("nan"))
    with pytest.raises(Diverged, match="no longer finite"):
        method.step()


# What is learnt from.


def test_what_is_known_of_an_answer_does_not_depend_on_when_it_is_asked_for():
    early, late = (bound(DPO(**MODEL, drawn=2)) for _ in range(2))
    for place in (0, 70, 149):
        early.pool.answers(place)
    for place in (149, 70, 0):
        for mine, theirs in zip(early.pool.answers(place), late.pool.answers(place), strict=True):
            assert torch.equal(mine.action, theirs.action) and torch.equal(mine.ref_logp, theirs.ref_logp)


def test_every_prompt_is_learnt_from_once_before_any_again():
    method = bound(DPO(**MODEL, prompts=50))
    places = [[method.pool.next() for _ in range(150)] for _ in range(3)]
    assert all(sorted(epoch) == list(range(150)) for epoch in places)
    assert places[1] != places[2]


def test_answers_that_rows_bring_have_the_rows_scores():
    method = bound(DPO(**MODEL))
    row = TASK.rows("train")[int(method.pool.first[3])]
    found = [float(part.reward[0]) for part in method.pool.answers(3)]
    assert found == pytest.approx(row["scores"])


def test_a_row_whose_answer_is_longer_than_the_model_s_window_is_named():
    method = bound(DPO(**MODEL, prompts=4))
    method.language_policy.model.config.max_position_embeddings = 8
    with pytest.raises(BadDataset, match=r"the answer '\d+' to '\d+=' needs 1\d positions with its prompt"):
        method.step()


def test_an_answer_that_was_cut_off_has_no_end_to_learn():
    task = rows_of(*[{"completions": ["1", "2"], "scores": [1.0, 0.0], "truncated": [True, False]}] * 2)
    cut, whole = bound(DPO(**MODEL), task).pool.answers(0)
    assert len(whole) == len(cut) + 1


def test_drawn_answers_are_those_of_the_reference_with_the_task_s_scores():
    method = bound(DPO(**MODEL, drawn=3))
    answers = method.pool.answers(0)
    assert len(answers) == 3
    with TASK.judge() as judge:
        row = TASK.rows("train")[int(method.pool.first[0])]
        texts = [method.language_policy._decode(a.action[a.mask].tolist()) for a in answers]
        samples = [
            Sample(a.action, a.mask, a.mask.float(), a.mask.float(), 0, t, False, row) for a, t in zip(answers, texts)
        ]
        assert [float(a.reward[0]) for a in answers] == pytest.approx(judge(samples).total.tolist())


def test_a_loss_without_a_reference_keeps_none():
    assert bound(SimPO(**MODEL)).anchor is None
    assert bound(SimPO(**MODEL, drawn=2)).anchor is not None


# Evaluations.


@pytest.mark.parametrize(("sampled", "name"), [(True, "kl_reference"), (False, "log_ratio_reference")])
def test_evaluations_say_how_much_likelier_answers_are_than_under_the_reference(sampled, name, monkeypatch):
    monkeypatch.setattr(NoisySort, "sampled", sampled)
    method = bound(DPO(**MODEL, lr=1e-2))
    for _ in range(3):
        method.step()
    found = method.looked_at(TASK.evaluate(method.policy(), 10, 1))
    parts = [Experience(action=s.ids, mask=s.mask, segment=torch.zeros(len(s))) for s in found.answers]
    with torch.no_grad():
        gaps = [(method.language_policy.score(p).logp - method.anchor.policy.score(p).logp).sum() for p in parts]
    assert abs(found.measures[name]) > 1e-3
    assert found.measures[name] == pytest.approx(float(torch.stack(gaps).mean()), abs=1e-4)
    assert [other for other in found.measures if other.endswith("_reference")] == [name]


def test_evaluations_of_what_has_no_reference_say_nothing_of_one():
    method = bound(SimPO(**MODEL))
    before = TASK.evaluate(method.policy(), 4, 1)
    measures = dict(before.measures)
    assert method.looked_at(before).measures == measures


# Rounds.


def later(rows, first, second):
    """Prefers what stands later in the alphabet."""
    return torch.tensor([(a > b) + (a == b) / 2 for a, b in zip(first, second, strict=True)])


def test_duels_are_decided_by_the_judge_s_probability():
    method = bound(INPO(**MODEL, prompts=3, group=4, minibatches=1))
    method.task = NoisySort(train_rows=150)
    method.task.pair_judge = lambda: later
    samples = method.answers(method.next_rows(3), "round/0")
    texts = [s.text for s in samples]
    for i, sample in enumerate(samples):
        assert texts[i] != texts[i ^ 1] and sample.reward == (texts[i] > texts[i ^ 1])
    assert [s.group for s in samples] == [i for i in range(6) for _ in range(2)]
    assert method.counters.judge_calls == 6 + 150, (
        "which is asked about the first pairs in both orders, again and again"
    )
    method.answers(method.next_rows(3), "round/1")
    assert method.counters.judge_calls == 6 + 150 + 6


def test_a_judge_that_depends_on_the_order_is_refused_on_the_first_pairs():
    def first_is_better(rows, first, second):
        return torch.full((len(rows),), 0.9)

    for cls in (INPO, SPPO, DNO, IteratedDPO, SPOLM):
        task = NoisySort(train_rows=150)
        task.pair_judge = lambda: first_is_better
        with pytest.raises(
            RewardFailed, match=r"first_is_better depends on the order: .* off 1 by up to 0.8; wrap it in"
        ):
            bound(cls(**MODEL, prompts=3, group=4, minibatches=1), task).step()
        task.pair_judge = lambda: BothOrders(first_is_better)
        method = bound(cls(**MODEL, prompts=3, group=4, minibatches=1), task)
        method.step()
        assert method.counters.judge_calls <= 3 * 6, "an antisymmetric one need not be tried"


def test_a_tournament_keeps_the_best_and_the_worst():
    method = bound(IteratedDPO(**MODEL, prompts=2, group=4, minibatches=1, contest="tournament"))
    samples = method.answers(method.next_rows(2), "round/0")
    assert len(samples) in (2, 4)
    assert [s.reward for s in samples] == [1.0, 0.0] * (len(samples) // 2)


def test_only_what_is_learnt_from_counts_as_a_judge_call():
    method = bound(INPO(**MODEL, prompts=6, group=4, minibatches=2))
    metrics = method.step()
    assert "reward/gold" in metrics  # which was watched
    assert method.counters.judge_calls == 6 * 2
    method = bound(SPPO(**MODEL, prompts=6, group=4, minibatches=2))
    method.step()
    assert method.counters.judge_calls == 6 * 6


def test_a_minibatch_that_is_left_without_prompts_teaches_nothing():
    method = bound(IteratedDPO(**MODEL, prompts=4, group=4, minibatches=4, contest="win-rate"))
    assert method.update(Batch([])) == {}


def test_win_rates_of_a_prompt_s_answers_have_the_mean_one_half():
    method = bound(DNO(**MODEL, prompts=3, group=5, minibatches=1))
    samples = method.answers(method.next_rows(3), "round/0")
    for group in range(3):
        assert sum(s.reward for s in samples if s.group == group) == pytest.approx(2.5)


def test_a_round_s_first_loss_is_known_since_the_policy_has_not_moved():
    inpo = bound(INPO(**MODEL, prompts=4, minibatches=1)).step()
    assert float(inpo["loss/preference"]) == pytest.approx(1.0, abs=1e-4)  # (1 / (2 eta))^2
    sppo = bound(SPPO(**MODEL, prompts=4, minibatches=1, eta=1.0))
    samples = sppo.answers(sppo.next_rows(4), "round/0")
    expected = torch.tensor([(s.reward - 0.5) ** 2 for s in samples]).mean()
    assert float(bound(SPPO(**MODEL, prompts=4, minibatches=1, eta=1.0)).step()["loss/preference"]) == pytest.approx(
        float(expected), abs=1e-4
    )


def test_sppo_may_learn_from_the_best_and_the_worst_answer_to_each_prompt_alone():
    method = bound(SPPO(**MODEL, prompts=6, group=4, minibatches=1, eta=1.0, pairs="extremes"))
    samples = method.answers(method.next_rows(6), "round/0")
    rates = [[s.reward for s in samples if s.group == g] for g in range(6)]
    ends = [end for own in rates if max(own) > min(own) for end in (max(own), min(own))]
    assert 2 <= len(ends) < 24
    expected = torch.tensor([(rate - 0.5) ** 2 for rate in ends]).mean()
    batch = method.learnable(
        samples, torch.tensor([s.reward for s in samples]), torch.tensor([s.group for s in samples])
    )
    torch.testing.assert_close(method.update(batch)["loss/preference"], expected, atol=1e-4, rtol=1e-4)


def test_inpo_without_a_divergence_needs_no_reference():
    method = bound(INPO(**MODEL, prompts=8, minibatches=1, eta=0.5, kl_weight=0.0))
    assert method.anchor is None
    assert float(method.step()["loss/preference"]) == pytest.approx(
        1.0
    )  # (1 / (2 eta))^2, since the policy has not moved


def test_inpo_s_divergence_weighs_a_third_of_eta_unless_it_is_given():
    for eta in (0.5, 0.1, 0.005):
        INPO(eta=eta).check()
        assert INPO(eta=eta).tau == eta / 3 and INPO(eta=eta).refers
    assert INPO(eta=0.1, kl_weight=0.05).tau == 0.05 and not INPO(kl_weight=0.0).refers
    usual, given = (bound(INPO(**MODEL, prompts=8, eta=0.1, kl_weight=weight)) for weight in (None, 0.1 / 3))
    usual.step(), given.step()
    assert torch.equal(weights(usual), weights(given))


def test_runs_of_inpo_that_have_a_third_of_eta_written_out_are_those_of_today():
    for settings in ({"kl_weight": 0.5 / 3}, {"eta": 0.005, "kl_weight": 0.005 / 3}):
        assert make_method("inpo", settings).kl_weight is None
    assert make_method("inpo", {"eta": 0.5, "kl_weight": 0.1}).kl_weight == 0.1


def test_only_methods_that_compare_with_a_reference_keep_one():
    assert bound(INPO(**MODEL, kl_weight=0.0)).anchor is None
    assert bound(IteratedDPO(**MODEL)).anchor is not None
    assert bound(IteratedDPO(**MODEL, against="previous")).anchor is None


def test_the_learning_rate_falls_from_round_to_round():
    method = bound(INPO(**MODEL, lr=1e-3, prompts=4, minibatches=2, round_decay=0.5))
    rates = []
    for _ in range(3):
        method.step()
        rates.append(method.optimiser.lr)
    assert rates == pytest.approx([1e-3, 5e-4, 2.5e-4])


# Refusals.


@pytest.mark.parametrize(
    ("method", "said"),
    [
        (DPO(beta=-1.0), "beta must be positive"),
        (DPO(smoothing=0.5), "smoothing must be at least 0 and below 0.5"),
        (DPO(beta=math.inf), "beta must be a finite number, got inf"),
        (DPO(warmup=-1), "warmup must not be negative"),
        (IPO(beta=0.0), "beta must be positive"),
        (RDPO(beta=0.0), "beta must be positive"),
        (RDPO(alpha=math.nan), "alpha must be a finite number, got nan"),
        (CoPG(beta=0.0), "beta must be positive"),
        (PlackettLuce(beta=0.0), "beta must be positive"),
        (SimPO(beta=0.0), "beta must be positive"),
        (SimPO(margin=-0.1), "margin must not be negative"),
        (SimPO(margin=math.nan), "margin must be a finite number, got nan"),
        (SLiC(delta=-1.0), "delta must not be negative"),
        (SLiC(likelihood_weight=-1.0), "likelihood_weight must not be negative"),
        (TDPO1(beta=0.0), "beta must be positive"),
        (TDPO2(alpha=-0.5), "alpha must not be negative"),
        (KTO(good_from=math.nan), "good_from must be a finite number"),
        (IteratedDPO(beta=0.0), "beta must be positive"),
        (DPO(prompts=0), "prompts must be at least 1"),
        (DPO(drawn=1), "drawn must be 0 or at least 2"),
        (DPO(pairs="some"), "pairs must be all or extremes"),
        (DPO(reference_rate=2.0), "reference_rate must be from 0 to 1"),
        (DPO(reference_rate=0.5, drawn=2), "draws no answers"),
        (SimPO(reference_rate=0.5), "must be one that the loss compares with"),
        (INPO(group=3), "duels need an even group"),
        (INPO(group=1), "group must be at least 2"),
        (INPO(contest="race"), "contest must be duels, tournament or win-rate"),
        (INPO(eta=0.1, kl_weight=0.2), "at most eta"),
        (SPPO(margin=0.4), "sppo is a loss of single answers, which have no margin"),
        (IteratedDPO(against="nothing"), "against must be reference or previous"),
    ],
)
def test_settings_that_make_no_sense_are_refused(method, said):
    with pytest.raises(BadSetting, match=said):
        method.check()


def rows_of(*answers):
    """A task whose rows bring these columns."""
    task = PromptTask([{"prompt": f"1 {i}", **columns} for i, columns in enumerate(answers)], held_out=0.0)
    task.tokeniser = TASK.tokeniser
    return task


def test_a_task_no_row_of_which_has_two_answers_that_differ_is_refused_before_anything_is_trained():
    alike = rows_of(*[{"completions": ["1", "2"], "scores": [1.0, 1.0]}] * 2)
    labels = rows_of(*[{"completion": "1", "label": True}] * 2)
    for cls, task in ((DPO, alike), (IPO, labels), (PRO, labels), (CoPG, labels), (DPO, NoisySort(answers=1))):
        with pytest.raises(Unsupported, match=r"no row of .* has two answers"):
            cls(**MODEL).check_task(task)
    CoPG(**MODEL).check_task(alike)  # for which ties are pairs
    DPO(**MODEL, drawn=2).check_task(labels)
    KTO(**MODEL).check_task(labels)


@pytest.mark.parametrize("settings", [{}, {"drawn": 2}])
def test_answers_about_clips_are_refused_by_methods_that_would_not_see_them(settings):
    with pytest.raises(Unsupported, match="clips, which dpo does not look at; take a method of rounds"):
        DPO(**MODEL, **settings).check_task(Clips())


@pytest.mark.parametrize("method", [DPO(**MODEL, prompts=8), IteratedDPO(**MODEL, prompts=8, minibatches=1)])
def test_the_share_of_prompts_without_a_pair_is_logged(method):
    assert 0 <= float(bound(method).step()["pairs/prompts_without"]) < 1


@pytest.mark.parametrize("cls", [DPO, IPO, CoPG, SimPO, SLiC, RDPO, PRO])
def test_a_pair_whose_scores_are_equal_is_learnt_from_as_its_row_has_it(cls):
    level = {"score_chosen": 7.0, "score_rejected": 7.0}
    task = rows_of({"chosen": "1", "rejected": "2", **level}, {"chosen": "4", "rejected": "3", **level})
    method = bound(cls(**MODEL, prompts=2), task)
    batch = method.pool.take(2)
    told = [method.language_policy.tokeniser.decode(part.action[part.mask][:-1]) for part in batch.parts]
    assert {(told[i], told[j]) for i, j in zip(*method.paired(batch), strict=True)} == {("1", "2"), ("4", "3")}
    assert not float(method.learn(batch).get("pairs/prompts_without", 0.0))


def test_a_task_whose_rows_have_no_judged_answers_is_refused():
    with pytest.raises(Unsupported, match="no judged answers"):
        bound(DPO(**MODEL), Sorting())
    bound(DPO(**MODEL, drawn=2), Sorting())
