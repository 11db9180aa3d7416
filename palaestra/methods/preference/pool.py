"""Judged answers as tokens, with what a reference says of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from palaestra.core.experience import Experience
from palaestra.language.preferences import logps_of, ranked_of
from palaestra.language.records import record
from palaestra.language.sample import Sample
from palaestra.language.task import Row
from palaestra.methods.language.batch import Batch

if TYPE_CHECKING:
    from palaestra.methods.preference.alignment import Alignment

CHUNK = 64
"""Prompts that are made ready together."""


class Pool:
    """The prompts that a method learns from, in an order of its own for every pass, with judged answers in tokens.

    Chunks of the first pass's order are made when they are first needed, and kept: encoded or drawn, judged, and scored by the
    reference, all at once. So what is known of an answer is the same whenever it is asked for, to the last bit, and nothing of
    it has to be saved; no answer is scored by the reference twice.
    """

    def __init__(self, method: Alignment):
        self.method, self.rows = method, method.task.rows("train")
        self.asked, self.judged = 0, 0
        self.epoch, self.first = 0, self._order(0)
        self.order = self.first
        self.chunks: dict[int, list[list[Experience]]] = {}

    def take(self, count: int) -> Batch:
        """The answers to the next prompts, each prompt once before any again."""
        return Batch(numbered([self.answers(self.next()) for _ in range(count)]))

    def next(self) -> int:
        """The place, in the first pass's order, of the next prompt."""
        epoch, place = divmod(self.asked, len(self.rows))
        self.asked += 1
        if epoch == 0:
            return place
        if epoch != self.epoch:
            self.epoch, self.order = epoch, self._order(epoch)
        return int(self.order[place])

    def answers(self, place: int) -> list[Experience]:
        """The answers to one prompt as packed steps, with `reward` their score and `ref_logp`."""
        chunk, inside = divmod(place, CHUNK)
        if chunk not in self.chunks:
            self.chunks[chunk] = self._made(chunk)
        return self.chunks[chunk][inside]

    def _made(self, chunk: int) -> list[list[Experience]]:
        rows = [self.rows[int(i)] for i in self.first[chunk * CHUNK : (chunk + 1) * CHUNK]]
        method = self.method
        samples = self._drawn(rows, chunk) if method.drawn else self._given(rows)
        if method.beside:
            samples = sorted([*self._given(rows), *samples], key=lambda sample: sample.group)  # rows' own ones first
        if method.drawn or method.rescored:
            counted, noted = method.counters.state_dict(), method.notes.state_dict()
            samples = method.judged(samples)
            if chunk < self.judged:
                method.counters.load_state_dict(counted)
                method.notes.load_state_dict(noted)
            else:
                record(samples, method.language_policy)
        found: list[list[Experience]] = [[] for _ in rows]
        for sample in samples:
            found[sample.group].append(_part(sample, method.recorded))
        flat = numbered(found)
        if method.anchor is not None and method.asks_ahead and not method.reference_rate:
            logp = method.anchor.logp(flat, 1.0, method.micro_tokens)
            flat = [part.replace(ref_logp=x) for part, x in zip(flat, logp, strict=True)]
        scored = iter(flat)
        return [[next(scored) for _ in group] for group in found]

    def _given(self, rows: list[Row]) -> list[Sample]:
        """The answers that rows bring, with their scores."""
        policy, samples = self.method.language_policy, []
        for i, row in enumerate(rows):
            ranked, prompt = ranked_of(row), policy.prompt_ids(row["prompt"])
            recorded = logps_of(row) if self.method.recorded else [torch.nan] * len(ranked.answers)
            scores = self.method.scores_in(row, ranked)
            told = zip(ranked.answers, scores, ranked.truncated, recorded, strict=True)
            for answer, score, cut, total in told:
                if total is None:
                    continue
                # What was cut off has no end to learn.
                ids, mask = policy.with_answer(prompt, answer, cut)
                logp = torch.zeros(len(ids)).index_fill(0, torch.tensor([len(ids) - 1]), total)
                samples.append(Sample(ids, mask, logp, logp, len(prompt), answer, cut, row, i, reward=score))
        return samples

    def _drawn(self, rows: list[Row], chunk: int) -> list[Sample]:
        """Answers that the reference gives."""
        method, task = self.method, self.method.task
        assert method.anchor is not None
        return method.anchor.answer(
            rows,
            copies=method.drawn,
            max_tokens=task.max_tokens,
            stop=task.stop,
            environment=task.environment,
            seed=method.streams.integer("drawn", chunk),
        )

    def _order(self, epoch: int) -> torch.Tensor:
        return torch.randperm(len(self.rows), generator=self.method.streams.generator("prompts", epoch))

    def state_dict(self) -> dict[str, Any]:
        return {"asked": self.asked}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.asked = state["asked"]
        # Chunks of which the calls of their judge are counted, in the run that is resumed.
        self.judged = -(-min(self.asked, len(self.rows)) // CHUNK)


def numbered(groups: Sequence[Sequence[Experience]]) -> list[Experience]:
    """The answers of some prompts one after the other, with numbers that tell answers, and prompts, apart."""
    parts = [(group, part) for group, members in enumerate(groups) for part in members]
    return [
        part.replace(segment=torch.full((len(part),), i), group=torch.full((len(part),), group))
        for i, (group, part) in enumerate(parts)
    ]


def _part(sample: Sample, recorded: bool) -> Experience:
    """An answer as steps; with what is `recorded` of it, that is the reference."""
    part = Experience(action=sample.ids, mask=sample.mask, reward=torch.full((len(sample),), sample.reward))
    return part.replace(ref_logp=sample.logp) if recorded else part
