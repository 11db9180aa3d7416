"""Language models as judges of all four kinds: they are asked in words which answer is better, or how good one is.

The model is on a server (`palaestra.language.judges.endpoint`), loaded here (`Local`), or any function from questions to replies.
A reply has its verdict in double square brackets, the last of which counts.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from palaestra.core.errors import require
from palaestra.language.judges.calls import Failed, call_here
from palaestra.language.judges.judge import RewardFailed, shown
from palaestra.language.judges.kinds import AtEnd, BothOrders
from palaestra.language.policy import LanguagePolicy
from palaestra.language.rows import Row, shown_prompt
from palaestra.language.verifiers.verdict import answer_text

Ask = Callable[[Sequence[str]], Sequence["str | Failed"]]
"""Questions -> a reply to each, or how it failed."""
BETTER = "Prefer the answer that is more helpful, more truthful and less harmful. Neither length nor order matters."
GOOD = "A good answer is helpful, truthful and harmless. Its length does not matter."
PAIR = """Here are a prompt and two answers. {criterion}

<prompt>
{prompt}
</prompt>
<answer A>
{first}
</answer A>
<answer B>
{second}
</answer B>

Which is better? End your reply with [[A]], [[B]] or, if neither is, [[tie]]."""
ONE = """Here are a prompt and an answer. {criterion}

<prompt>
{prompt}
</prompt>
<answer>
{answer}
</answer>

How good is it, from {low:g} (worst) to {high:g} (best)? End your reply with the number in double brackets, as in [[{low:g}]]."""
LIST = """Here are a prompt and {count} answers. {criterion}

<prompt>
{prompt}
</prompt>
{answers}

How good is each, from {low:g} (worst) to {high:g} (best)? End your reply with {count} numbers in their order, as in
[[{example}]]."""


class GenerativeJudge:
    """A language model as a judge of each of the four kinds, and as a reward function.

    `scorer`, `pairs`, `lists` and `tokens(decode)` are called as in `palaestra.language.judges.kinds`; `reward` has trl's
    signature. Pairs and lists are judged in both orders, and the verdicts averaged; `pairs.report()` says how much the order
    mattered.

    A question that fails, or whose reply has no verdict, is counted in `failures` by what went wrong. With "stop" it raises
    `RewardFailed`. With "skip" the first failure is a warning, and a neutral value takes the place of the verdict: 1/2 for a pair
    that failed in either order, the middle of the scale for a score or for all of a list, and None as a reward, which leaves the
    answer out.
    """

    def __init__(
        self,
        ask: Ask,
        better: str = BETTER,
        good: str = GOOD,
        scale: tuple[float, float] = (1, 10),
        on_error: Literal["stop", "skip"] = "stop",
    ):
        require(scale[0] < scale[1], f"a scale has a lowest and a highest score, got {scale}")
        require(on_error in ("stop", "skip"), f"on_error must be stop or skip, got {on_error!r}")
        self.ask, self.better, self.good, self.scale, self.on_error = ask, better, good, scale, on_error
        self.asked = 0
        """Questions so far."""
        self.failures: Counter[str] = Counter()
        """How many of them failed, by how: late, error, no verdict."""
        self.unsaid = torch.zeros(0, dtype=torch.bool)
        """Which of the last questions had no verdict."""
        self.pairs = BothOrders(self._in_order)

    def scorer(self, rows: Sequence[Row], answers: Sequence[str]) -> Tensor:
        """How good each answer is, `(n,)`."""
        scores = self._scores(rows, answers)
        self.unsaid = scores.isnan()
        return scores.nan_to_num(sum(self.scale) / 2)

    def lists(self, row: Row, answers: Sequence[str]) -> Tensor:
        """How good each of some answers to one prompt is, seen side by side, `(k,)`."""
        count, (low, high) = len(answers), self.scale
        asked = {
            "criterion": self.good,
            "prompt": shown_prompt(row["prompt"]),
            "count": count,
            "low": low,
            "high": high,
        }
        asked["example"] = ", ".join(f"{low:g}" for _ in answers)
        questions = []
        for order in (answers, answers[::-1]):
            numbered = (f"<answer {i}>\n{text}\n</answer {i}>" for i, text in enumerate(order, 1))
            questions.append(LIST.format(answers="\n".join(numbered), **asked))
        forth, back = self._said(questions, lambda text: self._numbers(text, count))
        if forth is None or back is None:
            return torch.full((count,), (low + high) / 2)
        return (torch.tensor(forth) + torch.tensor(back).flip(0)) / 2

    def tokens(self, decode: Callable[[list[int]], str]) -> AtEnd:
        """A token scorer: the last token of an answer has its score; `decode` turns ids into text."""
        return AtEnd(self.scorer, decode)

    def reward(self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float | None]:
        """How good each answer is, in trl's signature."""
        rows = [{"prompt": prompt} for prompt in prompts]
        scores = self._scores(rows, [answer_text(completion) for completion in completions])
        return [None if score != score else score for score in scores.tolist()]

    def _scores(self, rows: Sequence[Row], answers: Sequence[str]) -> Tensor:
        low, high = self.scale
        questions = [
            ONE.format(criterion=self.good, prompt=shown_prompt(row["prompt"]), answer=text, low=low, high=high)
            for row, text in zip(rows, answers, strict=True)
        ]
        said = self._said(questions, lambda text: self._numbers(text, 1))
        return torch.tensor([torch.nan if numbers is None else numbers[0] for numbers in said])

    def _in_order(self, rows: Sequence[Row], first: Sequence[str], second: Sequence[str]) -> Tensor:
        """The probabilities `(n,)` that the first is better, asked about in this order alone."""
        questions = [
            PAIR.format(criterion=self.better, prompt=shown_prompt(row["prompt"]), first=one, second=other)
            for row, one, other in zip(rows, first, second, strict=True)
        ]
        said = self._said(questions, _winner)
        self.unsaid = torch.tensor([won is None for won in said], dtype=torch.bool)
        return torch.tensor([0.5 if won is None else won for won in said])

    def _said(self, questions: list[str], read: Callable[[str], Any]) -> list[Any]:
        """What `read` finds in the reply to each question, None where one failed."""
        if not questions:
            return []
        self.asked += len(questions)
        replies = call_here(lambda: self._replies(questions))
        if isinstance(replies, Failed):
            replies = [replies] * len(questions)
        found = []
        for question, reply in zip(questions, replies, strict=True):
            verdict = None if isinstance(reply, Failed) else read(reply)
            if verdict is None:
                self._failed(question, reply)
            found.append(verdict)
        return found

    def _replies(self, questions: list[str]) -> list[str | Failed]:
        replies = list(self.ask(questions))
        if len(replies) != len(questions):
            raise ValueError(f"{len(replies)} replies came back")
        wrong = Failed(TypeError("a reply is no text"))
        return [reply if isinstance(reply, str | Failed) else wrong for reply in replies]

    def _failed(self, question: str, reply: str | Failed) -> None:
        if isinstance(reply, Failed):
            kind, what = (
                "late" if reply.late else "error",
                f"failed: {type(reply.error).__name__} {shown(reply.words, 300)}",
            )
        else:
            kind, what = "no verdict", f"replied {shown(reply[-200:])}, which has no verdict"
        message = f"the generative judge {what}. Question: {shown(question)}"
        self.failures[kind] += 1
        if self.on_error == "stop":
            raise RewardFailed(message)
        if self.failures.total() == 1:
            warnings.warn(f"a verdict is missing, as others may be: {message}", stacklevel=2)

    def _numbers(self, reply: str, count: int) -> list[float] | None:
        """The numbers of the last verdict, if there are `count` of them, all on the scale."""
        last = _verdict(reply)
        try:
            numbers = [float(part) for part in (last or "").split(",")]
        except ValueError:
            return None
        return numbers if len(numbers) == count and all(self.scale[0] <= x <= self.scale[1] for x in numbers) else None


def _winner(reply: str) -> float | None:
    return {"a": 1.0, "b": 0.0, "tie": 0.5}.get((_verdict(reply) or "").lower())


def _verdict(reply: str) -> str | None:
    """The text in the last double brackets."""
    found = re.findall(r"\[\[([^\[\]]*)\]\]", reply)
    return found[-1].strip() if found else None


class Local:
    """Asks a language model in this process, by its name or folder, for a greedy reply of at most `max_tokens`."""

    def __init__(self, model: str | LanguagePolicy, max_tokens: int = 256):
        require(max_tokens >= 1, f"max_tokens must be at least 1, got {max_tokens}")
        self.policy = LanguagePolicy.make(model) if isinstance(model, str) else model
        self.max_tokens = max_tokens

    def __call__(self, questions: Sequence[str]) -> list[str | Failed]:
        talks = bool(getattr(self.policy.tokeniser, "chat_template", None))
        rows: list[Row] = [
            {"prompt": [{"role": "user", "content": question}] if talks else question} for question in questions
        ]
        return [s.text for s in self.policy.answer(rows, max_tokens=self.max_tokens, greedy=True)]
