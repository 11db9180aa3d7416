"""Answers of several turns: an environment replies between them, in text, and nobody learns its words."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import ClassVar

import pytest
import torch

import palaestra as pal
from palaestra.core.errors import PalaestraError
from palaestra.core.method import Budget
from palaestra.language.policy import LanguagePolicy
from palaestra.language.sample import answers_of
from palaestra.language.task import TextTask, talks
from palaestra.language.tokenisers import word_tokeniser


@dataclass
class Echo(TextTask):
    """Each turn is one digit; it is said back with an exclamation mark, up to three times."""

    max_tokens: ClassVar[int] = 12
    stop: ClassVar[tuple[str, ...]] = tuple("0123456789")

    def rows(self, split):
        return [{"prompt": f"{i}?", "first": str(i)} for i in range(10)]

    def environment(self, row):
        heard = []

        def reply(turn: str) -> str | None:
            heard.append(turn)
            return f"{turn[-1]}!" if len(heard) < 4 and turn[-1:].isdigit() else None

        return reply

    def judge(self):
        return pal.Judge(lambda completions, **_: [float(sum(map(str.isdigit, text))) for text in completions])

    def tokeniser(self):
        return word_tokeniser([*"0123456789?!"])


@pytest.fixture(scope="module")
def policy():
    torch.manual_seed(0)
    return LanguagePolicy.make("tiny-16x1", Echo())


def test_an_environment_is_made_once_for_each_answer(policy):
    task, made = Echo(), []
    policy.answer(
        task.rows("train")[:2],
        copies=3,
        max_tokens=2,
        environment=lambda row: made.append(row) or task.environment(row),
    )
    assert [row["first"] for row in made] == ["0", "1", "0", "0", "1", "1"]


def test_replies_stand_between_the_turns_with_mask_0_and_are_in_the_text(policy):
    task = Echo()
    samples = policy.answer(
        task.rows("train"), copies=6, max_tokens=12, stop=task.stop, environment=task.environment, seed=3
    )
    assert any("!" in s.text for s in samples)
    for s in samples:
        said = [policy.tokeniser.decode([i]) for i in s.completion.tolist()]
        chosen = s.mask[s.prompt :].tolist()
        for i, token in enumerate(said):
            if chosen[i] and token.isdigit() and i + 2 < len(said):
                assert said[i + 1 : i + 3] == [token, "!"]
                assert chosen[i + 1 : i + 3] == [False, False]
        assert s.text == "".join(t for t in said if not t.startswith("<"))
        assert (s.logp[~s.mask] == 0).all()


def conversed(policy, **how):
    """Answers in which something was replied."""
    task = Echo()
    samples = policy.answer(
        task.rows("train"), copies=6, max_tokens=12, stop=task.stop, environment=task.environment, seed=3, **how
    )
    return [s for s in samples if "!" in s.text]


def own(policy, sample):
    """The tokens that the policy chose, its turns on lines of their own."""
    chosen = zip(sample.mask.tolist(), sample.ids.tolist())
    turns = [[i for _, i in part] for mine, part in groupby(chosen, lambda pair: pair[0]) if mine]
    return "\n".join(text for ids in turns if (text := policy.tokeniser.decode(ids, skip_special_tokens=True)))


def test_reward_functions_read_what_the_policy_said_and_nothing_of_what_was_replied(policy):
    """No answer is right because the environment said so."""
    samples, read = conversed(policy), []
    with pal.Judge(lambda completions, **_: read.extend(completions) or [0.0] * len(completions)) as judge:
        judge(samples)
    assert read == [own(policy, s) for s in samples]
    assert any("\n" in text for text in read)


def test_pair_judges_and_levels_read_the_same(policy):
    samples, task = conversed(policy), Echo()
    task.level = lambda text, row: 1 + len(text)
    expected, tiny = [own(policy, s) for s in samples], {"model": "tiny-16x1", "prompts": 4}
    assert answers_of(samples) == expected
    levels = pal.TRPA(**tiny).bind(task, 0, Budget(updates=1)).levels(samples)
    assert levels.tolist() == [1 + len(text) for text in expected]


def test_what_opened_an_answer_is_part_of_its_first_turn(policy):
    opened = [torch.tensor(policy.tokeniser("?1").input_ids)] * 10
    for s in conversed(policy, prefixes=opened):
        assert s.text.startswith("?1") and s.said.startswith("?1") and not s.mask[s.prompt : s.prompt + 2].any()


def test_an_environment_hears_what_opened_an_answer(policy):
    heard: list[list[str]] = []

    def environment(row):
        heard.append(turns := [])
        return lambda turn: turns.append(turn) or "!"

    opened = [torch.tensor(policy.tokeniser("?1").input_ids)] * 4
    rows = Echo().rows("train")[:4]
    samples = policy.answer(rows, max_tokens=12, stop=Echo.stop, environment=environment, seed=3, prefixes=opened)
    assert any(len(turns) > 1 for turns in heard)
    for turns, sample in zip(heard, samples, strict=True):
        said = [message["content"] for message in sample.messages if message["role"] == "assistant"]
        assert turns == said[: len(turns)] and turns[0].startswith("?1")


def test_every_answer_has_an_environment_of_its_own(policy):
    """Four replies are never reached, however many answers there are: the count begins anew."""
    task = Echo()
    samples = policy.answer(
        task.rows("train"), copies=8, max_tokens=40, stop=task.stop, environment=task.environment, seed=1
    )
    replies = [sum(not m for m in s.mask[s.prompt :].tolist()) // 2 for s in samples]
    assert max(replies) == 3


@pytest.mark.parametrize("mute", ["0", "123456789"])
def test_rows_with_an_environment_and_rows_without_are_answered_together_as_apart(policy, mute):
    task = Echo()

    def some(row):
        return None if row["first"] in mute else task.environment(row)

    mixed, talked, alone = (
        policy.answer(task.rows("train"), copies=6, max_tokens=12, stop=task.stop, environment=environment, seed=3)
        for environment in (some, task.environment, None)
    )
    apart = [single if single.row["first"] in mute else turns for single, turns in zip(alone, talked, strict=True)]
    assert [s.text for s in mixed] == [s.text for s in apart]
    assert [s.messages for s in mixed] == [s.messages for s in apart]


def test_grpo_learns_from_turns_and_not_from_replies():
    method = pal.GRPO(model="tiny-16x1", prompts=4, group=4, lr=1e-3).bind(Echo(), 0, Budget(updates=3))
    metrics = method.step()
    assert metrics["reward/mean"] >= 0
    samples = method.answers(method.next_rows(4), "again")
    batch = method.learnable(samples, torch.zeros(len(samples)), torch.tensor([s.group for s in samples]))
    for part, s in zip(batch.parts, samples, strict=True):
        assert torch.equal(part.mask, s.mask)


@dataclass
class Awaited(Echo):
    """The same, by environments that are made later, and reply later."""

    fails: bool = False

    async def environment(self, row):
        reply = super().environment(row)

        async def later(turn):
            if self.fails:
                raise KeyError("door")
            return reply(turn)

        return later


def test_what_an_environment_gives_to_be_awaited_is_awaited(policy):
    how = {"copies": 4, "max_tokens": 12, "stop": Echo.stop, "seed": 3}
    now, later = (policy.answer(t.rows("train"), environment=t.environment, **how) for t in (Echo(), Awaited()))
    assert [s.text for s in later] == [s.text for s in now] and any("!" in s.text for s in now)
    assert all(s.messages for s in later)


def test_an_environment_that_fails_later_is_named(policy):
    task = Awaited(fails=True)
    with pytest.raises(
        PalaestraError, match=r"environment .*later raised KeyError .'door'. in test_turns.py:\d+, when"
    ):
        policy.answer(task.rows("train")[:1], max_tokens=12, stop=task.stop, environment=task.environment)


def test_whether_anybody_replies_is_awaited_too():
    async def nobody(row):
        return None

    assert not talks(None, {}) and not talks(nobody, {}) and not talks(lambda row: None, {})
    assert talks(Awaited().environment, {}) and talks(Echo().environment, {})


@pytest.mark.parametrize("late", [False, True])
def test_an_environment_that_fails_is_named(policy, late):
    task = Echo()

    def broken(row):
        def reply(turn):
            raise KeyError("door")

        if not late:
            reply(None)
        return reply

    task.environment = broken
    with pytest.raises(
        PalaestraError, match=r"environment .*broken.* raised KeyError .'door'. in test_turns.py:\d+, when"
    ):
        policy.answer(task.rows("train")[:1], max_tokens=12, stop=task.stop, environment=task.environment)


def test_a_run_evaluates_conversations():
    run = pal.train(pal.GRPO(model="tiny-16x1", prompts=2, group=2), Echo(), updates=1, out="run", quiet=True)
    assert run.metrics[-1]["evaluation/length"] > 0
