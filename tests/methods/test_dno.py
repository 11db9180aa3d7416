"""Direct Nash optimisation: teachers beside the policy, whose pairs are learnt from, and answers of earlier rounds."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from palaestra.core.errors import BadDataset, BadSetting, PalaestraError, Unsupported
from palaestra.core.method import Budget
from palaestra.language.anchors import Anchor
from palaestra.language.kept import keeping
from palaestra.language.policy import LanguagePolicy
from palaestra.language.sample import Sample, repetition
from palaestra.language.tasks.clips import Clips
from palaestra.language.tasks.noisy_sort import NoisySort
from palaestra.methods.preference.dno import DNO, written
from palaestra.methods.preference.iterated_dpo import IteratedDPO
from palaestra.methods.preference.preference_loss import pairs_of
from palaestra.methods.preference.replay import Replay, answers_in, groups_of
from palaestra.objectives.answers import Answers
from palaestra.objectives.games import mirror_step

TINY = {"model": "tiny-16x1", "prompts": 6, "minibatches": 2}
TASK = NoisySort(train_rows=150)


def bound(**settings):
    return DNO(**TINY | settings).bind(TASK, 0, Budget(updates=100))


def asked(method):
    return method.answers(method.next_rows(method.prompts), f"round/{method.round}")


def learnt(method):
    """What a round of a method learns from."""
    samples = asked(method)
    rewards, group = (torch.tensor([getattr(s, name) for s in samples]) for name in ("reward", "group"))
    return samples, method.learnable(samples, rewards, group)


# Teachers.


def test_a_column_of_the_rows_may_be_the_teacher():
    samples = asked(bound(teacher="column:answer"))
    assert [s.source for s in samples] == [0, 0, 0, 0, 0, 1] * 6
    assert [s.group for s in samples] == [g for g in range(6) for _ in range(6)]
    for sample in samples[5::6]:
        assert sample.text == sample.row["answer"]
        assert len(sample.ids) == sample.prompt + 5 and int(sample.mask.sum()) == 5  # four digits and the end


def test_a_row_may_bring_several_answers_of_a_teacher():
    samples = asked(bound(teacher="column:completions"))
    assert [s.source for s in samples] == [0, 0, 0, 0, 0, 1, 1] * 6
    assert [s.text for s in samples[5:7]] == samples[5].row["completions"]


PAIR = {"chosen": "1", "rejected": "2", "truncated": [False, True]}
LIST = {"completions": ["1", "2"], "scores": [0.0, 1.0], "truncated": [True, False]}


@pytest.mark.parametrize(
    ("row", "column", "whole"),
    [
        ({"completion": "1", "truncated": True}, "completion", []),
        ({"completion": "1", "truncated": [False]}, "completion", ["1"]),
        ({"completion": "1", "label": True, "truncated": True, "best": "2"}, "completion", []),
        ({"completion": "1", "label": True, "truncated": True, "best": "2"}, "best", ["2"]),
        ({"completion": [{"role": "assistant", "content": "1"}], "truncated": True}, "completion", []),
        ({"best": "2", "truncated": True}, "best", []),
        ({"best": ["1", "2"], "truncated": [False, True]}, "best", ["1"]),
        (PAIR, "rejected", []),
        (PAIR, "chosen", ["1"]),
        (LIST, "completions", ["2"]),
        ({**LIST, "completion": "1"}, "completion", []),
        ({**LIST, "best": "3"}, "best", ["3"]),
    ],
    ids=str,
)
def test_a_teacher_s_answer_that_its_row_calls_truncated_is_left_out(row, column, whole):
    assert written({"prompt": "1=", **row}, column) == whole


def test_a_prompt_whose_teacher_was_cut_off_is_learnt_from_without_it(monkeypatch):
    rows = TASK.rows("train")
    cut = [{**rows[i], "truncated": [True, i % 4 == 0]} for i in range(len(rows))]
    monkeypatch.setattr(NoisySort, "rows", lambda self, split: cut)
    samples = asked(bound(teacher="column:completions"))
    taught = [s for s in samples if s.source]
    assert 0 < len(taught) < 6
    assert all(s.text == s.row["completions"][1] and s.row["truncated"] == [True, False] for s in taught)


def test_another_model_may_be_the_teacher_and_what_it_did_not_finish_counts_for_nothing():
    method = bound(teacher="tiny-16x1")
    samples = asked(method)
    taught = [s for s in samples if s.source]
    assert 0 < len(taught) < 6
    said = method.adviser.policy.answer(
        [s.row for s in samples if s.source == 0][::5], max_tokens=5, seed=method.streams.integer("teacher/0")
    )
    assert [(s.group, s.text) for s in said if not s.truncated] == [(s.group, s.text) for s in taught]


def test_what_a_model_teaches_is_drawn_once_for_all_that_ask_it_the_same(monkeypatch):
    asked_for, answer = [], LanguagePolicy.answer

    def counted(self, rows, *, copies=1, **how):
        asked_for.append(copies)
        return answer(self, rows, copies=copies, **how)

    alone = asked(bound(teacher="tiny-16x1"))
    monkeypatch.setattr(LanguagePolicy, "answer", counted)
    with keeping(Path("answers")):
        first, second = asked(bound(teacher="tiny-16x1")), asked(bound(teacher="tiny-16x1", winners="restrictive"))
    assert asked_for == [5, 1, 5], "five of the policy each time, one of the teacher once"
    assert [s.text for s in alone] == [s.text for s in first] == [s.text for s in second]


def test_win_rates_are_among_all_answers_the_teacher_s_too():
    samples = asked(bound(teacher="column:answer"))
    for group in range(6):
        assert sum(s.reward for s in samples if s.group == group) == pytest.approx(3.0)
    assert all(s.reward >= 0.9 for s in samples[5::6])  # the truth is beaten by none


def test_only_the_policy_s_own_answers_are_reported():
    metrics = bound(teacher="column:answer").step()
    plain = bound().step()
    for name in ("answers/length", "answers/truncated", "reward/gold"):
        assert float(metrics[name]) == float(plain[name])
    assert float(metrics["reward/mean"]) < 0.5


def test_a_teacher_s_answer_is_compared_with_how_likely_it_was_when_the_round_began():
    method = bound(teacher="column:answer")
    samples, batch = learnt(method)
    whole = batch.each(lambda piece: method.language_policy.score(piece).logp, 16_384)
    for sample, part, logp in zip(samples, batch.parts, whole, strict=True):
        torch.testing.assert_close(part.logp, logp.detach(), rtol=1e-4, atol=1e-5)
        assert int(part.source[0]) == sample.source


def test_a_column_that_rows_lack_is_refused():
    with pytest.raises(BadDataset, match="no teacher's answer in gold"):
        bound(teacher="column:gold")


def test_how_far_the_policy_s_own_answers_are_from_the_model_that_training_began_with_is_logged():
    method = bound(teacher="column:answer", lr=1e-2)
    assert float(method.step()["answers/kl_reference"]) == pytest.approx(0.0, abs=1e-4)
    for _ in range(3):
        last = method.step()
    assert float(last["answers/kl_reference"]) > 0.01


# Pairs.


def test_restrictive_pairs_are_won_by_the_teacher():
    method = bound(teacher="column:answer", winners="restrictive")
    samples, batch = learnt(method)
    better, worse = method.paired(batch)
    assert len(better)
    assert all(samples[i].source == 1 and samples[j].source == 0 for i, j in zip(better, worse))


def test_spin_asks_no_judge_and_lets_the_teacher_win():
    method = bound(teacher="column:completion", winners="spin")
    _, batch = learnt(method)
    better, _ = method.paired(batch)
    assert len(better) == 6 * 5 and method.counters.judge_calls == 0


def test_the_contest_of_six_answers_is_fifteen_calls_a_prompt():
    method = bound(teacher="column:answer")
    method.step()
    assert method.counters.judge_calls == 6 * 15


def test_metrics_say_whose_pairs_they_are():
    metrics = bound(teacher="column:answer", margin=0.4, bar=0.6).step()
    kinds = [float(metrics[f"pairs/{name}"]) for name in ("teacher_over_policy", "policy_over_teacher", "among_policy")]
    assert sum(kinds) == float(metrics["pairs/count"]) and kinds[1] == 0


def rivals(*answers):
    """Answers to one prompt, given as ids and whether they were cut off."""
    found = []
    for ids, truncated in answers:
        logp = torch.zeros(len(ids))
        row = TASK.rows("train")[0]
        found.append(Sample(torch.tensor(ids), logp == 0, logp, logp, 0, str(ids), truncated, row))
    return found


def pairs_among(method, samples):
    reward = torch.tensor([s.reward for s in samples])
    return method.paired(method.learnable(samples, reward, torch.zeros(len(samples), dtype=torch.int64)))


def longest(rows, first, second):
    return torch.tensor([(len(a) > len(b)) + (len(a) == len(b)) / 2 for a, b in zip(first, second)])


def test_degenerate_answers_lose_if_they_are_to_whatever_the_judge_says():
    answers = [([1, 2, 3], False), ([7] * 9, False), ([1, 2, 3, 4, 5, 6, 7], True), ([1, 2, 3, 4, 5], False)]
    assert [s.reward for s in bound(group=4).meetings(longest, rivals(*answers))] == pytest.approx([0, 1, 2 / 3, 1 / 3])
    method = bound(group=4, degenerate_lose=True, margin=0.3)
    samples = method.meetings(longest, rivals(*answers))
    assert [s.reward for s in samples] == pytest.approx([0, 0, 0, 1 / 3])
    better, worse = pairs_among(method, samples)
    assert better.tolist() == [3, 3, 3] and sorted(worse.tolist()) == [0, 1, 2]


def test_prompts_whose_answers_are_all_degenerate_teach_nothing():
    answers = [([1], True), ([1, 2], True), ([7] * 9, False)]
    method = bound(group=3, targets="hard")
    assert len(pairs_among(method, method.meetings(longest, rivals(*answers)))[0]) == 3
    method = bound(group=3, targets="hard", degenerate_lose=True)
    assert len(pairs_among(method, method.meetings(longest, rivals(*answers)))[0]) == 0


@pytest.mark.parametrize(
    ("ids", "share"),
    [([], 0.0), ([5, 5, 5], 0.0), ([5] * 4, 0.0), ([5] * 5, 0.5), ([5] * 13, 0.9), ([1, 2, 3, 4, 1, 2, 3, 4], 0.2)],
)
def test_repetition_is_the_share_of_four_tokens_in_a_row_that_occurred_before(ids, share):
    assert repetition(torch.tensor(ids, dtype=torch.int64)) == pytest.approx(share)


CYCLE = torch.tensor([[0.5, 0.8, 0.2], [0.2, 0.5, 0.8], [0.8, 0.2, 0.5]], dtype=torch.float64)
NOW = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)


def where_rounds_lead(group, eta=0.5):
    """The policy that a round of groups of answers regresses towards, in expectation over all groups that there may be."""
    groups = torch.tensor(list(itertools.product(range(3), repeat=group)))
    rates = (CYCLE[groups.unsqueeze(2), groups.unsqueeze(1)].sum(2) - 0.5) / (group - 1)
    answers, rate = groups.flatten(), rates.flatten()
    number = torch.arange(len(groups)).repeat_interleave(group)
    method = DNO(group=group, eta=eta)
    better, worse = pairs_of(rate, number, ties=method.pairs_ties)
    weight, logits = NOW[groups].prod(1)[number[better]], NOW.log().clone().requires_grad_()
    optimiser = torch.optim.LBFGS([logits], max_iter=500, tolerance_change=1e-14, line_search_fn="strong_wolfe")

    def loss():
        optimiser.zero_grad()
        logp = logits.log_softmax(0)
        sides = (
            Answers(logp=logp[answers[i]], prev_logp=NOW.log()[answers[i]], score=rate[i]) for i in (better, worse)
        )
        total = (weight * method.objective(*sides)).sum()
        total.backward()
        return total

    optimiser.step(loss)
    return logits.detach().softmax(0)


@pytest.mark.parametrize(
    ("group", "found"), [(3, (0.235, 0.538, 0.226)), (5, (0.230, 0.533, 0.237)), (7, (0.228, 0.531, 0.241))]
)
def test_soft_targets_lead_nearer_to_the_step_of_soft_policy_iteration_the_more_answers_meet(group, found):
    led = where_rounds_lead(group)
    torch.testing.assert_close(led, torch.tensor(found).double(), atol=6e-4, rtol=0)
    assert bool(((led - mirror_step(CYCLE, NOW, 0.5)).abs() < 0.07 / group).all())


def tied(rows, first, second):
    return torch.full((len(rows),), 0.5)


def test_soft_targets_learn_from_ties_and_hard_ones_do_not():
    answers = [([1], False), ([1, 2], False), ([3, 4], False), ([1, 2, 3], False)]
    for targets, count in (("soft", 6), ("hard", 5)):
        method = bound(group=4, targets=targets)
        assert len(pairs_among(method, method.meetings(longest, rivals(*answers)))[0]) == count


def test_a_tie_with_the_teacher_is_won_by_neither_side():
    method = bound(teacher="column:answer")
    method.task = NoisySort(train_rows=150)
    method.task.pair_judge = lambda: tied
    metrics = method.step()
    assert float(metrics["pairs/count"]) == 6 * 15
    kinds = ("teacher_over_policy", "policy_over_teacher", "among_policy")
    assert [float(metrics[f"pairs/{name}"]) for name in kinds] == [0, 0, 0]


def test_a_round_whose_answers_all_miss_the_bar_changes_nothing():
    method = bound(bar=1.0, margin=1.0, group=5)
    method.task = NoisySort(train_rows=150)
    method.task.pair_judge = lambda: tied
    before = torch.cat([p.detach().flatten() for p in method.language_policy.model.parameters()])
    metrics = method.step()
    after = torch.cat([p.detach().flatten() for p in method.language_policy.model.parameters()])
    assert torch.equal(before, after) and method.counters.updates == 2
    assert float(metrics["pairs/prompts_without"]) == 1.0


def test_hard_targets_are_dpo_against_the_round_before():
    shared = {**TINY, "minibatches": 1, "group": 4}
    hard = DNO(**shared, targets="hard", eta=0.3).bind(TASK, 0, Budget(updates=10))
    dpo = IteratedDPO(**shared, beta=0.3, against="previous", contest="win-rate").bind(TASK, 0, Budget(updates=10))
    for _ in range(2):
        mine, theirs = hard.step(), dpo.step()
        assert torch.equal(mine["loss/preference"], theirs["loss/preference"])
        assert torch.equal(mine["policy/gradient_norm"], theirs["policy/gradient_norm"])


# Earlier rounds.


def test_the_next_round_learns_from_a_share_of_this_one_s_prompts_again():
    method = bound(replay=0.5, lr=1e-2)
    samples, first = learnt(method)
    method.looked_back(first, torch.tensor([s.reward for s in samples]))
    method.round += 1
    again, batch = learnt(method)
    old = batch.parts[len(again) :]
    assert len(old) == 3 * 5 and len({int(p.group[0]) for p in batch.parts}) == 9
    texts = {tuple(p.action.tolist()): float(p.reward[0]) for p in first.parts}
    assert all(texts[tuple(p.action.tolist())] == float(p.reward[0]) for p in old)


def test_what_is_learnt_from_again_is_compared_with_the_policy_of_now():
    method = bound(replay=0.5, lr=1e-2)
    method.step()
    _, batch = learnt(method)
    whole = batch.each(lambda piece: method.language_policy.score(piece).logp, 16_384)
    for part, logp in zip(batch.parts, whole, strict=True):
        torch.testing.assert_close(part.logp, logp.detach(), rtol=1e-4, atol=1e-5)


def test_of_older_rounds_half_as_much_is_learnt_from_every_time():
    past, generator = Replay(0.3), torch.Generator().manual_seed(0)
    groups = groups_of(learnt(bound(prompts=40))[1].parts)
    sizes = []
    for _ in range(4):
        past.turn(groups, generator)
        sizes.append([len(groups_of(answers_in(packed))) for packed in past.rounds])
    assert sizes == [[12], [12, 6], [12, 6, 3], [12, 6, 3, 1]]
    past.turn(groups[:1], generator)
    assert [len(groups_of(answers_in(packed))) for packed in past.rounds] == [6, 3, 1]


def test_what_is_remembered_survives_a_checkpoint():
    past, twin = Replay(0.5), Replay(0.5)
    past.turn(groups_of(learnt(bound(teacher="column:answer"))[1].parts), torch.Generator().manual_seed(0))
    twin.load_state_dict(past.state_dict())
    for mine, theirs in zip(past.groups(), twin.groups(), strict=True):
        assert all(torch.equal(a.action, b.action) and torch.equal(a.source, b.source) for a, b in zip(mine, theirs))


def test_prompts_without_a_pair_are_not_remembered():
    method = bound(replay=0.9, bar=1.0, margin=1.0)
    method.task = NoisySort(train_rows=150)
    method.task.pair_judge = lambda: tied
    method.step()
    assert method.past.groups() == []


# Lookahead.


def test_with_lookahead_the_policy_answers_as_it_is_and_is_compared_with_what_the_first_round_began_with():
    def whole(policy, batch):
        return torch.cat(batch.each(lambda piece: policy.score(piece).logp.detach(), 16_384))

    close = {"rtol": 1e-4, "atol": 1e-5}
    method = bound(lookahead=2, lr=1e-2, teacher="column:completion", replay=0.5)
    begun = Anchor.of(method.language_policy).policy
    method.step()
    samples, second = learnt(method)
    own = [i for i, s in enumerate(samples) if s.source == 0]
    given = torch.cat([samples[i].logp for i in own])
    torch.testing.assert_close(given, whole(method.language_policy, second.take(own)), **close)
    compared = torch.cat([part.logp for part in second.parts])
    torch.testing.assert_close(compared, whole(begun, second), **close)
    assert not torch.allclose(compared, whole(method.language_policy, second), rtol=1e-2)
    method.step()
    _, third = learnt(method)
    compared = torch.cat([part.logp for part in third.parts])
    torch.testing.assert_close(compared, whole(method.language_policy, third), **close)


# Refusals.


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"targets": "medium"}, "targets must be soft or hard"),
        ({"winners": "teacher"}, "winners must be all, restrictive or spin"),
        ({"winners": "spin"}, "spin pairs need a teacher"),
        ({"replay": 1.0}, "replay is a share"),
        ({"lookahead": 0}, "lookahead must be at least 1"),
        ({"margin": 1.5}, "margin is a share of contests"),
        ({"bar": -0.1}, "bar is a share of contests"),
        ({"eta": 0.0}, "eta must be positive"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, said):
    with pytest.raises(BadSetting, match=said):
        DNO(**settings).check()


def test_what_the_method_decides_itself_is_no_setting():
    with pytest.raises(PalaestraError, match="contest"):
        DNO(contest="duels")


def test_prompts_with_clips_are_answered_by_the_policy_of_the_round_alone():
    DNO(lookahead=2).check_task(Clips())
    with pytest.raises(Unsupported, match="earlier rounds are stored without them; leave replay at 0"):
        DNO(replay=0.3).check_task(Clips())
    for teacher in ("column:completion", "tiny-video-16x1"):
        with pytest.raises(Unsupported, match="teacher's answers are learnt from without them; leave teacher out"):
            DNO(teacher=teacher).check_task(Clips())
