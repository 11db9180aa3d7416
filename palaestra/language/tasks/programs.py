"""Programs from descriptions: HumanEval (Chen et al., 2021, arXiv:2107.03374) and MBPP (Austin et al., 2021, arXiv:2108.07732).

Both are read from their published files, which palaestra does not ship. Answers are run in the sandbox, in which tests see
nothing of a program but the functions they are for: helpers and imports that tests use are the data's own.
"""

from __future__ import annotations

import ast
import gzip
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any, ClassVar

from palaestra.core.errors import BadDataset, BadSetting, require, unknown
from palaestra.core.hints import PositiveInt
from palaestra.data.real import real_data
from palaestra.language.judges.judge import Judge
from palaestra.language.rows import Row, Rows
from palaestra.language.task import TextTask
from palaestra.language.verifiers.unit_tests import UnitTests

SPLITS = {"test": range(11, 511), "validation": range(511, 601), "train": range(601, 975)}
"""Of MBPP, by task, as published; tasks 1 to 10 are for prompts with examples."""


@dataclass
class ProgramTask(TextTask):
    """Base of the two. A subclass names its `file` and makes rows of its lines."""

    file: ClassVar[str] = ""

    path: str = ""
    """The published file, or the folder it is in, anywhere or in the folder that `PALAESTRA_DATA` names."""
    limit: PositiveInt = 512
    """Tokens that an answer may have."""
    chat: bool = False
    """Ask in a message instead of plain text to go on from, for models that have been tuned to chat."""
    seconds: float = 10.0
    """What a program with its tests may take."""
    memory_mb: int = 512
    """Memory that they may take."""
    unsafe: bool = False
    """Run them without isolation where this machine offers none: only where nothing is to be lost."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.max_tokens = self.limit
        if self.chat:
            self.stop = ()

    def rows(self, split: str) -> Rows:
        if split not in self._splits:
            raise unknown("split", split, self._splits)
        return self._splits[split]

    @cached_property
    def _splits(self) -> dict[str, list[Row]]:
        path = self.place()
        try:
            return self.splits(read_problems(path))
        except KeyError as error:
            raise BadDataset(f"a line of {path} has no {error}") from None
        except (TypeError, SyntaxError) as error:
            raise BadDataset(f"a line of {path} is not as it should be: {error}") from None

    def place(self) -> Path:
        """Where the published file is."""
        path = Path(self.path).expanduser()
        found = path if path.exists() else real_data(self.path)
        return found / self.file if found.is_dir() else found

    def splits(self, problems: list[dict[str, Any]]) -> dict[str, list[Row]]:
        """Rows by split."""
        raise NotImplementedError

    def row(self, problem: Mapping[str, Any]) -> Row:
        """The row of a line of the file."""
        raise NotImplementedError

    def judge(self) -> Judge:
        # The sandbox has its own limit for each program; one for a batch would be a guess.
        tests = UnitTests(seconds=self.seconds, memory_mb=self.memory_mb, unsafe=self.unsafe)
        return Judge(tests, timeout=None, closes=[tests])


@dataclass
class HumanEval(ProgramTask):
    """164 functions to be completed from head and docstring, all of them held out.

    Helpers that a prompt gives are also the tests' own, so that an answer which defines them anew changes no test.
    """

    summary = "HumanEval: Python functions to be completed, judged by unit tests"
    file: ClassVar[str] = "HumanEval.jsonl.gz"
    stop = ("\nclass ", "\ndef ", "\n#", "\n@", "\nprint(", "\nif ", "\n```")
    evaluation_episodes: ClassVar[int] = 164

    path: str = "humaneval"

    def rows(self, split: str) -> Rows:
        if split == "train":
            raise BadSetting("HumanEval is for evaluation and has no prompts to learn from; MBPP has")
        return super().rows(split)

    def splits(self, problems: list[dict[str, Any]]) -> dict[str, list[Row]]:
        return {"test": [self.row(problem) for problem in problems]}

    def row(self, problem: Mapping[str, Any]) -> Row:
        head, name = problem["prompt"], problem["entry_point"]
        parts = ast.parse(head + problem["canonical_solution"]).body
        helpers = list(takewhile(lambda node: getattr(node, "name", None) != name, parts))
        solution = (head + problem["canonical_solution"]).strip()
        asked = (
            f"Complete this function, and answer with the whole program in one block:\n\n```python\n{head.strip()}\n```"
        )
        return {
            "prompt": [{"role": "user", "content": asked}] if self.chat else head,
            "completion": f"```python\n{solution}\n```" if self.chat else problem["canonical_solution"],
            "prefix": head,
            "tests": ["\n".join([*map(ast.unparse, helpers), problem["test"], f"check({name})"])],
            "entry_point": [name],
            "task_id": problem["task_id"],
        }


@dataclass
class MBPP(ProgramTask):
    """974 small programs from a sentence each, in the published splits: 500 held out, 374 to learn from.

    Four of the latter are left out, since their words, code or tests are those of a held-out one.
    """

    summary = "MBPP: small Python programs from a sentence, judged by unit tests"
    file: ClassVar[str] = "mbpp.jsonl"
    stop = ("[DONE]", '\n"""', "\n```")

    path: str = "mbpp"
    shown: int = 1
    """Tests that a prompt shows. One tells how the function is called; the paper shows all three, which are enough to pass."""

    def __post_init__(self) -> None:
        require(self.shown >= 0, f"shown is a number of tests, got {self.shown}")
        super().__post_init__()

    def splits(self, problems: list[dict[str, Any]]) -> dict[str, list[Row]]:
        held_out = {key for problem in problems if problem["task_id"] in SPLITS["test"] for key in _keys(problem)}
        return {
            split: [
                self.row(problem)
                for problem in problems
                if problem["task_id"] in tasks and (split == "test" or held_out.isdisjoint(_keys(problem)))
            ]
            for split, tasks in SPLITS.items()
        }

    def row(self, problem: Mapping[str, Any]) -> Row:
        code, setup = (problem[name].replace("\r\n", "\n") for name in ("code", "test_setup_code"))
        tests = [*([setup] if setup else []), *problem["test_list"], *problem["challenge_test_list"]]
        used, tree = _names("\n".join(tests)), ast.parse(code)
        imports = [
            ast.unparse(n) for n in tree.body if isinstance(n, ast.Import) and used & {_bound(a) for a in n.names}
        ]
        text = "\n".join([problem["text"].strip(), *problem["test_list"][: self.shown]])
        asked = f"{text}\n\nAnswer with the program in one block of Python."
        return {
            "prompt": [{"role": "user", "content": asked}] if self.chat else f'"""\n{text}\n"""\n',
            "completion": f"```python\n{code.strip()}\n```" if self.chat else code,
            "tests": [*imports, *tests],
            "entry_point": sorted(used & {getattr(node, "name", "") for node in tree.body}),
            "task_id": problem["task_id"],
        }


def read_problems(path: Path) -> list[dict[str, Any]]:
    """The lines of a JSONL file, packed or not.

    Raises:
        BadDataset: it cannot be read.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else open(path, encoding="utf-8") as file:
            return [json.loads(line) for line in file if line.strip()]
    except (OSError, ValueError, EOFError) as error:
        raise BadDataset(f"{path} cannot be read as JSON lines: {error}") from error


def _keys(problem: dict[str, Any]) -> Iterable[str]:
    """What makes two problems the same: words, code or tests."""
    return (" ".join(str(problem[name]).lower().split()) for name in ("text", "code", "test_list"))


def _names(code: str) -> set[str]:
    return {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)}


def _bound(name: ast.alias) -> str:
    return (name.asname or name.name).partition(".")[0]
