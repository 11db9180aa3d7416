"""Answers read token by token: what each was worth to a policy against its reference, in a form that is drawn and kept."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from palaestra.core import files
from palaestra.core.errors import BadCheckpoint
from palaestra.language.judges.implicit import ImplicitRewards
from palaestra.language.preferences import ranked_of
from palaestra.language.rows import Row, shown_prompt
from palaestra.language.sample import Sample
from palaestra.language.task import TextTask
from palaestra.objectives.token_mdp import implicit_reward
from palaestra.version import __version__

READOUT = "tokens.json"
"""What a run's folder calls the read-out of its policy."""


@dataclass(frozen=True)
class Reading:
    """One answer with numbers for its T tokens."""

    prompt: str
    what: str
    """Whose answer it is, or what was made of it: chosen, rejected, the reference's."""
    tokens: tuple[str, ...]
    """Their texts, which side by side are the answer's; an end is called by its name."""
    rewards: tuple[float, ...]
    """beta times how much likelier the policy finds each than the reference, in nats times beta."""
    logp: tuple[float, ...]
    ref_logp: tuple[float, ...]
    score: float | None = None
    """What the answer's judge says of it, or its row."""
    ended: bool = True
    """Whether the answer came to its end; the sum of another's rewards lacks what it is worth to go on."""

    @property
    def total(self) -> float:
        return sum(self.rewards)


@dataclass(frozen=True)
class Readout:
    """Answers that were read, and what was asked about them."""

    policy: str
    reference: str
    beta: float
    task: str
    answers: tuple[Reading, ...]

    @property
    def scale(self) -> float:
        """The size of a token's reward that 95% of all tokens do not exceed: what is drawn in full colour."""
        sizes = sorted(abs(reward) for answer in self.answers for reward in answer.rewards)
        return sizes[math.ceil(0.95 * len(sizes)) - 1] if sizes else 0.0

    def kinds(self) -> dict[str, list[Reading]]:
        """The answers by what they are."""
        return {
            what: [a for a in self.answers if a.what == what] for what in dict.fromkeys(a.what for a in self.answers)
        }

    def save(self, path: Path) -> None:
        content = {"palaestra": __version__, **dataclasses.asdict(self)}
        files.write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")

    @staticmethod
    def load(path: Path) -> Readout:
        """What `save` wrote.

        Raises:
            BadCheckpoint: the file is something else.
        """
        try:
            content = json.loads(path.read_bytes())
            answers = tuple(_reading(answer) for answer in content["answers"])
            policy, reference, task = (str(content[name]) for name in ("policy", "reference", "task"))
            return Readout(policy, reference, float(content["beta"]), task, answers)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise BadCheckpoint(
                f"{path} is no read-out of answers ({error!r}); make it again with palaestra explain"
            ) from None


def read(
    judge: ImplicitRewards, rows: Sequence[Row], ids: Sequence[Tensor], about: Sequence[tuple[str, float | None, bool]]
) -> list[Reading]:
    """Answers `(T,)` to rows token by token; `about` says what each is, how it scores and whether it ended."""
    logp, ref_logp = judge.logp(rows, ids)
    found = []
    for row, answer, own, other, (what, score, ended) in zip(rows, ids, logp, ref_logp, about, strict=True):
        rewards, mine, theirs = (tuple(x.tolist()) for x in (implicit_reward(own, other, judge.beta), own, other))
        texts = tuple(pieces(judge.policy.tokeniser, answer.tolist()))
        found.append(Reading(shown_prompt(row["prompt"]), what, texts, rewards, mine, theirs, score, ended))
    return found


def read_samples(judge: ImplicitRewards, samples: Sequence[Sample], scores: Tensor, what: str) -> list[Reading]:
    """Answers that a policy gave, with their scores `(n,)`, NaN for none."""
    known = [None if math.isnan(score) else score for score in scores.tolist()]
    about = [(what, score, not sample.truncated) for sample, score in zip(samples, known, strict=True)]
    return read(judge, [s.row for s in samples], [s.completion for s in samples], about)


def read_judged(judge: ImplicitRewards, task: TextTask, prompts: int, seed: int) -> list[Reading]:
    """The judged answers that some held-out rows of a task bring; the best of a row is the chosen one."""
    rows, ids, about = list[Row](), list[Tensor](), list[tuple[str, float | None, bool]]()
    for row in task.asked(prompts, seed):
        ranked = ranked_of(row)
        best, worst = max(ranked.scores), min(ranked.scores)
        for text, score, cut in zip(ranked.answers, ranked.scores, ranked.truncated, strict=True):
            answer = judge.policy.completion_ids(text)
            rows.append(row)
            ids.append(answer[:-1] if cut else answer)
            about.append(("given" if best == worst else "chosen" if score == best else "rejected", score, not cut))
    return read(judge, rows, ids, about)


def pieces(tokeniser: Any, ids: Sequence[int]) -> list[str]:
    """The text that each token adds to those before it, by what the tokeniser makes of beginnings; a special one's name.

    Of a character that several tokens make up, the last of them has it.
    """
    special = set(tokeniser.all_special_ids)
    found, begins, said = [], 0, ""
    for place, token in enumerate(ids):
        if token in special:
            found.append(str(tokeniser.convert_ids_to_tokens(token)))
            begins, said = place + 1, ""
            continue
        text = str(tokeniser.decode(ids[begins : place + 1], clean_up_tokenization_spaces=False))
        whole = not text.endswith("\ufffd") or place + 1 == len(ids) or ids[place + 1] in special
        found.append(text[len(said) :] if whole else "")
        said = text if whole else said
    return found


def _reading(answer: Any) -> Reading:
    """One answer of a file, whatever the file holds."""
    tokens = tuple(str(token) for token in answer["tokens"])
    rewards, logp, ref_logp = (tuple(map(float, answer[name])) for name in ("rewards", "logp", "ref_logp"))
    if not len(tokens) == len(rewards) == len(logp) == len(ref_logp):
        raise ValueError("as many numbers as tokens are due")
    if not all(map(math.isfinite, (*rewards, *logp, *ref_logp))):
        raise ValueError("a number is not finite")
    score = None if answer["score"] is None else float(answer["score"])
    return Reading(
        str(answer["prompt"]), str(answer["what"]), tokens, rewards, logp, ref_logp, score, bool(answer["ended"])
    )
