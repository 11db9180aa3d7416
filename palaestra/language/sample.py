"""A completion as tokens: what was asked, what was answered, and how likely each chosen token was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from palaestra.language.verifiers.verdict import answer_text

REPETITIVE = 0.5
"""The share of repeated 4-grams above which an answer repeats itself."""


@dataclass
class Sample:
    """One sequence, prompt and all, token in and token out: never made again from its text.

    With several turns, what the environment said stands among the ids with mask 0.
    """

    ids: Tensor  # (L,) int64
    mask: Tensor  # (L,) bool, 1 where the policy chose the token
    logp: Tensor  # (L,) log-probability of each chosen token at temperature 1, 0 elsewhere
    sampled_logp: Tensor  # (L,) the same under the distribution that was sampled from: tempered and cut
    prompt: int  # how many ids the prompt has
    text: str  # what was answered, without a stop text; of several turns all that was said
    truncated: bool  # cut by the limit on tokens: it neither ended by itself nor at a stop text
    row: Mapping[str, Any] = field(default_factory=dict)  # what was asked, with the columns that the judge needs
    group: int = 0  # which group of answers to one prompt it belongs to
    rewards: dict[str, float] = field(default_factory=dict)  # by the name of the reward function
    reward: float = 0.0  # their weighted sum
    messages: Sequence[Mapping[str, Any]] = ()  # the turns of a conversation, and replies to them; none of one turn
    source: int = 0  # who gave it: 0 for the policy that learns, 1 for a teacher
    clip: Any = None  # what was shown beside the text (`vision.Clip`)

    @property
    def completion(self) -> Tensor:
        """The ids after the prompt, `(L - prompt,)`."""
        return self.ids[self.prompt :]

    @property
    def said(self) -> str:
        """What the policy said, which judges read: the text, or of several turns its own on lines of their own. What an
        environment or a tool wrote is nobody's answer."""
        return answer_text(self.messages) if self.messages else self.text

    @property
    def degenerate(self) -> bool:
        """Whether it was cut off, or repeats itself."""
        return self.truncated or repetition(self.ids[self.mask]) > REPETITIVE

    def __len__(self) -> int:
        return len(self.ids)


class Answer(str):
    """What an answer says, as a text that knows the answer itself: for judges that go by more than texts."""

    sample: Sample


def answers_of(samples: Sequence[Sample]) -> list[Answer]:
    """Answers as judges of texts are given them: what the policy said."""
    texts = [Answer(sample.said) for sample in samples]
    for text, sample in zip(texts, samples, strict=True):
        text.sample = sample
    return texts


def distinct(texts: Sequence[Tensor], n: int) -> float:
    """The share of different n-grams among all within some texts in ids, `(L,)` each: distinct-n (Li et al. 2016, 1510.03055)."""
    grams = [ids.unfold(0, n, 1) for ids in texts if len(ids) >= n]
    return len(torch.cat(grams).unique(dim=0)) / sum(map(len, grams)) if grams else 0.0


def repetition(ids: Tensor, n: int = 4) -> float:
    """The share of n-grams that occurred before among ids `(L,)`: rep-n of Welleck et al. 2019 (arXiv 1908.04319)."""
    if len(ids) < n:
        return 0.0
    grams = ids.unfold(0, n, 1)
    return 1 - len(grams.unique(dim=0)) / len(grams)
