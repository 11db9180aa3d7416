"""Direct Nash optimisation (Rosset et al., arXiv 2404.03715)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from palaestra.core.errors import BadDataset, Unsupported, require
from palaestra.core.hints import PositiveFloat, PositiveInt
from palaestra.core.method import Metrics, Paper
from palaestra.core.task import Task
from palaestra.language.anchors import Anchor
from palaestra.language.judges.kinds import PairJudge
from palaestra.language.policy import LanguagePolicy
from palaestra.language.preferences import which_cut_off
from palaestra.language.rows import Row
from palaestra.language.sample import Sample
from palaestra.language.task import talks
from palaestra.language.verifiers.verdict import answer_text
from palaestra.methods.language.batch import Batch
from palaestra.methods.language.language import refuse_clips
from palaestra.methods.preference.iterated import Contest, Iterated
from palaestra.methods.preference.pool import numbered
from palaestra.methods.preference.replay import Replay, groups_of
from palaestra.objectives.answers import Answers
from palaestra.objectives.direct import dno, dno_prct

Targets = Literal["soft", "hard"]
Winners = Literal["all", "restrictive", "spin"]
COLUMN = "column:"
"""What stands before the name of a column that has a teacher's answers."""


@dataclass
class DNO(Iterated):
    """Soft policy iteration: each round fits, by cross-entropy, differences of log-ratios to the policy of the round before to
    differences of win rates.

    With hard targets, a margin, a teacher and replay it is DNO-Prct, the form that the paper trains large models by.
    """

    paper: ClassVar[Paper] = Paper(
        "Direct Nash Optimization: Teaching Language Models to Self-Improve with General Preferences",
        2024,
        "2404.03715",
    )
    summary: ClassVar[str] = "rounds of regression on win rates against the policy of the round before"
    criterion = dno

    group: int = 5
    eta: PositiveFloat = 0.5
    """Inverse step size of a round; with hard targets DPO's beta, which is on another scale."""
    targets: Targets = "soft"
    """Target of a pair: the sigmoid of its difference of win rates (soft), or 1 for the better answer (hard)."""
    teacher: str = ""
    """Who else answers each prompt: a model by its name or folder, or column:NAME, the answers that rows have in a column."""
    winners: Winners = "all"
    """Which pairs are learnt from: all that the contest makes, those that a teacher's answer wins against one of the policy's
    (restrictive), or every teacher's with every one of the policy's, without a judge (spin)."""
    replay: float = 0.0
    """Share of the prompts of the round before that are learnt from again, of each one before that half as many: 0.3 in the
    paper."""
    degenerate_lose: bool = False
    """Give answers that were cut off, or repeat themselves, a win rate of 0, whatever the judge says."""
    lookahead: PositiveInt = 1
    """Rounds in a row that are compared with the same policy, what the first began with: with more than 1, answers come from
    the model in the middle of an epoch (DNO-Lookahead)."""
    # What the method says itself.
    contest: ClassVar[Contest] = "win-rate"  # type: ignore[misc]
    kl_weight: ClassVar[float] = 0.0  # type: ignore[misc]
    reference: ClassVar[str] = ""  # type: ignore[misc]

    @property
    def pairs_ties(self) -> bool:  # type: ignore[override]
        """Soft targets are regressed on for all pairs (eq. 12); in a tie there is no better answer for a hard one."""
        return self.targets == "soft"

    def check(self) -> None:
        super().check()
        require(self.winners == "all" or bool(self.teacher), f"{self.winners} pairs need a teacher, and there is none")
        require(0 <= self.replay < 1, f"replay is a share of prompts, at least 0 and below 1, got {self.replay}")

    def check_task(self, task: Task) -> None:
        super().check_task(task)
        if self.replay:
            refuse_clips(task, "and answers of earlier rounds are stored without them", "leave replay at 0")
        if not self.teacher:
            return
        refuse_clips(task, "and a teacher's answers are learnt from without them", "leave teacher out")
        row = task.rows("train")[0]  # type: ignore[attr-defined]
        if talks(task.environment, row):  # type: ignore[attr-defined]
            raise Unsupported(f"a teacher's answer is one turn, and {task.name} is a conversation; leave teacher out")
        if self.teacher.startswith(COLUMN):
            written(row, self.teacher.removeprefix(COLUMN))

    def setup(self, task: Task) -> None:
        super().setup(task)
        asked = self.teacher and not self.teacher.startswith(COLUMN)
        self.adviser = Anchor.named(self.teacher, self.task) if asked else None
        self.past = Replay(self.replay)
        self.start = Anchor.of(self.language_policy) if self.lookahead > 1 else None

    # Teachers.

    def judged(self, samples: list[Sample]) -> list[Sample]:
        samples = self.beside_teacher(samples)
        if self.winners != "spin":
            return super().judged(samples)
        for sample in samples:
            sample.reward = float(sample.source)
        return samples

    def meetings(self, judge: PairJudge, samples: list[Sample]) -> list[Sample]:
        for sample in super().meetings(judge, samples):
            if self.degenerate_lose and sample.degenerate:
                sample.reward = 0.0
        return samples

    def beside_teacher(self, samples: list[Sample]) -> list[Sample]:
        """The policy's answers, behind those to each prompt the teacher's."""
        if not self.teacher:
            return samples
        prompts = samples[:: self.group]
        found = []
        for i, (like, texts) in enumerate(zip(prompts, self.taught(prompts), strict=True)):
            found += samples[i * self.group : (i + 1) * self.group]
            found += [self.given(like, text) for text in texts]
        return found

    def taught(self, prompts: Sequence[Sample]) -> list[list[str]]:
        """The teacher's answers to the prompts of some samples; one that was cut off is none."""
        rows = [sample.row for sample in prompts]
        if self.adviser is None:
            return [written(row, self.teacher.removeprefix(COLUMN)) for row in rows]
        said = self.adviser.answer(
            rows,
            first=prompts[0].group if prompts else 0,
            max_tokens=self.max_tokens or self.task.max_tokens,
            sampling=self.sampling,
            stop=self.task.stop,
            seed=self.streams.integer(f"teacher/{self.round}"),
        )
        return [[] if sample.truncated else [sample.text] for sample in said]

    def given(self, like: Sample, text: str) -> Sample:
        """A teacher's answer to the prompt of a sample; how likely it is, is asked when it is learnt from."""
        ids, mask = self.language_policy.with_answer(like.ids[: like.prompt], text)
        none = torch.zeros(len(ids))
        return Sample(ids, mask, none, none, like.prompt, text, False, like.row, like.group, source=1)

    # Learning.

    @torch.no_grad()
    def learnable(self, samples: list[Sample], rewards: Tensor, group: Tensor) -> Batch:
        """The round's answers, then those of earlier ones, all with their log-probabilities under `began_with`."""
        fresh = super().learnable(samples, rewards, group)
        fresh = fresh.spread(source=torch.tensor([s.source for s in samples]))
        batch = Batch(numbered([*groups_of(fresh.parts), *self.past.groups()]))
        own = [i < len(samples) and samples[i].source == 0 and self.start is None for i in range(len(batch))]
        others = [i for i, known in enumerate(own) if not known]
        unscored = [batch.parts[i].replace(logp=None) for i in others]
        logp = self.began_with().logps(unscored, tokens=self.micro_tokens)
        for i, part, found in zip(others, unscored, logp, strict=True):
            batch.parts[i] = part.replace(logp=found)
        return batch

    def began_with(self) -> LanguagePolicy:
        """What the policy is compared with: itself as it is before the round, or before the first of `lookahead` rounds."""
        if self.start is None:
            return self.language_policy
        if self.round % self.lookahead == 0:
            self.start.refresh(self.language_policy)
        return self.start.policy

    def paired(self, batch: Batch) -> tuple[Tensor, Tensor]:
        better, worse = super().paired(batch)
        if self.winners == "all":
            return better, worse
        source = batch.of_answers("source")
        taught = source[better] > source[worse]
        return better[taught], worse[taught]

    def objective(self, *sides: Answers) -> Tensor:
        return dno(*sides, eta=self.eta) if self.targets == "soft" else dno_prct(*sides, beta=self.eta)

    def looked_back(self, batch: Batch, rewards: Tensor) -> Metrics:
        """Also whose the pairs' answers are, which says whether the policy has caught up with its teacher."""
        metrics = super().looked_back(batch, rewards)
        fresh = batch.take(range(len(rewards)))
        better, worse = self.paired(fresh)
        learnt = {int(fresh.parts[i].group[0]) for i in better.tolist()}
        generator = self.streams.generator("replay", self.round)
        self.past.turn([group for group in groups_of(fresh.parts) if int(group[0].group[0]) in learnt], generator)
        if self.teacher:
            source, score = fresh.of_answers("source"), fresh.of_answers("reward")
            decided = score[better] > score[worse]
            won, lost = source[better[decided]], source[worse[decided]]
            counts = {
                "teacher_over_policy": won > lost,
                "policy_over_teacher": won < lost,
                "among_policy": won + lost == 0,
            }
            metrics |= {f"pairs/{name}": which.float().sum() for name, which in counts.items()}
        return metrics


def written(row: Row, column: str) -> list[str]:
    """The answers that a row has in a column: one, as text or messages, or a list of texts; those that were cut off left out."""
    answer = row.get(column)
    if not answer:
        raise BadDataset(f"a row has no teacher's answer in {column}, but {', '.join(map(str, row))}")
    several = isinstance(answer, list | tuple) and all(isinstance(text, str) for text in answer)
    texts = list(answer) if several else [answer_text(answer)]
    return [text for text, cut in zip(texts, which_cut_off(row, texts), strict=True) if not cut]
