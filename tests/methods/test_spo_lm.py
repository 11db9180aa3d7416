"""SPO for language models: win rates within a group by hand, what they sum to, and who is asked."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from palaestra.core.errors import BadSetting
from palaestra.core.method import Budget
from palaestra.core.world import World
from palaestra.language.tasks.cyclic_style import CyclicStyle
from palaestra.methods.language import rounds
from palaestra.methods.language.rloo import RLOO
from palaestra.methods.preference.spo_lm import SPOLM
from tests.language.judges.samples import answer

TINY = {"model": "tiny-16x1", "prompts": 3, "group": 4}
TASK = CyclicStyle(train_rows=50)


def bound(method=None, task=TASK):
    return (method or SPOLM(**TINY)).bind(task, 0, Budget(updates=100))


METHOD = bound()


def rewards(*texts, group=None):
    """What answers to `fk` are rewarded with, all of one group unless told otherwise."""
    groups = group or [0] * len(texts)
    samples = [answer(t, prompt="fk", group=g, answer="fkkf") for t, g in zip(texts, groups, strict=True)]
    return [s.reward for s in METHOD.judged(samples)]


def test_styles_that_beat_each_other_in_a_circle_are_worth_nothing():
    assert rewards("Afkkf", "Bfkkf", "Cfkkf") == pytest.approx([0, 0, 0])


def test_what_an_answer_is_worth_depends_on_who_else_is_there():
    assert rewards("Afkkf", "Afkkf", "Bfkkf") == pytest.approx([0.3, 0.3, -0.6])
    assert rewards("Afkkf", "Afkkf", "Cfkkf") == pytest.approx([-0.3, -0.3, 0.6])


def test_within_a_style_the_better_content_wins_in_full():
    assert rewards("Afkkf", "Afkka", "Afaaa") == pytest.approx([1, 0, -1])


def test_answers_are_compared_with_those_to_the_same_prompt_alone():
    assert rewards("Afkkf", "Bfkkf", "Cfkkf", "Bfkkf", group=[0, 0, 1, 1]) == pytest.approx([0.6, -0.6, -0.6, 0.6])


@given(st.lists(st.tuples(st.sampled_from("ABC"), st.text("fka", min_size=4, max_size=4)), min_size=2, max_size=9))
def test_a_group_s_rewards_sum_to_zero_and_lie_between_the_limits(answers):
    found = rewards(*(style + letters for style, letters in answers))
    assert sum(found) == pytest.approx(0, abs=1e-5)
    assert all(-1 <= r <= 1 for r in found)


def test_advantages_are_the_rewards_of_which_leave_one_out_is_a_multiple():
    group, given_rewards = torch.zeros(4, dtype=torch.int64), torch.tensor([0.5, 0.3, -0.2, -0.6])
    torch.testing.assert_close(METHOD.advantages(given_rewards, group), given_rewards)
    torch.testing.assert_close(RLOO().advantages(given_rewards, group), given_rewards * 4 / 3)


def test_the_divergence_is_a_term_of_the_loss_so_that_rewards_keep_their_mean_of_0():
    method = bound(SPOLM(**TINY | {"kl_weight": 0.5}))
    with torch.no_grad():
        for p in method.anchor.policy.model.parameters():
            p.mul_(0.5)
    samples, _ = method.sample()
    rewards, group = (torch.tensor([getattr(s, name) for s in samples]) for name in ("reward", "group"))
    batch = method.learnable(samples, rewards, group)
    torch.testing.assert_close(batch.of_answers("advantage"), rewards)
    assert float(method.update(batch)["policy/kl_reference"]) > 0


def test_every_pair_of_a_group_is_asked_about_once_and_counted():
    method = bound()
    method.answers(method.next_rows(3), "round/0")
    assert method.counters.judge_calls == 3 * 6


def test_scores_are_watched_though_they_are_not_learnt_from():
    metrics = bound().step()
    assert 0 <= float(metrics["reward/gold"]) <= 1
    assert float(metrics["reward/mean"]) == pytest.approx(0, abs=1e-6)
    assert "reward/gold" not in bound(RLOO(**TINY)).step()


def test_of_several_processes_one_asks_what_a_round_s_answers_are_worth_to_evaluations(monkeypatch):
    class Second(World):
        """Beside a first one, which has found 0.5 and 0.25."""

        def alone(self, act):
            return torch.tensor([0.5, 0.25])

    method = bound(SPOLM(**TINY))
    samples, _ = method.sample()
    monkeypatch.setattr(rounds, "world", Second, raising=False)
    assert float(method.gold_reward(samples)["reward/gold"]) == 0.375


def test_a_reward_model_compares_by_the_odds_of_its_scores():
    method = bound()
    longer = SimpleNamespace(judge=lambda samples, *how: torch.tensor([float(len(s.text)) for s in samples]))
    method.proxy = SimpleNamespace(policy=longer)
    one, two = method.judged([answer("a"), answer("abc")])
    assert one.reward == pytest.approx(2 / (1 + torch.e**2) - 1) and two.reward == pytest.approx(-one.reward)


def test_one_answer_has_nobody_to_be_compared_with():
    with pytest.raises(BadSetting, match="compared with each other, so group must be at least 2, got 1"):
        SPOLM(group=1).check()
