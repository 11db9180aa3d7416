"""Gradient steps on a preference loss, over pairs, ranked lists or scored answers, which are all batches of whole answers with
scores and the numbers of their prompts."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from palaestra.core.errors import Diverged
from palaestra.core.experience import Experience
from palaestra.core.method import Metrics
from palaestra.core.world import world
from palaestra.language.packing import bins
from palaestra.language.policy import LanguagePolicy
from palaestra.methods.language.batch import Batch
from palaestra.nets.gradient import Outputs
from palaestra.objectives.answers import Answers, Loss, Tokens
from palaestra.objectives.group_preference import level_pairs
from palaestra.objectives.segments import pairs_within, segment_sum

Chosen = Literal["all", "extremes"]
"""Which answers to a prompt make pairs: all that differ in score, or the best with the worst."""
ROUNDING = 1e-5
"""By how much a score may miss a limit that it is meant to reach: win rates are means in single precision."""


class PreferenceLoss:
    """Mixin of methods that descend a preference loss, `criterion`, one of those of `objectives.answers`."""

    criterion: ClassVar[Loss]
    """The loss, whose mean over pairs, over lists of all answers to a prompt, or over answers is descended."""
    pairs_ties: ClassVar[bool] = False
    """Whether answers with the same score make a pair, too."""

    if TYPE_CHECKING:
        language_policy: LanguagePolicy
        pairs: Chosen
        micro_tokens: int

        def descend(self, loss: Callable[[Any], tuple[Tensor, Outputs]], parts: Sequence[Any]) -> Metrics: ...

    def objective(self, *sides: Answers) -> Tensor:
        """The loss of each unit, given the chosen and the rejected answers of pairs, or all answers: `criterion`, with a method's
        own settings."""
        return self.criterion(*sides)

    def align(self, batch: Batch) -> Metrics:
        """One gradient step on the mean cost over a minibatch, in as many passes as it takes."""
        if self.criterion.unit == "pair" and len(batch):
            batch = batch.take(torch.cat(self.paired(batch)).unique().tolist())
        if not len(batch):
            return {}
        units = self.units(batch)
        pieces = [batch.take(index) for index in whole_groups(batch, self.micro_tokens)]
        return self.descend(partial(self.cost, units=units), pieces)

    def cost(self, piece: Batch, units: int) -> tuple[Tensor, Outputs]:
        """The sum of the loss over some of a minibatch's prompts, divided by all its `units`, and what is logged."""
        answers = self.seen(piece)
        if not bool(answers.logp.isfinite().all()):
            raise Diverged("the log-probabilities of answers are no longer finite")
        better, worse = self.paired(piece)
        sides = (answers.at(better), answers.at(worse)) if self.criterion.unit == "pair" else (answers,)
        loss = self.objective(*sides).sum() / units
        return loss, {"loss/preference": loss, **monitors(answers, better, worse), **self.watched(answers)}

    def watched(self, answers: Answers) -> Outputs:
        """Further metrics of a loss of single answers, as sums over answers."""
        return {}

    def seen(self, piece: Batch) -> Answers:
        """Whole answers, from their tokens."""
        tokens = Experience.cat(piece.parts)
        return self.whole(piece, tokens, self.language_policy.score(tokens).logp)

    def whole(self, piece: Batch, tokens: Experience, logp: Tensor) -> Answers:
        """Whole answers from all their tokens, and the log-probability of each, `(N,)`."""
        answer = torch.arange(len(piece)).repeat_interleave(torch.tensor([len(part) for part in piece.parts]))

        def total(x: Tensor | None) -> Tensor | None:
            return None if x is None else segment_sum(x, answer, len(piece))

        score, group = judged_in(piece)
        return Answers(
            logp=total(logp),
            ref_logp=total(tokens.ref_logp),
            prev_logp=total(tokens.logp),
            length=total(tokens.mask.to(logp)),
            score=score,
            advantage=None if tokens.advantage is None else piece.of_answers("advantage"),
            group=group,
            tokens=Tokens(logp, answer, tokens.ref_logp),
        )

    def units(self, batch: Batch) -> int:
        """How many pairs, lists or answers a minibatch has."""
        if self.criterion.unit == "answer":
            return len(batch)
        return len(self.paired(batch)[0] if self.criterion.unit == "pair" else judged_in(batch)[1].unique())

    def paired(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The indices `(p,)` of the better and of the worse answer of every pair."""
        return pairs_of(*judged_in(batch), self.pairs, self.pairs_ties)

    def without_pair(self, batch: Batch) -> Metrics:
        """The share of prompts, or duels, whose answers make no pair, of a loss of pairs."""
        if self.criterion.unit != "pair" or not len(batch):
            return {}
        group = judged_in(batch)[1]
        without = 1 - len(group[self.paired(batch)[0]].unique()) / len(group.unique())
        return {"pairs/prompts_without": torch.tensor(without)}


@torch.no_grad()
def monitors(answers: Answers, better: Tensor, worse: Tensor) -> Outputs:
    """Metrics as sums over pairs, or over answers where there are none, whose number is `tokens`: log-ratios to the reference, or
    to the policy when the round began, and by how many tokens chosen answers are longer."""
    before = answers.ref_logp if answers.ref_logp is not None else answers.prev_logp
    ratio = answers.logp if before is None else answers.logp - before
    if not len(better):
        return {"tokens": torch.tensor(float(len(ratio))), "preference/ratio": ratio.sum()}
    chosen, rejected = ratio[better], ratio[worse]
    likely = {} if before is None else {"chosen": answers.logp[better].sum(), "rejected": answers.logp[worse].sum()}
    return {
        "tokens": torch.tensor(float(len(better))),
        "preference/chosen": chosen.sum(),
        "preference/rejected": rejected.sum(),
        "preference/margin": (chosen - rejected).sum(),
        "preference/accuracy": (chosen > rejected).float().sum(),
        "preference/longer": (answers.length[better] - answers.length[worse]).sum(),
        **{f"preference/{side}_logp": total for side, total in likely.items()},
    }


def judged_in(batch: Batch) -> tuple[Tensor, Tensor]:
    """The score and the prompt of each answer, `(n,)`."""
    return batch.of_answers("reward"), batch.of_answers("group")


def pairs_of(
    score: Tensor,
    group: Tensor,
    chosen: Chosen = "all",
    ties: bool = False,
    least_gap: float = 0.0,
    least_score: float = -torch.inf,
) -> tuple[Tensor, Tensor]:
    """The indices `(p,)` of the better and of the worse answer of every pair, given scores and prompts `(n,)`.

    Those with the same score make a pair only with `ties`, and of them the first stands as the better. Of the pairs that are
    chosen, those stay whose scores are at least `least_gap` apart, and whose better one is at least `least_score`, up to
    rounding.
    """
    better, worse = _chosen(score, group, chosen, ties)
    clear = (score[better] - score[worse] >= least_gap - ROUNDING) & (score[better] >= least_score - ROUNDING)
    return better[clear], worse[clear]


def _chosen(score: Tensor, group: Tensor, chosen: Chosen, ties: bool) -> tuple[Tensor, Tensor]:
    if chosen == "all":
        better, worse = level_pairs(-score, group)
        if ties:
            first, second = pairs_within(group)
            same = score[first] == score[second]
            better, worse = torch.cat([better, first[same]]), torch.cat([worse, second[same]])
        return better, worse
    ends = []
    for g in group.unique():
        own = (group == g).nonzero().squeeze(-1)
        order = own[torch.argsort(score[own], descending=True, stable=True)]
        best, worst = int(order[0]), int(order[-1])
        if best != worst and (ties or score[best] > score[worst]):
            ends.append((best, worst))
    both = torch.tensor(ends, dtype=torch.int64).reshape(-1, 2)
    return both[:, 0], both[:, 1]


def whole_groups(batch: Batch, tokens: int) -> list[list[int]]:
    """The answers of a batch, by number, in pieces of at most `tokens` tokens; those to one prompt stay together."""
    numbers = [int(part.group[0]) for part in batch.parts]
    groups = [list(members) for _, members in itertools.groupby(range(len(batch)), key=lambda i: numbers[i])]
    lengths = [sum(len(batch.parts[i]) for i in members) for members in groups]
    return [[i for g in piece for i in groups[g]] for piece in bins(lengths, tokens, world().size)]
