"""Mathematics in words from files: GSM8K, and JSONL as the MATH data have it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

from palaestra.core.errors import BadDataset, require, unknown
from palaestra.core.hints import PositiveInt
from palaestra.data.real import real_data
from palaestra.language.judges.judge import Judge
from palaestra.language.rows import Row, Rows
from palaestra.language.task import TextTask
from palaestra.language.tasks.generated import is_held_out
from palaestra.language.tasks.in_words import TAGGED, prompt_of
from palaestra.language.tasks.sources import TEST_SPLITS, open_splits
from palaestra.language.verifiers.format import ANSWER, ANSWERED, THINK, THOUGHT, Tagged
from palaestra.language.verifiers.numbers import final_answer, level, number
from palaestra.language.verifiers.verdict import Verified

QUESTIONS = ("question", "problem", "prompt")
"""Columns that a problem may be in, the first that is there."""
ANSWERS = ("solution", "completion", "answer")
"""Columns that a solution may be in, the first that is there; the last of them may have the final answer alone."""


@dataclass
class Maths(TextTask):
    """Problems with a final answer, from JSONL (or what else rows are read from) with `problem` and `solution` or `answer`.

    `path` is a file, or a folder with `train.jsonl` and `test.jsonl`, anywhere or in the folder that `PALAESTRA_DATA` names.
    The answer is the column `answer`, or what the solution puts last into `\\boxed{}` or after `####`. Without a test file a
    share of the problems is held out; problems of the test file are never trained on. Answers are compared exactly as numbers,
    else letter by letter after trivial differences of LaTeX are removed.
    """

    summary = "Mathematical problems with final answers, from files in the layout of MATH"
    asks: ClassVar[str] = "Put the final answer into \\boxed{}."
    mark: ClassVar[str] = "\\boxed{{{}}}"

    path: str = "math"
    """The file or folder."""
    limit: PositiveInt = 512
    """Tokens that an answer may have."""
    tags: bool = False
    """Ask for a thought and an answer between tags, instead of a marked answer."""
    format_weight: float = 0.0
    """Weight of a reward for tags that stand exactly once and in order; being right has weight 1."""
    anywhere: bool = False
    """Take the last number of an answer that marks none."""
    chat: bool = False
    """Ask in a message instead of plain text, for models that have been tuned to chat."""
    held_out: float = 0.1
    """Share of the problems that is held out where there is no test file."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.held_out < 1, f"held_out is a share between 0 and 1, got {self.held_out}")
        require(self.tags or not self.format_weight, "a reward for the format needs tags")
        self.max_tokens = self.limit

    def rows(self, split: str) -> Rows:
        if split not in ("train", "test"):
            raise unknown("split", split, ("train", "test"))
        return self._splits[split]

    @cached_property
    def _splits(self) -> dict[str, list[Row]]:
        path = Path(self.path).expanduser()
        read = open_splits(str(path if path.exists() else real_data(self.path)))
        rows = {
            name: [self._row(row, f"row {i} of {self.path}") for i, row in enumerate(part)]
            for name, part in read.items()
        }
        train = rows.get("train") or next(iter(rows.values()))
        test = next((rows[name] for name in TEST_SPLITS if name in rows), None)
        if test is None or test is train:
            test = [row for row in train if is_held_out(_key(row), self.held_out)]
        held = {_key(row) for row in test}
        return {"train": [row for row in train if _key(row) not in held], "test": test}

    def _row(self, row: Mapping[str, Any], where: str) -> Row:
        question = next((row[name] for name in QUESTIONS if name in row), None)
        given = [str(row[name]) for name in ANSWERS if row.get(name) is not None]
        if not isinstance(question, str) or not given:
            raise BadDataset(
                f"{where} needs {' or '.join(QUESTIONS)}, and {' or '.join(ANSWERS)}; it has {', '.join(row)}"
            )
        solution = self._solution(given[0])
        alone = final_answer(solution) is None and len(given) == 1 and "answer" in row
        answer = solution if alone else given[-1].strip() if len(given) > 1 else final_answer(solution)
        if not answer:
            raise BadDataset(
                f"{where} has no final answer: no column 'answer', and nothing in \\boxed{{}} or after ####"
            )
        if self.tags:
            solution = f"{THINK}{'' if alone else solution}{THOUGHT}{ANSWER}{answer}{ANSWERED}"
        elif alone or final_answer(solution) is None:
            solution = f"{'' if alone else solution} {self.mark.format(answer)}".strip()
        asked = f"{question.strip()}\n{TAGGED if self.tags else self.asks}\n"
        return {
            "prompt": prompt_of(asked, self.chat),
            "completion": solution,
            "question": question.strip(),
            "answer": answer,
            **{name: value for name, value in row.items() if name not in (*QUESTIONS, *ANSWERS)},
        }

    def _solution(self, text: str) -> str:
        return text.strip()

    def judge(self) -> Judge:
        correct = Verified(partial(number, anywhere=self.anywhere))
        if not self.tags:
            return Judge({"correct": correct})
        return Judge({"correct": correct, "format": Tagged()}, {"correct": 1.0, "format": self.format_weight})

    def level(self, text: str, row: Mapping[str, Any]) -> int:
        """The level of preference of an answer: 1 right, 2 wrong, 3 none to be read, 4 with bad tags if they are asked for."""
        return level(text, row, self.anywhere, self.tags)


@dataclass
class GSM8K(Maths):
    """Grade-school word problems (Cobbe et al., 2021, arXiv:2110.14168), by default from a folder `gsm8k`.

    Solutions end with `####` and the answer; their calculator annotations, such as `<<3+4=7>>`, are left out.
    """

    summary = "GSM8K: grade-school word problems with a number as answer"
    asks: ClassVar[str] = "Write the final number after ####."
    mark: ClassVar[str] = "#### {}"

    path: str = "gsm8k"

    def _solution(self, text: str) -> str:
        return re.sub(r"<<[^<>]*>>", "", text).strip()


def _key(row: Row) -> str:
    return " ".join(row["question"].split()).lower()
