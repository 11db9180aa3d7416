"""Base of A-LoL and its baselines: offline learning from scored answers, which are drawn by their rewards or advantages."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import compress
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from palaestra.core.errors import require
from palaestra.core.hints import PositiveInt
from palaestra.core.method import Metrics, Paper
from palaestra.core.task import Task
from palaestra.core.world import world
from palaestra.language.layout import Layout
from palaestra.language.packing import hidden_states
from palaestra.language.policy import LanguagePolicy
from palaestra.language.preferences import HAIR, Ranked, is_pair, ranked_of
from palaestra.language.rows import Row
from palaestra.methods.language.batch import Batch
from palaestra.methods.preference.direct_alignment import DirectAlignment
from palaestra.methods.preference.pool import numbered
from palaestra.nets.adam import Adam
from palaestra.nets.gradient import Outputs
from palaestra.objectives.answers import Answers
from palaestra.objectives.offline_text import Sampling, is_clipped, sampling_probabilities

PAPER = Paper("Leftover Lunch: Advantage-based Offline Reinforcement Learning for Language Models", 2023, "2305.14718")

Expected = Literal["head", "mean"]
"""Estimate of the reference's value: by a head on its states of the prompt, or the mean score of its answers."""
Sides = Literal["chosen", "all"]
"""Which answers of rows that have a chosen and a rejected one are learnt from."""
PASSES, RATE = 10, 1e-3
"""Epochs and learning rate of fitting the value head to the scores of the reference's answers."""


@dataclass
class WeightedAnswers(DirectAlignment):
    """Answers drawn by worth, a score or an advantage; a subclass defines `criterion`, and if that has settings `objective`."""

    advantages: ClassVar[bool] = False
    """Whether an answer's worth is its advantage, its score less the reference's value of the prompt; else its score."""

    draw: Sampling = "worth"
    """How answers are drawn: in proportion to their worth, uniformly among those worth more than 0 (positive), or uniformly."""
    sides: Sides = "chosen"
    """What is learnt from of rows with a chosen and a rejected answer: the chosen one alone, or both (all)."""

    def check_task(self, task: Task) -> None:
        super().check_task(task)
        if not (self.advantages or self.judges_anew):
            rows = task.rows("train")  # type: ignore[attr-defined]
            brought = ((row, ranked_of(row)) for row in rows)
            self.check_scores(min(min(compress(ranked.scores, self.learnt_of(row, ranked))) for row, ranked in brought))

    def learnt_of(self, row: Row, ranked: Ranked) -> list[bool]:
        return [True, False] if self.sides == "chosen" and is_pair(row) else super().learnt_of(row, ranked)

    def check_scores(self, least: float) -> None:
        """Refuse negative scores where they are what answers are weighed by."""
        # Where both scores of a pair are 0, the rejected one's is a hair lower.
        require(
            self.advantages or least >= -HAIR,
            f"{self.name} weighs answers by their scores, which must not be negative, and the least is {least:g}; have scores of "
            "at least 0, or take a-lol, which weighs them by what they are above what is expected",
        )

    def setup(self, task: Task) -> None:
        super().setup(task)
        self.places: Tensor | None = None
        """The place of each answer's prompt, and the answer's number there, `(n, 2)`; None before the first step."""
        self.worth: Tensor | None = None
        """The score of each, or its advantage, `(n,)`."""

    def appraised(self) -> tuple[Tensor, Tensor]:
        """All answers that there are, by place and number, and what they are worth, found in the first step."""
        if self.places is None or self.worth is None:
            found = [self.pool.answers(place) for place in range(len(self.pool.rows))]
            self.places = torch.tensor([(place, i) for place, parts in enumerate(found) for i in range(len(parts))])
            score = torch.stack([part.reward[0] for parts in found for part in parts])
            self.check_scores(float(score.min()))
            self.worth = score - self.expected(score, self.places[:, 0]) if self.advantages else score
        return self.places, self.worth

    def expected(self, score: Tensor, places: Tensor) -> Tensor:
        """The reference's value of the prompt of each answer, `(n,)`, given scores and the places of prompts, `(n,)` each."""
        raise NotImplementedError

    def step(self) -> Metrics:
        places, worth = self.appraised()
        chance = sampling_probabilities(worth, self.draw)
        generator = self.streams.generator("answers", self.counters.updates)
        drawn = torch.multinomial(chance, self.prompts, replacement=True, generator=generator)
        groups = []
        for (place, which), own in zip(places[drawn].tolist(), worth[drawn], strict=True):
            part = self.pool.answers(place)[which]
            groups.append([part.replace(advantage=own.expand(len(part)))])
        metrics = self.learn(Batch(numbered(groups)))
        return {**metrics, "data/positive": (worth > 0).float().mean()}


@dataclass
class ImportanceWeighted(WeightedAnswers):
    """Methods that weigh likelihoods by a clipped importance ratio, policy over reference."""

    clip: float | None = 0.9
    """The ratio is clipped to [1 - clip, 1 + clip]; None clips nothing."""

    def check(self) -> None:
        super().check()
        require(self.clip is None or 0 <= self.clip < 1, f"clip must be at least 0 and below 1, got {self.clip}")

    def watched(self, answers: Answers) -> Outputs:
        return {"policy/clipped": self.share_clipped(answers).sum()}

    def share_clipped(self, answers: Answers) -> Tensor:
        """The share of each answer's ratios that is clipped, `(n,)`: of the one that it has, or of its tokens'."""
        return is_clipped(answers.logp, answers.ref_logp, self.clip)


@dataclass
class Leftover(WeightedAnswers):
    """Methods that weigh answers by their advantage over the reference's value of the prompt."""

    advantages: ClassVar[bool] = True

    value: Expected = "head"
    """Estimate of the reference's value: by a head on its states of the prompt, or the mean score of its answers."""
    value_prompts: PositiveInt = 256
    """Prompts that the reference answers once for that estimate."""

    def check_task(self, task: Task) -> None:
        super().check_task(task)
        if not self.reward_model:
            with task.judge():  # type: ignore[attr-defined]
                pass  # refuses a task that scores nothing, before the reference is asked

    @property
    def compares(self) -> bool:
        return True

    def expected(self, score: Tensor, places: Tensor) -> Tensor:
        assert self.anchor is not None
        policy, answer = self.anchor.policy, self.anchor.answer
        prompts = [self.pool.rows[int(i)] for i in self.pool.first]
        asked = prompts[: self.value_prompts]
        samples = self.judged_together(
            len(asked),
            lambda mine: answer(
                asked[mine],
                first=mine.start,
                max_tokens=self.task.max_tokens,
                stop=self.task.stop,
                environment=self.task.environment,
                seed=self.streams.integer("value"),
            ),
        )
        require(bool(samples), "none of the reference's answers could be scored, so that nothing says what to expect")
        reward = torch.tensor([s.reward for s in samples])
        if self.value == "mean":
            return reward.mean().expand_as(score)
        seen = torch.cat([score, reward])

        def fitted() -> Tensor:
            """The value of each prompt, by a head that is fitted to the rewards, `(P,)`."""
            with torch.random.fork_rng(devices=[]):  # networks initialise from torch's global generator
                torch.manual_seed(self.streams.integer("head"))
                width = policy.model.config.get_text_config().hidden_size
                head = PromptValue(width, float(seen.min()), float(seen.max()))
                head.fit(states_of(policy, [dict(s.row) for s in samples]), reward)
            with torch.no_grad():
                return torch.cat([head(*states_of(policy, prompts[i : i + 256])) for i in range(0, len(prompts), 256)])

        return world().alone(fitted)[places]


class PromptValue(nn.Module):
    """The value of a prompt: one learnt query attends over its states; a sigmoid scales the output from `least` to `largest`.

    Source: Baheti et al. 2023, whose rewards have a least of 0, and whose released code has eight heads.
    """

    def __init__(self, width: int, least: float, largest: float):
        super().__init__()
        self.query = nn.Parameter(torch.randn(1, 1, width) / width**0.5)
        self.attention = nn.MultiheadAttention(width, math.gcd(8, width), batch_first=True)
        self.out = nn.Linear(width, 1)
        self.least, self.largest = least, largest

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """Values `(n,)` of prompts whose states are `(n, L, d)`; `mask` `(n, L)` is 1 where there is a token."""
        query = self.query.expand(len(states), -1, -1)
        read, _ = self.attention(query, states, states, key_padding_mask=~mask, need_weights=False)
        share = torch.sigmoid(self.out(read[:, 0]).squeeze(-1))
        return self.least + (self.largest - self.least) * share

    def fit(self, prompts: tuple[Tensor, Tensor], reward: Tensor) -> None:
        """Fit values of prompts, given as states, to rewards `(n,)`; the parameters of the epoch with the least error stay."""
        optimiser = Adam(self.parameters(), RATE)
        best, kept = math.inf, self.state_dict()
        for _ in range(PASSES):
            for index in torch.randperm(len(reward)).split(32):
                optimiser.descend(lambda i: ((self(*(x[i] for x in prompts)) - reward[i]).square().mean(), {}), index)
            with torch.no_grad():
                error = float((self(*prompts) - reward).square().mean())
            if error < best:
                best, kept = error, {name: x.clone() for name, x in self.state_dict().items()}
        self.load_state_dict(kept)


@torch.no_grad()
def states_of(policy: LanguagePolicy, rows: list[Row]) -> tuple[Tensor, Tensor]:
    """The last hidden states of prompts' tokens, padded, `(n, L, d)`, and where there is one, `(n, L)` bool."""
    ids = [policy.prompt_ids(row["prompt"], row.get("tools")) for row in rows]
    lengths = torch.tensor([len(x) for x in ids])
    device = policy.model.device
    found = hidden_states(policy.model, torch.cat(ids).to(device), Layout.of(lengths.to(device)))
    states = found.cpu().split(lengths.tolist())
    return pad_sequence(list(states), batch_first=True), torch.arange(int(lengths.max())) < lengths.unsqueeze(1)
