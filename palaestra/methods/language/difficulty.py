"""Difficulty-aware augmentation (Park et al. 2025, eq. 9): hints for hard training prompts, noise for easy ones.

A group whose rewards are all alike teaches nothing, which happens most where a prompt is far too easy or far too hard.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from palaestra.core.errors import Unsupported
from palaestra.core.hints import NonNegativeFloat, PositiveInt
from palaestra.core.method import Metrics
from palaestra.core.task import Task
from palaestra.language.generation.decoder import positions
from palaestra.language.policy import LanguagePolicy
from palaestra.language.rows import Row
from palaestra.language.sample import Sample
from palaestra.language.verifiers.format import ANSWER
from palaestra.language.verifiers.numbers import PHRASE
from palaestra.methods.language.rounds import Rounds
from palaestra.objectives.segments import has_spread

LEAST = 1e-6
"""Prompts whose distance from the usual is smaller are neither hard nor easy: means are rounded."""
MARKED = re.compile(rf"{ANSWER}|####|\\(?:boxed|fbox)|{PHRASE.pattern}", re.IGNORECASE)
"""Where a result begins in an answer, in all the ways that `final_answer` reads one."""


class Changed(NamedTuple):
    """A prompt that is asked in another form."""

    place: int  # among the round's prompts
    row: Row
    prompt: Tensor  # (L,) its ids
    hint: Tensor  # (k,) ids that open the answer; none without one


@dataclass
class Augmented(Rounds):
    """Asks each prompt twice: as it is, and then made easier or harder; learns from the second group of answers.

    How much easier or harder depends on how far its mean reward is from the usual, the mean reward of the latest prompts before
    it, asked as they are. Answers to a hard prompt begin with the first part of a good answer, and only the tokens that the
    policy adds are learnt from. An easy prompt gets noise of the task's own kind (`task.noised(row, share, generator)`), else
    filler tokens between its own, none of which is lost. Prompts of evaluations are never changed.
    """

    hints: NonNegativeFloat = 0.0
    """Share of a good answer that a hard prompt is given, per unit of reward below the usual; 0 gives no hints."""
    noise: NonNegativeFloat = 0.0
    """Noise in an easy prompt, as a share of its tokens, per unit of reward that it exceeds the usual; 0 adds none."""
    adaptive: bool = True
    """Scale hints and noise with the distance from the usual; else both are as for a distance of 1."""
    window: PositiveInt = 100
    """How many of the latest prompts the usual reward is the mean of."""
    usual: float | None = None
    """A fixed reward that prompts are compared with, in place of the mean over the window."""

    def setup(self, task: Task) -> None:
        super().setup(task)
        self.latest: list[float] = []
        """Mean rewards of the latest prompts, asked as they are."""

    def sample(self) -> tuple[list[Sample], Metrics]:
        rows = self.next_rows(self.prompts)
        samples = self.answers(rows, f"round/{self.round}")
        if not samples or not (self.hints or self.noise):
            return samples, {}
        rewards, group = torch.tensor([s.reward for s in samples]), torch.tensor([s.group for s in samples])
        means = {int(g): float(rewards[group == g].mean()) for g in group.unique()}
        difficulty = {place: difficulty_of(mean, self.latest, self.usual) for place, mean in means.items()}
        self.latest = (self.latest + list(means.values()))[-self.window :]
        metrics: Metrics = {
            "difficulty/reward_as_asked": rewards.mean(),
            "difficulty/without_spread_as_asked": 1 - has_spread(rewards, group).float().mean(),
            "difficulty/distance": torch.tensor([abs(d) for d in difficulty.values()]).mean(),
        }
        changed = []
        for place, distance in difficulty.items():
            found = self.changed(place, rows[place], [s for s in samples if s.group == place], distance, means[place])
            changed += [found] if found is not None else []
        metrics["difficulty/hinted"] = torch.tensor(sum(len(c.hint) > 0 for c in changed) / len(means))
        metrics["difficulty/noised"] = torch.tensor(sum(len(c.hint) == 0 for c in changed) / len(means))
        return self.exchanged(samples, changed), metrics

    def changed(self, place: int, row: Row, samples: list[Sample], distance: float, mean: float) -> Changed | None:
        """How a prompt is asked, given its answers and how far it falls short of the usual; None as it was."""
        if abs(distance) < LEAST:
            return None
        policy, amount = self.language_policy, abs(distance) if self.adaptive else 1.0
        longest = self.max_tokens or self.task.max_tokens
        if distance > 0 and self.hints:
            best = good_answer(samples, mean + distance, policy)
            hint = _nothing() if best is None else opening(best, min(1.0, self.hints * amount), policy)[: longest - 1]
            if len(hint):
                return Changed(place, row, samples[0].ids[: samples[0].prompt], hint)
        if distance < 0 and self.noise:
            generator = self.streams.generator(f"noise/{place}", self.round)
            share = self.noise * amount
            if hasattr(self.task, "noised"):
                row = self.task.noised(row, share, generator)
                return Changed(place, row, policy.asked(row)[0], _nothing())
            prompt = samples[0].ids[: samples[0].prompt]
            noised = interspersed(prompt, share, policy, generator, longest)
            if len(noised) > len(prompt):
                return Changed(place, row, noised, _nothing())
        return None

    def exchanged(self, samples: list[Sample], changed: list[Changed]) -> list[Sample]:
        """The round's answers with those to changed prompts in place of those to the same prompts as they were."""
        if not changed:
            return samples
        again = self.answers(
            [c.row for c in changed],
            f"round/{self.round}/changed",
            prompts=[c.prompt for c in changed],
            prefixes=[c.hint for c in changed],
        )
        for s in again:
            s.group = changed[s.group].place
        places = {c.place for c in changed}
        return sorted([s for s in samples if s.group not in places] + again, key=lambda s: s.group)


def difficulty_of(mean: float, latest: list[float], usual: float | None = None) -> float:
    """By how much a prompt's mean reward falls short of `usual`, or of the mean of the latest; 0 where there are none yet."""
    if usual is not None:
        return usual - mean
    return sum(latest) / len(latest) - mean if latest else 0.0


def good_answer(samples: list[Sample], usual: float, policy: LanguagePolicy) -> list[int] | None:
    """The ids, without an end, of the best answer if it earned more than the usual; else of the row's own completion, if any."""
    best = max(samples, key=lambda s: s.reward)
    if best.reward > usual:
        ids = best.completion.tolist()
        return ids if best.truncated else ids[:-1]
    if "completion" in best.row:
        return policy.completion_ids(best.row["completion"])[:-1].tolist()
    return None


def opening(ids: list[int], share: float, policy: LanguagePolicy) -> Tensor:
    """The first `share` of an answer, never all of it, and nothing from what marks its result on."""
    length = min(round(share * len(ids)), len(ids) - 1)
    while length > 0 and MARKED.search(policy.tokeniser.decode(ids[:length])):
        length -= 1
    return torch.tensor(ids[: max(0, length)], dtype=torch.int64)


def interspersed(
    prompt: Tensor, share: float, policy: LanguagePolicy, generator: torch.Generator, answer: int = 0
) -> Tensor:
    """A prompt with filler tokens put in, a `share` of its length; none of its own tokens is lost.

    They stand neither before the first token nor behind the last, nor beside special tokens, which chat templates are made of,
    and are no more than the model has positions for beside an `answer` of so many tokens.
    """
    special = set(policy.tokeniser.all_special_ids)
    ids = prompt.tolist()
    gaps = [i for i in range(1, len(ids)) if ids[i - 1] not in special and ids[i] not in special]
    count, allowed = round(min(1.0, share) * len(ids)), positions(policy.model)
    if allowed is not None:
        count = min(count, allowed - len(ids) - answer)
    if not gaps or count <= 0:
        return prompt
    filler = _filler(policy)
    places = [gaps[int(i)] for i in torch.randint(len(gaps), (count,), generator=generator)]
    return torch.tensor([x for i, own in enumerate(ids) for x in [filler] * places.count(i) + [own]], dtype=torch.int64)


def _filler(policy: LanguagePolicy) -> int:
    for name in ("unk_token_id", "mask_token_id", "pad_token_id"):
        found = getattr(policy.tokeniser, name, None)
        if found is not None:
            return int(found)
    raise Unsupported(
        "noise needs a token that says nothing, and the tokeniser has neither unk, mask nor pad; set noise=0"
    )


def _nothing() -> Tensor:
    return torch.zeros(0, dtype=torch.int64)
