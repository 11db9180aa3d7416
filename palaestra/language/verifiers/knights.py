"""Who is a knight and who a knave, read from an answer and put on a level of preference.

Levels and scores are those of TRPA (Su et al., 2025, arXiv:2504.04524), which has them from Logic-RL.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from palaestra.language.verifiers.format import between, tags_in_order
from palaestra.language.verifiers.verdict import RIGHT, Verdict, answer_text, each_row, unparseable, wrong

SCORES = {1: 3.0, 2: -0.5, 3: -1.0, 4: -3.0}
"""By level: all roles right; a wrong one; no roles to be read; bad tags."""
EMPTY = -1.0
"""Of good tags with no answer between them, which are on level 4 all the same."""


def roles_in(text: str, names: Sequence[str]) -> list[bool] | None:
    """Who is a knight according to a text; None unless it says exactly one thing about everybody.

    The words knight and knave must stand there once for each name, as whole words in "Name is a knight".
    """
    if len(re.findall(r"\b(?:knight|knave)\b", text, re.IGNORECASE)) != len(names):
        return None
    roles = []
    for name in names:
        found = re.findall(rf"\b{re.escape(name)}\s+is\s+a\s+(knight|knave)\b", text, re.IGNORECASE)
        if len(found) != 1:
            return None
        roles.append(found[0].lower() == "knight")
    return roles


def level(text: str, row: Mapping[str, Any]) -> int:
    """1 if all of the row's `roles` are found for its `names`, 2 if others are, 3 if none can be read; 4 if tags are amiss, or
    there is nothing between them."""
    inside = between(text)
    if not inside or not tags_in_order(text):
        return 4
    roles = roles_in(inside, row["names"])
    if roles is None:
        return 3
    return 1 if roles == list(row["roles"]) else 2


def knights(text: str, row: Mapping[str, Any]) -> Verdict:
    """Whether a text says of everybody what they are."""
    found = level(text, row)
    if found == 4:
        return unparseable("there is no answer between its tags" if tags_in_order(text) else "its tags are amiss")
    if found == 3:
        return unparseable("it says not exactly one thing about everybody")
    return RIGHT if found == 1 else wrong("a role is wrong")


def score(completions: Sequence[Any], **columns: Any) -> list[float]:
    """A reward function: the score of each answer's level."""
    rows = each_row(columns, len(completions))
    return [_score(answer_text(completion), row) for completion, row in zip(completions, rows)]


def _score(text: str, row: Mapping[str, Any]) -> float:
    found = level(text, row)
    return EMPTY if found == 4 and tags_in_order(text) else SCORES[found]
