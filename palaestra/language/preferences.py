"""Preferences in rows of text: pairs, lists with scores, single answers with a score or a label, and one view of them all.

Columns are trl's. What a row may be:

- `chosen` and `rejected`, perhaps with `score_chosen` and `score_rejected`; without a `prompt` they are whole conversations;
- `completions` and `scores`, a list of answers and a number for each, higher for better ones;
- `completion` and `score`, one answer and its number;
- `completion` and `label`, one answer that is good or bad.

An answer is text, or an assistant's message in a list. `truncated` may say that an answer was cut off, by one flag per answer.
How likely an answer was to who gave it may stand beside it: see `logps_of`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from palaestra.core.errors import BadDataset
from palaestra.language.judges.judge import LARGEST, shown
from palaestra.language.rows import Row

KINDS = (
    ("completions", "scores"),
    ("chosen", "rejected"),
    ("completion", "score"),
    ("completion", "label"),
)
"""The columns of each kind of row, the kind that is taken first where a row is several."""
LOGPS = {
    ("completions", "scores"): ("logps",),
    ("chosen", "rejected"): ("ref_chosen_logps", "ref_rejected_logps"),
    ("completion", "score"): ("logp",),
    ("completion", "label"): ("logp",),
}
"""The columns of each kind of row that say how likely its answers were."""
SAME = 1e-4
"""By how much the scores of the same answer may differ by rounding, relative to scores above 1."""
HAIR = 1e-6
"""The least margin of a chosen answer, relative to scores above 1: what single precision can still represent."""
SPOKEN, ASKED = "\n\nAssistant:", "\n\nHuman:"
"""What begins turns in conversations that are one text, as in HH-RLHF (Bai et al. 2022)."""
SPACELESS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3001-\u30ff\u3400-\u9fff\uff01-\uff9f\U00020000-\U0003ffff"
"""Characters of scripts that put no spaces between words: Chinese, Japanese, Thai, Lao, Burmese and Khmer."""


@dataclass(frozen=True)
class Ranked:
    """The answers to a row's prompt, in the row's order, with a score each: higher is better. A pair is two, chosen first."""

    answers: list[str]
    scores: list[float]
    truncated: list[bool]
    """Which answers were cut off, and have no end to learn."""


def ranked_of(row: Row, where: str = "") -> Ranked:
    """The answers of a row and their scores; of a pair without any 1 and 0, of a label 1 for good and 0 for bad.

    `where` names the row in messages; without it, its prompt does.

    Raises:
        BadDataset: the row is of no kind, an answer is empty, chosen equals rejected but for white space, the two answer
            different prompts, the same answer has two scores, a score is no finite number or contradicts which is chosen, or
            there are more or fewer scores than answers.
    """
    where = where or _named(row)
    if is_pair(row):
        row = explicit(row, where)
    kind = kind_of(row)
    if kind is None:
        raise BadDataset(f"{where} has no answers to compare, but {what_it_has(row)}")
    given: list[Any]
    if kind == ("chosen", "rejected"):
        given, scores = [row["chosen"], row["rejected"]], _scores_of_pair(row, where)
    elif kind == ("completions", "scores"):
        given, scores = (_listed(row[name], name, where) for name in kind)
    else:
        given, scores = [row["completion"]], [row[kind[1]]]
        if kind[1] == "label":
            if scores[0] not in (0, 1):
                raise BadDataset(
                    f"{where} has {shown(str(scores[0]))} as label; that is true for a good answer, else false"
                )
            scores = [int(scores[0])]
    answers = [_text(answer, where) for answer in given]
    if not answers:
        raise BadDataset(f"{where} has no answers: its completions are an empty list")
    if len(scores) != len(answers):
        raise BadDataset(f"{where} has {len(answers)} answers and {len(scores)} scores")
    if not all(answer.strip() for answer in answers):
        raise BadDataset(f"{where} has an empty answer; leave it out")
    if kind == ("chosen", "rejected") and answers[0].strip() == answers[1].strip():
        raise BadDataset(f"{where} has the same answer as chosen and rejected: {shown(answers[0])}")
    ranked = Ranked(answers, [_number(score, kind[1], where) for score in scores], _flags(row, len(answers), where))
    known: dict[tuple[str, bool], float] = {}
    for answer, score, cut in zip(answers, ranked.scores, ranked.truncated, strict=True):
        before = known.setdefault((answer.strip(), cut), score)
        if differ(score, before):
            raise BadDataset(
                f"{where} has the same answer twice, with scores {before:g} and {score:g}: {shown(answer)}"
            )
    return ranked


def differ(score: float, before: float) -> bool:
    """Whether two scores of the same answer differ by more than rounding."""
    return abs(score - before) > SAME * max(1.0, abs(before))


def kind_of(row: Row) -> tuple[str, str] | None:
    """The columns, of `KINDS`, that a row has its answers and preferences in; None if it has none."""
    return next((kind for kind in KINDS if all(row.get(name) is not None for name in kind)), None)


def what_it_has(row: Row) -> str:
    """For an error message: the columns of a row without preferences, null or misspelt ones marked, and those that are needed."""
    needed = {name for kind in KINDS for name in kind}
    said = []
    for name, value in row.items():
        meant = difflib.get_close_matches(str(name), sorted(needed - {*row}), n=1, cutoff=0.8)
        hint = " (null)" if value is None else f" (did you mean '{meant[0]}'?)" if meant and name not in needed else ""
        said.append(f"{name}{hint}")
    return f"{', '.join(said)}; rows need {'; '.join(' and '.join(columns) for columns in KINDS)}"


def is_pair(row: Row) -> bool:
    """Whether a row is of the kind with `chosen` and `rejected`."""
    return kind_of(row) == ("chosen", "rejected")


def called_good(row: Row) -> list[bool] | None:
    """Which answers a row says are good: the chosen one of a pair, or by its label; None where it has scores."""
    kind = kind_of(row)
    if kind == ("completion", "label"):
        return [bool(row["label"])]
    return [True, False] if kind == ("chosen", "rejected") else None


def cut_off(row: Row, where: str = "") -> bool:
    """Whether the `completion` of a row was cut off and has no end to learn: see `which_cut_off`."""
    return which_cut_off(row, [_text(row["completion"], where)], where)[0]


def which_cut_off(row: Row, answers: Sequence[str], where: str = "") -> list[bool]:
    """Which of some answers of a row were cut off, by the flag of the row's answer with the same text; of several such, that
    with the highest score counts. Flags of a row with neither a completion nor preferences are taken as those of `answers`.

    Raises:
        BadDataset: there are other numbers of flags than of answers.
    """
    if row.get("truncated") is None:
        return [False] * len(answers)
    kind = kind_of(row)
    if kind is None or "completion" in kind:
        own = [_text(row["completion"], where)] if "completion" in row else answers
        flagged = list(zip(own, _flags(row, len(own), where or _named(row)), strict=True))
    else:
        ranked = ranked_of(row, where)
        best_first = sorted(range(len(ranked.answers)), key=lambda i: -ranked.scores[i])
        flagged = [(ranked.answers[i], ranked.truncated[i]) for i in best_first]
    return [next((cut for text, cut in flagged if text == answer), False) for answer in answers]


def explicit(row: Row, where: str = "") -> dict[str, Any]:
    """A pair with its `prompt` in a column of its own, and `chosen` and `rejected` as text without it.

    Of conversations in messages the last ones are the answers. Of texts, what comes after the last `Assistant:` that both have;
    if there is none, what comes after the last word that both begin with, or the last character of a script without spaces. That
    is no more than a guess, and not made where another column may be the prompt.

    Raises:
        BadDataset: the two answer different prompts, none of the columns says which the prompt is, or a conversation does not end
            with an answer.
    """
    where = where or _named(row)
    made = dict(row)
    prompt, chosen, rejected = row.get("prompt"), row["chosen"], row["rejected"]
    if is_messages(chosen) and is_messages(rejected):
        asked, again = list(chosen[:-1]), list(rejected[:-1])
        if isinstance(prompt, list | tuple) and any(t[0].get("role") == "assistant" for t in (asked, again) if t):
            if _turns(asked) != _turns(again):
                raise BadDataset(
                    f"{where} has answers of several turns, which differ before the last; an answer is one message of the "
                    "assistant, and what both say before it belongs to the prompt"
                )
            prompt = asked = again = [*prompt, *asked]
        if _turns(asked) != _turns(again):
            raise BadDataset(f"{where} pairs answers to different prompts: chosen and rejected differ before they end")
        if asked and isinstance(prompt, list | tuple) and _turns(prompt) != _turns(asked):
            raise BadDataset(f"{where} has a prompt that is not the one which chosen and rejected answer")
        made["prompt"] = asked or prompt
    elif "prompt" not in row and isinstance(chosen, str) and isinstance(rejected, str):
        shared = _shared(chosen, rejected)
        if shared.endswith(SPOKEN) or not _beside(row):
            made["prompt"], chosen, rejected = shared, chosen[len(shared) :], rejected[len(shared) :]
        if shared.endswith(SPOKEN) and (ASKED in chosen or ASKED in rejected):
            raise BadDataset(f"{where} pairs answers to different prompts: chosen and rejected differ before they end")
    if not made.get("prompt"):
        raise BadDataset(f"{where} {_without_prompt(row)}")
    return made | {"chosen": _text(chosen, where), "rejected": _text(rejected, where)}


def logps_of(row: Row, where: str = "") -> list[float | None]:
    """How likely each answer of a row was to who gave it, in their order, None where that is not known: its log-probability at
    temperature 1, a sum over its tokens with its end, as runs write it down and trl computes it in advance.

    Raises:
        BadDataset: a row does not say it, or says something that is no log-probability.
    """
    where = where or _named(row)
    kind = kind_of(row)
    assert kind is not None
    columns = LOGPS[kind]
    missing = [name for name in columns if row.get(name) is None]
    if missing:
        raise BadDataset(f"{where} does not say how likely its answers were: it has no {missing[0]}")
    given = _listed(row["logps"], "logps", where) if columns == ("logps",) else [row[name] for name in columns]
    answers = len(ranked_of(row, where).answers)
    if len(given) != answers:
        raise BadDataset(f"{where} has {answers} answers and {len(given)} log-probabilities")
    logps = [None if logp is None else _number(logp, " and ".join(columns), where) for logp in given]
    above = [logp for logp in logps if logp is not None and logp > 0]
    if above:
        raise BadDataset(f"{where} has a log-probability of {above[0]:g}; it is at most 0")
    return logps


def best_of(ranked: Ranked) -> str:
    """The answer with the highest score, the first of several."""
    return ranked.answers[max(range(len(ranked.scores)), key=ranked.scores.__getitem__)]


def _scores_of_pair(row: Row, where: str) -> list[float]:
    """The row's scores, or 1 and 0 where it has none; of equal scores the rejected answer's is lowered by `HAIR`."""
    given = [name for name in ("score_chosen", "score_rejected") if row.get(name) is not None]
    if not given:
        return [1.0, 0.0]
    if len(given) == 1:
        raise BadDataset(f"{where} has {given[0]}, but not the score of the other answer")
    scores = [_number(row[name], name, where) for name in given]
    if scores[0] < scores[1]:
        raise BadDataset(f"{where} scores the chosen answer {scores[0]:g}, below the rejected one's {scores[1]:g}")
    return [scores[0], min(scores[1], scores[0] - HAIR * max(1.0, abs(scores[0])))]


def _shared(chosen: str, rejected: str) -> str:
    """The prompt that two texts begin with."""
    longest = min(len(chosen), len(rejected))
    same = chosen[: next((i for i in range(longest) if chosen[i] != rejected[i]), longest)]
    spoken = same.rfind(SPOKEN)
    if spoken >= 0:
        return same[: spoken + len(SPOKEN)]
    words = re.match(rf".*((?=\s)|(?<=[{SPACELESS}]))", same, re.DOTALL)
    return words[0].rstrip() if words else ""


def _beside(row: Row) -> list[str]:
    """The columns of a pair, beside its answers, that are text or messages, so that one may be its prompt."""
    answers = {name for kind in KINDS for name in kind}
    return [
        name
        for name, value in row.items()
        if name not in answers and (is_messages(value) or (isinstance(value, str) and value.strip()))
    ]


def _without_prompt(row: Row) -> str:
    """The error message of a pair without a prompt."""
    if beside := _beside(row):
        return (
            f"has no prompt, but {', '.join(beside)} beside its answers; name the column that is the prompt "
            f"(--task.column {beside[0]}, or column='{beside[0]}'), or leave them out where both answers begin with the prompt"
        )
    if "prompt" in row:
        return "has nothing as prompt; give it one, or leave the column out where both answers begin with the prompt"
    return "has no prompt: chosen and rejected begin with no whole word in common; give it as 'prompt'"


def _text(answer: Any, where: str) -> str:
    """An answer as text."""
    if isinstance(answer, str):
        return answer
    if not is_messages(answer):
        raise BadDataset(f"{where} has an answer that is neither text nor an assistant's message: {shown(str(answer))}")
    last = answer[-1]
    if last.get("role") != "assistant" or not isinstance(last.get("content"), str):
        raise BadDataset(f"{where} has an answer that is no text of the assistant, but of {last.get('role')}")
    return last["content"]


def is_messages(value: Any) -> bool:
    """Whether a value is messages, and not text."""
    return isinstance(value, list | tuple) and len(value) > 0 and all(isinstance(m, Mapping) for m in value)


def _turns(messages: Sequence[Mapping[str, Any]]) -> list[tuple[Any, Any]]:
    return [(message.get("role"), message.get("content")) for message in messages]


def _listed(value: Any, name: str, where: str) -> list[Any]:
    if isinstance(value, str | bytes | Mapping) or not hasattr(value, "__iter__") or getattr(value, "ndim", 1) == 0:
        raise BadDataset(f"{where} has a {type(value).__name__} as {name}; that is a list, one entry for each answer")
    return list(value)


def _number(value: Any, name: str, where: str) -> float:
    if not isinstance(value, Real) or not abs(value) <= LARGEST:
        fits = f"a score is a finite number, of at most {LARGEST:.2g} in size"
        raise BadDataset(f"{where} has {shown(str(value))} in {name}; {fits}")
    return float(value)


def _flags(row: Row, count: int, where: str) -> list[bool]:
    given = row.get("truncated")
    if given is None:
        return [False] * count
    if getattr(given, "ndim", 1) == 0:  # of NumPy or PyTorch
        given = given.item()
    flags = [given] if isinstance(given, bool) else _listed(given, "truncated", where)
    if len(flags) != count:
        raise BadDataset(f"{where} has {count} answers and {len(flags)} flags that say whether they are truncated")
    return [bool(flag) for flag in flags]


def _named(row: Row) -> str:
    """How error messages name a row whose number is not known: by the beginning of its text."""
    for name in ("prompt", "chosen", "completion"):
        if row.get(name):
            said = row[name]
            text = said if isinstance(said, str) else str(said[-1].get("content")) if is_messages(said) else str(said)
            return f"the row with the {name} {shown(text, 40)}"
    return "a row"
