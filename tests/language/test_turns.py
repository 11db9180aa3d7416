"""Answers of several turns: an environment replies between them, in text, and nobody learns its words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

import palaestra as pal
from palaestra.core.errors import PalaestraError
from palaestra.core.method import Budget
from palaestra.language.policy import LanguagePolicy
from palaestra.language.task import TextTask
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
        return pal.Judge(lambda completions, **_: [float(text.count("!")) for text in completions])

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


def test_every_answer_has_an_environment_of_its_own(policy):
    """Four replies are never reached, however many answers there are: the count begins anew."""
    task = Echo()
    samples = policy.answer(
        task.rows("train"), copies=8, max_tokens=40, stop=task.stop, environment=task.environment, seed=1
    )
    replies = [sum(not m for m in s.mask[s.prompt :].tolist()) // 2 for s in samples]
    assert max(replies) == 3


def test_grpo_learns_from_turns_and_not_from_replies():
    method = pal.GRPO(model="tiny-16x1", prompts=4, group=4, lr=1e-3).bind(Echo(), 0, Budget(updates=3))
    metrics = method.step()
    assert metrics["reward/mean"] >= 0
    samples = method.answers(method.next_rows(4), "again")
    batch = method.learnable(samples, torch.zeros(len(samples)), torch.tensor([s.group for s in samples]))
    for part, s in zip(batch.parts, samples, strict=True):
        assert torch.equal(part.mask, s.mask)


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
