"""Programs judged by unit tests: a reward function in trl's signature, on top of the sandbox."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from palaestra.language.sandbox import Job, Sandbox
from palaestra.language.sandbox.sandbox import STATUSES
from palaestra.language.verifiers.verdict import answer_text

FENCE = re.compile(
    r"^[ \t]*+(`{3,}+|~{3,}+)[ \t]*+([\w+-]*+)[^\n]*+\n(.*?)(?:^[ \t]*\1[ \t]*$|\Z)", re.MULTILINE | re.DOTALL
)
"""A fenced piece. What is read of its first line is not given back: an endless fence would take time by its length squared."""
PYTHON = ("python", "python3", "py", "")


def code_in(text: str, defines: Sequence[str] = ()) -> str:
    """The program in an answer: what is fenced as Python, or the answer itself where nothing is.

    Of several fenced pieces it is the last that defines one of the names, else the last; one that was cut off counts. What
    stands before `</think>` is not looked at.
    """
    text = text.rpartition("</think>")[2].replace("\r\n", "\n")
    pieces = [code for _, language, code in FENCE.findall(text) if language.lower() in PYTHON]
    if not pieces:
        return text
    defining = [code for code in pieces if any(_defines(code, name) for name in defines)]
    return (defining or pieces)[-1]


def program_in(text: str, prefix: str = "", entry_point: str | Sequence[str] | None = None) -> str:
    """The whole program that an answer gives to a prompt whose own code is `prefix`: a function's head, say.

    An answer goes on where the prefix ends, unless it defines an entry point anew, at the beginning of a line.
    """
    names = [entry_point] if isinstance(entry_point, str) else list(entry_point or ())
    code = code_in(text, names)
    whole = not prefix or any(_defines(code, name) for name in names)
    return (f"{prefix}\n{code}" if prefix else code) if whole else prefix + code


def _defines(code: str, name: str) -> bool:
    return bool(
        re.search(rf"^(?:async[ \t]+def|def|class)[ \t]+{re.escape(name)}\b|^{re.escape(name)}\s*=", code, re.MULTILINE)
    )


class UnitTests:
    """A reward function: 1 for an answer whose program passes its tests, 0 for others; None where there are no tests, where they
    are no Python or use nothing of the program, or where the sandbox failed.

    It takes the columns `tests` (Python, as one text or several), `entry_point` (the name or names that tests take from the
    program) and `prefix` (code of the prompt that answers go on from). `counts` says how many answers had which status.
    """

    def __init__(self, sandbox: Sandbox | None = None, workers: int | None = None, **limits: Any):
        """Judge in `sandbox`, or in one with the given limits (`seconds`, `memory_mb`, …), that many programs at once."""
        self.sandbox = sandbox or Sandbox(**limits)
        self.workers = workers
        self.counts: Counter[str] = Counter()
        self.__name__ = "unit_tests"

    def __call__(
        self,
        completions: Sequence[Any],
        tests: Sequence[str | Sequence[str]],
        entry_point: Sequence[str | Sequence[str] | None] | None = None,
        prefix: Sequence[str | None] | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        names = entry_point or [None] * len(completions)
        heads = prefix or [None] * len(completions)
        jobs = [
            Job(program_in(answer_text(completion), head or "", name), test or "", name)
            for completion, test, name, head in zip(completions, tests, names, heads, strict=True)
        ]
        statuses = [verdict.status for verdict in self.sandbox.run_many(jobs, self.workers)]
        self.counts.update(statuses)
        if log_metric is not None and statuses:
            for status in STATUSES:  # those that did not occur, too: rows of metrics are means over what is reported
                log_metric(f"programs/{status}", statuses.count(status) / len(statuses))
        return [None if status == "error" else float(status == "passed") for status in statuses]

    def close(self) -> None:
        """End the sandbox's processes."""
        self.sandbox.close()


_shared: list[UnitTests] = []


def unit_test_reward(completions: Sequence[Any], tests: Sequence[Any], **columns: Any) -> list[float | None]:
    """`UnitTests` with the usual limits, in one sandbox for the whole process: a function that a name can stand for."""
    if not _shared:
        _shared.append(UnitTests())
    return _shared[0](completions, tests, **columns)
