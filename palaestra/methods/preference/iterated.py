"""Base of online direct alignment: in each round the policy's answers are compared with each other, and a preference loss is
descended, with the policy at the beginning of the round to compare with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from palaestra.core.errors import require
from palaestra.core.method import Metrics
from palaestra.language.judges.contests import tournament
from palaestra.language.judges.kinds import PairJudge, preferences
from palaestra.language.sample import Sample, answers_of
from palaestra.methods.language.batch import Batch
from palaestra.methods.language.rounds import Rounds
from palaestra.methods.preference.contested import Contested
from palaestra.methods.preference.preference_loss import Chosen, PreferenceLoss, judged_in, pairs_of

Contest = Literal["duels", "tournament", "win-rate"]
"""How answers to a prompt are compared: in pairs of neighbours, in a tournament for the best and the worst, or each with all
others."""


@dataclass
class Iterated(Contested, PreferenceLoss, Rounds):
    """A round: `group` answers to each of `prompts` prompts, compared in pairs; then `epochs` passes over them."""

    whole_groups: ClassVar[bool] = True
    in_vain: ClassVar[str] = "no contest had a winner"
    ignores_sampling: ClassVar[bool] = True

    model: str = "sft:tiny-64x2"
    lr: float = 1e-4
    """Adam's learning rate; 5e-7 is usual for pretrained models."""
    prompts: int = 512
    group: int = 2
    temperature: float = 1.0
    """Of sampling alone; log-probabilities that are learnt from are at 1."""
    minibatches: int = 8
    contest: Contest = "duels"
    """How answers are compared: neighbours in duels, whose winner the judge's probability draws; a tournament for the best and
    the worst; or the win-rate of each against all others."""
    pairs: Chosen = "all"
    """Which answers to a prompt make pairs: all that differ in win rate, or the best with the worst (extremes)."""
    margin: float = 0.0
    """Least difference of win rates within a pair, at most 1; other pairs are left out."""
    bar: float = 0.0
    """Least win rate of the better answer of a pair; other pairs are left out."""
    round_decay: float = 1.0
    """Factor of the learning rate from round to round."""

    def check(self) -> None:
        super().check()
        require(self.group >= 2, f"answers are compared with each other, so group must be at least 2, got {self.group}")
        require(self.contest != "duels" or self.group % 2 == 0, f"duels need an even group, got {self.group}")
        for name in ("margin", "bar"):
            limit = getattr(self, name)
            require(0 <= limit <= 1, f"{name} is a share of contests, between 0 and 1, got {limit}")
            makes = limit == 0 or self.criterion.unit == "pair"
            require(makes, f"{self.criterion.name} is a loss of single answers, which have no {name}")
        require(0 < self.round_decay <= 1, f"round_decay must be above 0 and at most 1, got {self.round_decay}")

    def set_rate(self) -> None:
        super().set_rate()
        self.optimiser.lr *= self.round_decay**self.round

    # Contests.

    def judged(self, samples: list[Sample]) -> list[Sample]:
        """The answers with their win rates as rewards; those that took part in no contest are left out."""
        judge = self.pair_judge()
        hold = {"duels": self.duels, "tournament": self.tournaments, "win-rate": self.meetings}[self.contest]
        kept = hold(judge, samples)
        self.count(judge)
        return kept

    def duels(self, judge: PairJudge, samples: list[Sample]) -> list[Sample]:
        """1 for the winner, 0 for the loser of each pair of neighbours, which is a group of its own."""
        first, second = samples[0::2], samples[1::2]
        won = preferences(judge, [s.row for s in first], answers_of(first), answers_of(second))
        # By its number among all of the round, so that a duel ends alike whichever process holds it.
        places = [s.group * self.group // 2 + i % (self.group // 2) for i, s in enumerate(first)]
        number = torch.tensor(places, dtype=torch.int64)  # of which there may be none
        draws = torch.rand(self.prompts * self.group // 2, generator=self.streams.generator("duels", self.round))
        for left, right, i, better in zip(first, second, number.tolist(), (draws[number] < won).tolist(), strict=True):
            left.group = right.group = i
            left.reward, right.reward = float(better), float(not better)
        return samples

    def tournaments(self, judge: PairJudge, samples: list[Sample]) -> list[Sample]:
        """1 for the best and 0 for the worst answer to each prompt, if the best beat the worst; the others have no part."""
        kept = []
        for start in range(0, len(samples), self.group):
            rivals = samples[start : start + self.group]
            found = tournament(judge, rivals[0].row, answers_of(rivals))
            if found.confirmed:
                best, worst = rivals[found.best], rivals[found.worst]
                best.reward, worst.reward = 1.0, 0.0
                kept += [best, worst]
        return kept

    def meetings(self, judge: PairJudge, samples: list[Sample]) -> list[Sample]:
        """The mean probability of winning against the other answers to the prompt."""
        for sample, share in zip(samples, self.won(judge, samples).tolist(), strict=True):
            sample.reward = share
        return samples

    # Learning.

    def credited(self, batch: Batch, rewards: Tensor, group: Tensor) -> Batch:
        """The answers with their win rates as `reward`; there are no advantages."""
        return batch.spread(reward=rewards)

    def paired(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return pairs_of(*judged_in(batch), self.pairs, self.pairs_ties, least_gap=self.margin, least_score=self.bar)

    def update(self, batch: Batch) -> Metrics:
        return self.align(batch)

    def looked_back(self, batch: Batch, rewards: Tensor) -> Metrics:
        """How many pairs the round's answers made, and the share of its prompts, or duels, that had none."""
        if self.criterion.unit != "pair":
            return {}
        fresh = batch.take(range(len(rewards)))
        count = len(self.paired(fresh)[0])
        return {"pairs/count": torch.tensor(float(count)), **self.without_pair(fresh)}
