"""The judged answers that direct alignment learns from, as tokens, with their log-probabilities under the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from palaestra.core.experience import Experience
from palaestra.core.files import Frozen
from palaestra.language.kept import joined
from palaestra.language.preferences import logps_of, ranked_of
from palaestra.language.records import record
from palaestra.language.rows import Row
from palaestra.language.sample import Sample
from palaestra.methods.language.batch import Batch

if TYPE_CHECKING:
    from palaestra.methods.preference.direct_alignment import DirectAlignment

CHUNK = 64
"""Prompts that are made ready together."""


class Pool:
    """The prompts that a method learns from, in an order of its own for every pass, with judged answers in tokens.

    Chunks of the first pass's order are made when they are first needed, one after the other: encoded or drawn, judged, and
    scored by the reference, all at once. From then on they are part of the run's state, each a file that checkpoints write once.
    So neither judge nor reference is asked twice about an answer, nor in a run that is resumed.
    """

    def __init__(self, method: DirectAlignment):
        self.method, self.rows = method, method.task.rows("train")
        self.asked = 0
        self.epoch, self.first = 0, self._order(0)
        self.order = self.first
        self.made: list[Frozen] = []
        self.chunks: list[list[list[Experience]]] = []

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
        while len(self.made) <= chunk:
            self._keep(self._make(len(self.made)))
        return self.chunks[chunk][inside]

    def _make(self, chunk: int) -> dict[str, Tensor]:
        """The answers of a chunk end to end, `(N,)`, with the length, the prompt's number and the score of each, `(n,)`."""
        method = self.method
        samples = self._judged([self.rows[int(i)] for i in self.first[chunk * CHUNK : (chunk + 1) * CHUNK]], chunk)
        parts = Batch.of(samples).parts
        made = {
            "action": joined([part.action for part in parts]),
            "mask": joined([part.mask for part in parts]),
            "length": torch.tensor([len(part) for part in parts], dtype=torch.int64),
            "prompt": torch.tensor([sample.group for sample in samples], dtype=torch.int64),
            "score": torch.tensor([sample.reward for sample in samples]),
        }
        if method.recorded:
            return {**made, "ref_logp": joined([sample.logp for sample in samples])}
        if method.anchor is None or not method.asks_ahead or method.reference_rate:
            return made
        return {**made, "ref_logp": joined(method.anchor.logp(parts, 1.0, method.micro_tokens))}

    def _keep(self, made: Mapping[str, Tensor]) -> None:
        lengths = made["length"].tolist()
        fields = {name: made[name].split(lengths) for name in ("action", "mask", "ref_logp") if name in made}
        chunk: list[list[Experience]] = [[] for _ in range(CHUNK)]
        for i, (prompt, score) in enumerate(zip(made["prompt"].tolist(), made["score"], strict=True)):
            steps = {name: split[i] for name, split in fields.items()}
            chunk[prompt].append(Experience(**steps, reward=score.expand(lengths[i])))
        self.made.append(Frozen.of(made))
        self.chunks.append(chunk)

    def _judged(self, rows: list[Row], chunk: int) -> list[Sample]:
        """Scored answers to rows: those that they bring, drawn ones, or both."""
        method = self.method
        if not method.judges_anew:
            return self._given(rows, 0)
        judged = method.judged_together(len(rows), lambda mine: self._answers(rows[mine], mine.start, chunk))
        record(judged, method.language_policy)
        return judged

    def _answers(self, rows: list[Row], first: int, chunk: int) -> list[Sample]:
        """The answers to judge to rows of a chunk, in groups that are numbered from `first` on."""
        method, task = self.method, self.method.task
        given = self._given(rows, first) if method.beside or not method.drawn else []
        if not method.drawn:
            return given
        assert method.anchor is not None
        drawn = method.anchor.answer(
            rows,
            first=first,
            copies=method.drawn,
            max_tokens=task.max_tokens,
            stop=task.stop,
            environment=task.environment,
            seed=method.streams.integer("drawn", chunk),
        )
        return sorted([*given, *drawn], key=lambda sample: sample.group)  # rows' own ones first

    def _given(self, rows: list[Row], first: int) -> list[Sample]:
        """The answers that rows bring, with their scores, in groups that are numbered from `first` on."""
        policy, samples = self.method.language_policy, []
        for i, row in enumerate(rows, first):
            ranked, prompt = ranked_of(row), policy.prompt_ids(row["prompt"], row.get("tools"))
            recorded = logps_of(row) if self.method.recorded else [torch.nan] * len(ranked.answers)
            scores = self.method.scores_in(row, ranked)
            learnt = self.method.learnt_of(row, ranked)
            told = zip(ranked.answers, scores, ranked.truncated, recorded, learnt, strict=True)
            for answer, score, cut, total, taken in told:
                if total is None or not taken:
                    continue
                # What was cut off has no end to learn.
                ids, mask = policy.with_answer(prompt, answer, cut)
                logp = torch.zeros(len(ids)).index_fill(0, torch.tensor([len(ids) - 1]), total)
                samples.append(Sample(ids, mask, logp, logp, len(prompt), answer, cut, row, i, reward=score))
        return samples

    def _order(self, epoch: int) -> torch.Tensor:
        return torch.randperm(len(self.rows), generator=self.method.streams.generator("prompts", epoch))

    def state_dict(self) -> dict[str, Any]:
        return {"asked": self.asked, "made": list(self.made)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.asked, self.made, self.chunks = state["asked"], [], []
        for made in state["made"]:
            self._keep(made)


def numbered(groups: Sequence[Sequence[Experience]]) -> list[Experience]:
    """The answers of some prompts one after the other, with numbers that tell answers, and prompts, apart."""
    parts = [(group, part) for group, members in enumerate(groups) for part in members]
    return [
        part.replace(segment=torch.full((len(part),), i), group=torch.full((len(part),), group))
        for i, (group, part) in enumerate(parts)
    ]
