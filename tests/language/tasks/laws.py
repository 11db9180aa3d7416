"""What every generated task must hold, as one check."""

from __future__ import annotations

import json
from typing import Any

from palaestra.language.sample import Sample
from palaestra.language.tasks.generated import GeneratedTask


def scores(task: Any, rows: list[Any], texts: list[str]) -> dict[str, list[float]]:
    """What a task's judge says about texts, by the name of the reward function, and in `total`."""
    import torch

    none = torch.zeros(0)
    samples = [Sample(none.long(), none.bool(), none, none, 0, text, False, row) for text, row in zip(texts, rows)]
    with task.judge() as judge:
        found = judge(samples)
    assert not found.failures
    return {"total": found.total.tolist(), **{name: part.tolist() for name, part in found.parts.items()}}


def holds(task: GeneratedTask, rows: int = 200, right: bool = True, part: str = "correct") -> None:
    """Raise `AssertionError` unless a task keeps the contract of generated tasks.

    Rows are a function of settings and index; no held-out problem is trained on; demonstrations score the best that they can
    (unless `right` is False), are short enough, and are their ids' text again without an unknown token; an empty answer scores 0.
    `part` is the name of the reward function.
    """
    train, test = task.rows("train"), task.rows("test")
    shown = [train[i] for i in range(rows)]
    again = type(task)(**{name: getattr(task, name) for name in task.describe()["kwargs"]})
    assert [again.rows("train")[i] for i in reversed(range(rows))] == shown[::-1]
    held = [test[i] for i in range(min(rows, len(test)))]
    assert not {row["prompt"] for row in shown} & {row["prompt"] for row in held}
    assert len({row["prompt"] for row in shown}) > 1
    json.dumps(task.describe())

    tokeniser = task.tokeniser()
    assert tokeniser is not None
    for row in [*shown, *held]:
        for text in (row["prompt"], row["completion"]):
            ids = tokeniser(text).input_ids
            assert tokeniser.unk_token_id not in ids, text
            assert tokeniser.decode(ids) == text
        assert len(tokeniser(row["completion"]).input_ids) + 1 <= task.max_tokens
    if right:
        assert set(scores(task, shown, [row["completion"] for row in shown])[part]) == {1.0}
    assert set(scores(task, shown, ["" for _ in shown])[part]) == {0.0}
