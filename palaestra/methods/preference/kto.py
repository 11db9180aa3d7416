"""Kahneman-Tversky optimisation (Ethayarajh et al., arXiv 2402.01306)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from palaestra.core.errors import BadSetting, require
from palaestra.core.experience import Experience
from palaestra.core.hints import PositiveFloat
from palaestra.core.method import Metrics, Paper
from palaestra.core.task import Task
from palaestra.language.generation.decoder import positions
from palaestra.language.judges.judge import shown
from palaestra.language.preferences import Ranked, called_good, ranked_of
from palaestra.language.rows import Row, shown_prompt
from palaestra.methods.language.batch import Batch
from palaestra.methods.preference.direct_alignment import DirectAlignment
from palaestra.methods.preference.pool import numbered
from palaestra.objectives.answers import Answers
from palaestra.objectives.direct import kto, reference_point


@dataclass
class KTO(DirectAlignment):
    """Sigmoid losses of single answers that are good or bad: their log-ratio against a reference point, an estimate of the
    divergence from the reference; no pairs."""

    paper: ClassVar[Paper] = Paper("KTO: Model Alignment as Prospect Theoretic Optimization", 2024, "2402.01306")
    summary: ClassVar[str] = "gains of good answers and losses of bad ones, without pairs"
    criterion = kto

    beta: PositiveFloat = 0.1
    """Weight of the divergence from the reference."""
    good_from: float = 0.5
    """The score from which on an answer is good; those of a pair, or with a label, are what their row calls them."""
    good_weight: PositiveFloat = 1.0
    """Weight of good answers."""
    bad_weight: PositiveFloat = 1.0
    """Weight of bad answers."""

    def check(self) -> None:
        super().check()
        require(
            self.prompts >= 2,
            f"what answers gain is measured at other prompts, so prompts must be at least 2, got {self.prompts}",
        )

    def check_task(self, task: Task) -> None:
        super().check_task(task)
        rows = task.rows("train")  # type: ignore[attr-defined]
        prompt = rows[0]["prompt"]
        require(
            any(row["prompt"] != prompt for row in rows),
            f"what answers gain is measured at other prompts, and all rows of {task.name} ask the same: "
            f"{shown(shown_prompt(prompt), 40)}; give it rows with other prompts",
        )
        if self.judges_anew:
            return
        sides, scored = set[float](), set[float]()
        for row in rows:
            ranked = ranked_of(row)
            sides.update(self.scores_in(row, ranked))
            scored.update(ranked.scores if called_good(row) is None else ())
        if scored and len(sides) == 1:
            least, most = min(scored), max(scored)
            fits = f"give one above {least:g} and at most {most:g}" if least < most else "no bar tells them apart"
            what = "good" if least >= self.good_from else "bad"
            raise BadSetting(
                f"all answers of {task.name} are {what} from good_from {self.good_from:g} on: they score {least:g} to {most:g}; "
                f"{fits}"
            )

    def setup(self, task: Task) -> None:
        super().setup(task)
        self.point = torch.zeros(())

    def learn(self, batch: Batch) -> Metrics:
        self.point = self.average_gain(batch)
        return {**super().learn(batch), "preference/point": self.point}

    @torch.no_grad()
    def average_gain(self, batch: Batch) -> Tensor:
        """The mean log-ratio of prompts with the answers to another prompt of the minibatch, or 0 if that is negative; what it
        was before where all answers are to one prompt. Rows that ask the same have one prompt."""
        assert self.anchor is not None
        asked = [tuple(_prompt_of(part).tolist()) for part in batch.parts]
        first = dict(zip(reversed(asked), reversed(batch.parts), strict=True))
        if len(first) < 2:
            return self.point
        before = dict(zip(first, [*list(first)[1:], next(iter(first))], strict=True))
        allowed = positions(self.language_policy.model)
        shifted = numbered(
            [[_with_prompt_of(first[before[own]], part, allowed)] for own, part in zip(asked, batch.parts, strict=True)]
        )
        under = (self.likely(policy, Batch(shifted)) for policy in (self.language_policy, self.anchor.policy))
        own, theirs = (torch.stack([x.sum() for x in logp]) for logp in under)
        return reference_point(own, theirs)[0]

    def scores_in(self, row: Row, ranked: Ranked) -> list[float]:
        """1 for good answers and 0 for bad ones."""
        good = called_good(row) or [score >= self.good_from for score in ranked.scores]
        return [float(one) for one in good]

    def objective(self, *sides: Answers) -> Tensor:
        (answers,) = sides
        good = answers.score >= (self.good_from if self.judges_anew else 0.5)
        seen = answers.replace(desirable=good, kl=self.point.expand_as(answers.logp))
        return kto(seen, beta=self.beta, desirable_weight=self.good_weight, undesirable_weight=self.bad_weight)


def _prompt_of(part: Experience) -> Tensor:
    """The ids of a sequence before its answer, `(n,)`."""
    return part.action[: int(part.mask.long().argmax())]


def _with_prompt_of(asked: Experience, said: Experience, allowed: int | None) -> Experience:
    """A sequence of one's prompt and the other's answer, of which as much as fits into the `allowed` tokens."""
    prompt, answer = _prompt_of(asked), said.action[len(_prompt_of(said)) :]
    answer = answer if allowed is None else answer[: allowed - len(prompt)]
    return Experience(
        action=torch.cat([prompt, answer]),
        mask=torch.cat([torch.zeros(len(prompt)).bool(), torch.ones(len(answer)).bool()]),
    )
