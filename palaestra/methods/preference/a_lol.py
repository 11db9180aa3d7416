"""Advantage-leftover lunch (Baheti et al., arXiv 2305.14718): offline policy gradients on good answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from palaestra.core.hints import NonNegativeFloat
from palaestra.core.method import Paper
from palaestra.methods.preference.leftover import PAPER, ImportanceWeighted, Leftover
from palaestra.objectives.answers import Answers
from palaestra.objectives.offline_text import a_lol, a_lol_kl, a_lol_ref_free, a_lol_seq, is_clipped
from palaestra.objectives.segments import segment_sum


@dataclass
class ALoL(ImportanceWeighted, Leftover):
    """Offline policy gradient with whole answers as actions: advantage times clipped importance ratio, without gradient through
    either, times log-likelihood."""

    paper: ClassVar[Paper] = PAPER
    summary: ClassVar[str] = "offline policy gradient on answers better than expected"
    criterion = a_lol

    def objective(self, *sides: Answers) -> Tensor:
        return a_lol(*sides, clip=self.clip)


@dataclass
class ALoLSeq(ALoL):
    """A-LoL with an importance ratio for each token, in place of their product over the answer."""

    summary: ClassVar[str] = "A-LoL with ratios of single tokens"
    criterion = a_lol_seq

    def objective(self, *sides: Answers) -> Tensor:
        return a_lol_seq(*sides, clip=self.clip)

    def share_clipped(self, answers: Answers) -> Tensor:
        logp, which, ref_logp = answers.tokens
        assert ref_logp is not None
        return segment_sum(is_clipped(logp, ref_logp, self.clip), which, len(answers.logp)) / answers.length


@dataclass
class ALoLRefFree(Leftover):
    """A-LoL without an importance ratio: advantage-weighted log-likelihood."""

    paper: ClassVar[Paper] = PAPER
    summary: ClassVar[str] = "A-LoL without a ratio to the reference"
    criterion = a_lol_ref_free


@dataclass
class ALoLKL(Leftover):
    """A-LoL with the log-ratio to the reference as a penalty, in place of an importance ratio."""

    paper: ClassVar[Paper] = PAPER
    summary: ClassVar[str] = "A-LoL with a log-ratio to the reference as a cost"
    criterion = a_lol_kl

    beta: NonNegativeFloat = 0.1
    """Weight of the penalty; answers with an advantage below it become less likely."""

    def objective(self, *sides: Answers) -> Tensor:
        return a_lol_kl(*sides, beta=self.beta)
