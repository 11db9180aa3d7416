"""Methods of contests: how far they are from their start, and how they fare against what they were an evaluation ago."""

from __future__ import annotations

import pytest
import torch

from palaestra.core.method import Budget
from palaestra.core.task import Evaluation
from palaestra.language.anchors import Anchor
from palaestra.language.judges.judge import Judge
from palaestra.language.policy import LanguagePolicy
from palaestra.language.reward_policy import RewardPolicy
from palaestra.language.tasks.noisy_sort import NoisySort
from palaestra.methods.preference.dno import DNO
from palaestra.methods.preference.inpo import INPO
from palaestra.methods.preference.iterated_dpo import IteratedDPO
from palaestra.methods.preference.spo_lm import SPOLM
from palaestra.methods.preference.sppo import SPPO
from tests.language.judges.samples import answer

TINY = {"model": "tiny-16x1", "prompts": 8, "group": 2, "minibatches": 1, "lr": 1e-2}
TASK = NoisySort(train_rows=60)
ALONE = [SPPO(**TINY), INPO(**TINY, kl_weight=0.0), IteratedDPO(**TINY, against="previous"), DNO(**TINY), SPOLM(**TINY)]
HELD = [INPO(**TINY), IteratedDPO(**TINY), SPOLM(**TINY, kl_weight=0.1)]


def bound(method, task=TASK):
    return method.bind(task, 0, Budget(updates=100))


# Who judges.


@pytest.mark.parametrize("method", ALONE, ids=lambda method: method.label)
def test_a_process_that_has_none_of_a_round_s_prompts_judges_nothing(method):
    assert bound(method).judged([]) == []


CONTESTS = [
    INPO(**TINY, kl_weight=0.0),
    INPO(**TINY | {"group": 3}, kl_weight=0.0, contest="tournament"),
    DNO(**TINY | {"group": 3}),
    SPOLM(**TINY | {"group": 3}),
]


@pytest.mark.parametrize("method", CONTESTS, ids=lambda method: method.label)
def test_a_reward_model_sees_how_answers_ended_and_reads_each_once(method, monkeypatch):
    task = NoisySort(train_rows=60)
    reward_model = RewardPolicy.make("tiny-16x1", task)
    torch.nn.init.normal_(reward_model.head.weight)
    method, read = bound(method, task), []
    method.proxy = Anchor(reward_model)
    scored = RewardPolicy._scored
    monkeypatch.setattr(RewardPolicy, "_scored", lambda self, ids, *how: read.append(ids) or scored(self, ids, *how))
    samples = method.language_policy.answer(method.next_rows(2), copies=method.group, max_tokens=1, seed=1)
    assert any(s.truncated for s in samples)
    expected = sorted(s.ids.tolist() for s in samples)  # cut off, and so without an end
    method.judged(samples)
    assert sorted(ids.tolist() for part in read for ids in part) == expected


@pytest.mark.parametrize("method", [INPO(**TINY, temperature=0.5), DNO(**TINY, temperature=0.5)], ids=["inpo", "dno"])
def test_what_is_learnt_from_is_at_temperature_1_whoever_gave_the_answers(method):
    method = bound(method)
    samples = method.language_policy.answer(method.next_rows(4), copies=2, sampling=method.sampling, max_tokens=4)
    own = method.learnable(samples, torch.zeros(8), torch.arange(8) // 2)
    method.language_policy.engine = "another"  # that does not say how likely answers are to the policy
    for sample in samples:
        sample.logp = torch.full_like(sample.logp, torch.nan)
    told = method.learnable(samples, torch.zeros(8), torch.arange(8) // 2)
    for mine, theirs in zip(own.parts, told.parts):
        torch.testing.assert_close(theirs.logp, mine.logp)


# Where they began.


@pytest.mark.parametrize("method", [*ALONE, *HELD], ids=lambda method: method.label)
def test_how_far_answers_are_from_the_model_that_training_began_with_is_logged(method):
    method = bound(method)
    assert float(method.step()["answers/kl_reference"]) == pytest.approx(0.0, abs=1e-4)
    for _ in range(4):
        last = method.step()
    assert float(last["answers/kl_reference"]) > 0.01
    assert "answers/kl_start" not in last


@pytest.mark.parametrize("method", HELD, ids=lambda method: method.label)
def test_a_reference_that_is_the_start_is_not_asked_again(method, monkeypatch):
    method, asked = bound(method), []
    score = LanguagePolicy.score
    monkeypatch.setattr(LanguagePolicy, "score", lambda self, *how: asked.append(self) or score(self, *how))
    method.step()
    assert method.origin is None
    assert sum(policy is method.anchor.policy for policy in asked) == 1


def test_the_divergence_from_the_start_is_what_the_round_s_answers_say(monkeypatch):
    method = bound(SPPO(**TINY))
    method.step()
    samples = method.answers(method.next_rows(4), "round/1")
    with torch.no_grad():
        gaps = [
            (method.language_policy.score(part).logp - method.origin.policy.score(part).logp).sum()
            for part in method.learnable(samples, torch.zeros(8), torch.zeros(8, dtype=torch.int64)).parts
        ]
    found = method.from_start(samples)["answers/kl_reference"]
    torch.testing.assert_close(found, torch.stack(gaps).mean(), atol=1e-4, rtol=1e-4)


def test_where_the_reference_is_another_model_both_divergences_are_logged(tmp_path):
    torch.manual_seed(5)
    other = str(LanguagePolicy.make("tiny-16x1", TASK).save(tmp_path / "other"))
    metrics = bound(INPO(**TINY, reference=other)).step()
    assert float(metrics["answers/kl_start"]) == pytest.approx(0.0, abs=1e-4)
    assert float(metrics["answers/kl_reference"]) != pytest.approx(0.0, abs=1e-3)


def test_the_start_is_in_checkpoints():
    method, resumed = (bound(SPPO(**TINY)) for _ in range(2))
    with torch.no_grad():
        next(method.origin.policy.model.parameters()).add_(1.0)  # not what `setup` makes
    state = method.state_dict()
    resumed.load_state_dict(state)
    assert float(resumed.step()["answers/kl_reference"]) > 0.01


# What they were an evaluation ago.


class Told(NoisySort):
    """Whose longer answers are better to evaluations, and whose shorter ones to learn from."""

    def gold_pair_judge(self):
        return lambda rows, first, second: torch.tensor([_longer(a, b) for a, b in zip(first, second)])

    def pair_judge(self):
        return lambda rows, first, second: torch.tensor([_longer(b, a) for a, b in zip(first, second)])


def _longer(first, second):
    return 0.5 * (1 + (len(first) > len(second)) - (len(first) < len(second)))


def evaluation(seed, *texts):
    return Evaluation([0.0], [1], answers=[answer(text) for text in texts], seed=seed)


def saying(method, monkeypatch, *texts):
    """Let the policy answer with some texts; what it is asked, which is filled later."""
    asked = []

    def say(rows, **how):
        asked.append((rows, how))
        return [answer(text) for text in texts]

    monkeypatch.setattr(method.language_policy, "answer", say)
    return asked


@pytest.mark.parametrize("cls", [SPPO, SPOLM])
def test_an_evaluation_lets_the_policy_play_against_what_it_was_at_the_one_before(cls, monkeypatch):
    task = Told(train_rows=60)
    method = bound(cls(**TINY), task)
    asked = saying(method, monkeypatch, "11", "1", "11", "")
    first = method.looked_at(evaluation(3, "1", "1", "11", "1"))
    assert "win_rate_previous" not in first.measures and not asked
    second = method.looked_at(evaluation(8, "111", "111", "111", "111"))
    assert second.measures["win_rate_previous"] == pytest.approx((1 + 0.5 + 0.5 + 0) / 4)
    ((rows, how),) = asked
    assert rows == task.asked(4, 3) != task.asked(4, 8), "the prompts are those of the evaluation before"
    assert how["seed"] == 8, "or two equal policies would say the same"
    assert not how["greedy"]
    third = method.looked_at(evaluation(9, "1", "1", "1", "1"))
    assert third.measures["win_rate_previous"] == 0.0  # against four answers of three letters


def test_a_policy_that_has_not_changed_wins_half_the_time():
    method = bound(SPPO(**TINY))
    for seed in (1, 2):
        found = method.looked_at(method.task.evaluate(method.policy(), 200, seed))
    assert found.measures["win_rate_previous"] == pytest.approx(0.5, abs=0.1)


def test_answers_of_the_last_evaluation_survive_a_checkpoint():
    whole, resumed = bound(SPPO(**TINY)), bound(SPPO(**TINY))
    whole.looked_at(whole.task.evaluate(whole.policy(), 20, 1))
    resumed.load_state_dict(whole.state_dict())
    both = [method.looked_at(method.task.evaluate(method.policy(), 20, 2)) for method in (whole, resumed)]
    assert both[0].measures == both[1].measures and "win_rate_previous" in both[0].measures
    assert whole.counters == resumed.counters


def test_reward_functions_see_both_sides_of_a_contest_as_in_any_evaluation():
    """Their ids, and which were cut off, also of the answers of an evaluation before a checkpoint."""
    seen = []

    def gold(self):
        def told(completions, completion_ids, truncated, **columns):
            seen.append(sorted(zip(completions, map(tuple, completion_ids), truncated)))
            return [float(len(ids)) for ids in completion_ids]

        return Judge(told)

    task = type("Seen", (NoisySort,), {"gold": gold})(train_rows=60)
    method, resumed = (bound(SPPO(**TINY, max_tokens=3), task) for _ in range(2))
    evaluations = [task.within(3).evaluate(method.policy(), 8, seed) for seed in (1, 2)]
    method.looked_at(evaluations[0])
    resumed.load_state_dict(method.state_dict())
    seen.clear()
    resumed.looked_at(evaluations[1])
    (asked,) = seen
    before = [(s.said, tuple(s.completion.tolist()), s.truncated) for s in evaluations[0].answers]
    assert len(asked) == 2 * len(before) and set(before) <= set(asked)
    assert any(cut for *_, cut in asked) and all(ids for _, ids, _ in asked)


def test_reward_functions_see_the_ids_of_answers_that_are_compared():
    seen = []
    task = NoisySort(train_rows=60)
    task.judge = lambda: Judge(lambda completion_ids, **_: seen.extend(completion_ids) or [0.0] * len(completion_ids))
    method = bound(SPOLM(**TINY), task)
    samples = method.language_policy.answer(method.next_rows(2), copies=2, max_tokens=3, seed=1)
    method.judged(samples)
    assert {tuple(ids) for ids in seen} == {tuple(s.completion.tolist()) for s in samples}


def test_a_contest_that_fails_is_held_again(monkeypatch):
    method = bound(SPPO(**TINY), Told(train_rows=60))
    method.looked_at(evaluation(3, "1"))
    before = method.said_before, method.seed_before
    saying(method, monkeypatch, "1", "1")  # which are too many
    with pytest.raises(Exception, match="were asked for"):
        method.looked_at(evaluation(8, "11"))
    assert (method.said_before, method.seed_before) == before


def test_no_judge_call_is_counted_for_it():
    method = bound(SPPO(**TINY))
    for seed in (1, 2):
        method.looked_at(method.task.evaluate(method.policy(), 20, seed))
    assert method.counters.judge_calls == 0
    assert method.counters.evaluation_steps > 0  # the tokens of the answers that it took
