"""Answers that look cut off though their rows do not say so: what they end with would be learnt as an end."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from palaestra.language.rows import LazyRows, Row, Rows

MOST = 2000
"""Rows that are looked at, spread evenly over all."""
FEWEST = 20
"""Different answers of one length that are no chance."""
SHORTEST = 16
"""Tokens of the least limit that somebody would set on answers that are longer."""
HEAP = 5
"""How many times as many answers have that length as one of the lengths just below it."""
CLOSING = set(".!?:;…。！？\"'”’»)]}>`*|")
"""What prose and code end with."""
WORDS = re.compile(r"[^\W\d_]{2,}")


def warn_of_cut_answers(
    rows: Rows, answers: Callable[[Row], Iterable[tuple[str, bool]]], tokeniser: Any, name: str
) -> None:
    """Warn if answers in a user's rows look cut off and none is flagged; `answers` gives those of a row, and whether it flags
    them."""
    if isinstance(rows, LazyRows):
        return
    told = [answer for i in range(0, len(rows), -(-len(rows) // MOST)) for answer in answers(rows[i])]
    texts = [text for text, _ in told if text.strip()]
    if not texts or any(cut for _, cut in told):
        return
    lengths = [len(ids) for ids in tokeniser(texts, add_special_tokens=False).input_ids]
    found = cut_at(texts, lengths)
    if found is not None:
        warnings.warn(
            f"{found[1]} of {len(texts)} answers of {name} have {found[0]} tokens and look cut off there, but no row says so; "
            "give rows a column truncated, with a flag for each answer, or what they end with is learnt as an end",
            stacklevel=3,
        )


def cut_at(texts: Sequence[str], lengths: Sequence[int]) -> tuple[int, int] | None:
    """The length at which answers look cut off, and how many have it; None where nothing tells.

    They do where many have a length that hardly any exceeds, many more than the lengths below it, and fewer than a third of them
    end with the characters that two thirds of the shorter ones end with. Where hardly any is shorter, they have to be prose, and
    fewer than a third end with a mark. Answers of a fixed form end alike at any length, and a dataset without its longest
    answers has no heap.
    """
    said = [(text.rstrip(), n) for text, n in zip(texts, lengths, strict=True) if n and text.strip()]
    counts = Counter(n for _, n in said)
    longest = max(counts, default=0)
    if longest < SHORTEST:
        return None
    at = max((n for n in counts if 2 * n > longest), key=lambda n: counts[n])
    those = {text for text, n in said if n == at}
    below = sum(counts[n] for n in range(at // 2, at)) / (at - at // 2)
    exceed = sum(count for n, count in counts.items() if n > at)
    if at < SHORTEST or len(those) < FEWEST or counts[at] < HEAP * below or 10 * exceed > counts[at]:
        return None
    ends = Counter(text[-1] for text, n in said if n < at)
    if ends.total() >= FEWEST:
        usual, covered = set[str](), 0
        for end, count in ends.most_common():
            if 3 * covered < 2 * ends.total():
                usual.add(end)
                covered += count
    elif 2 * sum(len(WORDS.findall(text)) >= SHORTEST // 2 for text in those) > len(those):
        usual = CLOSING
    else:
        return None
    return (at, counts[at]) if 3 * sum(text[-1] in usual for text in those) < len(those) else None
