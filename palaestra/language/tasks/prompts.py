"""The user's own prompts and reward functions as a task."""

from __future__ import annotations

import random
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

from palaestra.core import registry
from palaestra.core.errors import BadDataset, BadSetting, require, unknown
from palaestra.core.hints import NonNegativeInt, PositiveInt
from palaestra.core.method import labelled
from palaestra.core.seeding import seed_for
from palaestra.language.judges.judge import Judge, RewardFunction, function_name, named_rewards
from palaestra.language.judges.kinds import PairJudge
from palaestra.language.judges.wrappers import Guarded
from palaestra.language.rows import Row, Rows
from palaestra.language.task import Environment, TextTask
from palaestra.language.tasks.prompt_rows import PromptRows, digest_of
from palaestra.language.tasks.sources import FILES, TEST_SPLITS, open_splits
from palaestra.language.tools import Tools

REWARD = "a reward: a function in trl's signature, or where it is, such as rewards.py:score"
NOT_KEPT = "not kept"
"""Marks, in a run's config.yaml, what was given as an object and cannot be made again from it."""


Data = Path | Sequence[Any] | Mapping[str, Any]
"""Rows, splits of rows by name, or a place; also a Hugging Face dataset or a data frame."""


@dataclass
class PromptTask(TextTask):
    """Rows to learn from and functions that score answers, both as trl takes them.

    `data` is a list of rows, a Hugging Face dataset, splits of these by name, or text: a file (JSONL, JSON, CSV, Parquet), a
    folder with such files or one that `save_to_disk` left, a dataset's name on the hub, or several of these with commas between.
    A row has a `prompt` (text, or messages), perhaps a `completion`, or `messages` whose last answer is the completion, and
    columns that rewards need. Or it is one of preferences (`palaestra.language.preferences`): where `chosen` and `rejected` come
    without a prompt it is found, both become text, and the best answer is the `completion`.

    `reward` is a function in trl's signature, a list of them or {name: function}, each also as text: `file.py:function` or
    `module:function`. Rows that have answers to learn from need none; then nothing can be scored, and nothing is evaluated. A
    run whose data and rewards are named by text, or are functions that a file defines, is resumed from its folder alone.

    `compare` is a pair judge (`palaestra.language.judges.kinds`), named like rewards, for methods that compare answers.

    `tools` are functions, or classes whose methods are, that answers may call (`palaestra.language.tools`), named like rewards.

    Raises:
        BadDataset: there are no such data, or a row is wrong.
        BadSetting: a setting makes no sense, or the task is of a run whose data were given as an object.
    """

    summary = "Your own prompts and reward functions"

    data: str | Data | None = None
    """Rows, or where they are."""
    reward: str | tuple[str, ...] | RewardFunction | Sequence[Any] | Mapping[str, Any] | None = None
    """What scores answers, or where it is."""
    test: str | Data | None = None
    """Held-out rows as `data`, or the name of a split; by default the split called test or validation, else by hash."""
    weights: tuple[float, ...] | Mapping[str, float] | None = None
    """A weight for each reward function, in their order or by name; 1 by default."""
    held_out: float = 0.1
    """Share of the prompts that is held out by their hash, at least one, where the data have no test split; 0 for none."""
    train_rows: int = 0
    """Rows that are learnt from, drawn from all there are, so that data of several sizes can be compared; 0 takes all."""
    draw: int = 0
    """Seed of that draw."""
    column: str = "prompt"
    """The column that has the prompt."""
    subset: str = ""
    """Which configuration of a dataset on the hub."""
    split: str = "train"
    """Which of several splits is learnt from."""
    limit: PositiveInt = 256
    """Tokens that an answer may have."""
    stops: tuple[str, ...] | str = ()
    """Texts that end an answer."""
    faulty: Literal["stop", "skip"] = "stop"
    """Whether a row that is wrong is an error or is left out."""
    tools: str | tuple[str, ...] | Callable[..., Any] | Sequence[Any] | None = None
    """What answers may call: functions, or classes of which each answer has an object, or where they are."""
    turns: int = 8
    """Turns of an answer that may call tools."""
    compare: str | PairJudge | None = None
    """What says which of two answers is better, or where it is; by default the one with the better reward is."""
    timeout: float | None = 60.0
    """Seconds that a reward function or a pair judge may take for a batch, or a tool for a call; None for no limit."""
    on_error: Literal["stop", "skip"] = "stop"
    """Whether a reward function that fails ends the run or costs its answers; pairs without a verdict are ties."""
    samples: NonNegativeInt = 0
    """Answers to each held-out prompt that an evaluation samples, at temperature 1; 0 takes the likeliest one."""
    digest: str = ""
    """Hash of the rows; where it is given, other rows are refused, so that a run does not go on with other data."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.held_out < 1, f"held_out is a share of at least 0 and below 1, got {self.held_out}")
        for name in ("data", "test", "reward", "compare", "tools"):
            self._refuse_what_is_not_kept(name)
        self.reward, self.tools = _apart(self.reward), _apart(self.tools)
        self.stops = tuple(_each(self.stops))
        self.max_tokens, self.stop = self.limit, self.stops
        self.sampled, self.evaluation_answers = self.samples > 0, max(1, self.samples)
        require(self.faulty in ("stop", "skip"), f"faulty is stop or skip, got {self.faulty!r}")
        self.rewards = {} if self.reward is None else find_rewards(self.reward)
        if self.rewards:
            with self.judge():
                pass  # refuses weights that do not fit
        self.comparing: PairJudge | None = None if self.compare is None else _function(self.compare, "pair judge")
        require(self.comparing is None or callable(self.comparing), f"a pair judge is a function, got {self.compare!r}")
        self.toolbox = (
            None
            if self.tools is None
            else Tools([_function(t, "tool") for t in _each(self.tools)], self.turns, self.timeout)
        )
        self._train, self._test = self._splits()
        self._train = self._train.at(self._drawn(len(self._train)))
        require(
            self.toolbox is None or not isinstance(self._train[0]["prompt"], str),
            "tools are described to a model by its chat template, and need prompts in messages",
        )
        for name in ("data", "test", "compare"):
            setattr(self, name, _absolute(getattr(self, name)))  # a run may be resumed from elsewhere
        if isinstance(self.reward, Mapping):
            self.reward = {str(name): _absolute(one) for name, one in self.reward.items()}
        elif self.reward is not None:
            self.reward = [_absolute(one) for one in _each(self.reward)]
        if self.tools is not None:
            self.tools = [_absolute(one) for one in _each(self.tools)]
        digest = digest_of([*self._train.contents, "", *self._test.contents])
        if self.digest not in ("", digest):
            raise BadDataset(f"{self.name} has other rows than the run that is to go on was started with")
        self.digest = digest

    @property
    def name(self) -> str:
        if not isinstance(self.data, str | Path):
            return "prompts"
        places = [Path(self.data)] if Path(self.data).exists() else [Path(place) for place in str(self.data).split(",")]
        return "+".join(place.stem if place.suffix in FILES else place.name for place in places)

    @property
    def label(self) -> str:
        others = {name: value for name, value in self._changed().items() if name not in ("weights", "digest")}
        judges = {"reward": "+".join(self.rewards)} if self.rewards else {}
        if self.comparing is not None:
            judges["compare"] = function_name(self.comparing)
        return labelled(self.name, judges | others)

    @property
    def evaluates(self) -> bool:
        return bool(self.rewards) and super().evaluates

    def rows(self, split: str) -> Rows:
        known = {"train": self._train, "test": self._test}
        if split not in known:
            raise unknown("split", split, known)
        rows, box = known[split], self.toolbox
        return rows if box is None else rows.adding(tools=box.descriptions)

    def environment(self, row: Row) -> Environment | None:
        return None if self.toolbox is None else self.toolbox.environment(row)

    def judge(self) -> Judge:
        if not self.rewards:
            alone = "its rows alone say nothing about new ones"
            if self.comparing is not None:
                alone = "its pair judge compares answers and scores none, for methods such as inpo or iterated-dpo"
            raise BadSetting(f"to score answers, {self.name} needs {REWARD}; {alone}")
        return Judge(self.rewards, self.weights, timeout=self.timeout, on_error=self.on_error)

    def pair_judge(self) -> PairJudge:
        return super().pair_judge() if self.comparing is None else Guarded(self.comparing, self.timeout, self.on_error)

    def gold_pair_judge(self) -> PairJudge:
        return super().gold_pair_judge() if self.comparing is None else self.pair_judge()

    def lasting_judges(self) -> dict[str, Any]:
        return self.rewards if self.comparing is None else {**self.rewards, "pair judge": self.comparing}

    def describe(self) -> dict[str, Any]:
        kept = {name: _kept(getattr(self, name)) for name in ("data", "test") if getattr(self, name) is not None}
        if isinstance(self.reward, Mapping):
            kept["reward"] = {name: _kept(one) for name, one in self.reward.items()}
        for name in ("reward", "compare", "tools"):
            if name not in kept and getattr(self, name) is not None:
                several = [_kept(one) for one in _each(getattr(self, name))]
                kept[name] = several[0] if len(several) == 1 else several
        return {"kind": "prompts", "spec": registry.source_of(type(self)), "kwargs": kept | self._changed()}

    def _changed(self) -> dict[str, Any]:
        """Settings that are not the default ones, except what may be an object."""
        others = (f for f in fields(self) if f.name not in ("data", "test", "reward", "compare", "tools"))
        return {f.name: getattr(self, f.name) for f in others if getattr(self, f.name) != f.default}

    def _refuse_what_is_not_kept(self, name: str) -> None:
        value = getattr(self, name)
        for part in [value, *value.values()] if isinstance(value, Mapping) else _each(value):
            if isinstance(part, Mapping) and set(part) == {NOT_KEPT}:
                raise BadSetting(
                    f"the {name} of this run was given as {part[NOT_KEPT]}, which its folder does not hold; resume it with the "
                    "same call in Python and resume=True, or name files next time (data='rows.jsonl', reward='rewards.py:score')"
                )

    def _splits(self) -> tuple[PromptRows, PromptRows]:
        if self.data is None:
            raise BadSetting("prompts need data: rows, a file, a folder or a dataset's name (--task.data, or data=...)")
        splits = open_splits(self.data, self.subset)
        where = str(self.data) if isinstance(self.data, str | Path) else "the data"
        alone = len(splits) == 1 and self.split == "train"  # whatever it is called
        train = next(iter(splits.values())) if alone else splits.get(self.split)
        if train is None:
            raise BadDataset(
                f"{where} has the splits {', '.join(splits)}, but none is called {self.split} "
                "(--task.split, or split='...', names one)"
            )
        rows = self._opened(train, where)
        test: PromptRows | None = None
        if isinstance(self.test, str) and self.test in splits:
            test = self._opened(splits[self.test], f"the split {self.test} of {where}")
        elif self.test is not None:
            given = open_splits(self.test, self.subset)
            source = next((given[name] for name in (*TEST_SPLITS, "train") if name in given), None)
            test = self._opened(source or next(iter(given.values())), "the test rows")
        elif found := next((name for name in TEST_SPLITS if name in splits), None):
            test = self._opened(splits[found], f"the split {found} of {where}")
        if test is None:
            held = _held_out(rows.keys, self.held_out)
            return rows.where(lambda key: key not in held), rows.where(lambda key: key in held)
        held = set(test.keys)
        kept = rows.where(lambda key: key not in held)
        if not len(kept):
            raise BadDataset(f"every prompt of {where} is held out too, so that none is left to learn from")
        if len(kept) < len(rows):
            warnings.warn(
                f"{len(rows) - len(kept)} of {len(rows)} rows of {where} have a prompt that is held out, and are not learnt from",
                stacklevel=4,
            )
        return kept, test

    def _drawn(self, count: int) -> list[int]:
        """The places of the rows that are learnt from, of `count`; of two numbers of rows, the fewer are among the more."""
        require(
            0 <= self.train_rows <= count, f"train_rows is 0 or a number of the {count} rows, got {self.train_rows}"
        )
        order = random.Random(seed_for(self.draw, "train_rows")).sample(range(count), count)
        return sorted(order[: self.train_rows or count])

    def _opened(self, source: Rows, where: str) -> PromptRows:
        return PromptRows(source, self.column, where, self.faulty, judged=bool(self.rewards))


def find_rewards(reward: Any) -> dict[str, RewardFunction]:
    """Reward functions by name, from functions or what `registry.locate` finds.

    Raises:
        BadSetting: something is no function, or the list is empty.
    """
    if isinstance(reward, Mapping):
        return named_rewards({str(name): _function(one, "reward") for name, one in reward.items()})
    return named_rewards([_function(one, "reward") for one in _each(reward)])


def _function(given: Any, kind: str) -> Any:
    """A function, or what `registry.locate` finds by its name; `kind` is what it is wanted for."""
    if not isinstance(given, str):
        return given
    require(":" in given, f"a {kind}'s name is file.py:function or module:function, got '{given}'")
    found = registry.locate(given)
    require(callable(found), f"{given} is a {type(found).__name__}, but a {kind} is a function")
    return found


def _held_out(keys: Sequence[str], share: float) -> set[str]:
    """The keys whose hash is among the first `share` of all hashes, or the one with the first if none is."""
    places = {key: int.from_bytes(blake2b(key.encode(errors="replace"), digest_size=7).digest(), "big") for key in keys}
    held = {key for key, place in places.items() if place < share * 2.0**56}
    if share and len(places) > 1 and (not held or len(held) == len(places)):
        first = min(places, key=places.__getitem__)
        return {first}
    return held if len(places) > 1 else set()


def _each(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _apart(places: Any) -> Any:
    """Text that names several functions, with commas between, as several texts."""
    if not isinstance(places, str) or Path(places.rpartition(":")[0]).exists():
        return places
    return [part.strip() for part in places.split(",")] if "," in places else places


def _absolute(place: Any) -> Any:
    """The place of data or of a function, with its path made absolute."""
    if not isinstance(place, str | Path):
        return place
    file, colon, attribute = str(place).rpartition(":")
    if colon and file.endswith(".py"):
        return f"{Path(file).resolve()}:{attribute}"
    if "," in str(place) and not Path(place).expanduser().exists():
        return ",".join(_absolute(part.strip()) for part in str(place).split(","))
    path = Path(place).expanduser()
    return str(path.resolve()) if path.exists() else str(place)


def _kept(value: Any) -> Any:
    """The name by which data or a function can be found again, or what they were if there is none, marked by `NOT_KEPT`."""
    if isinstance(value, str):
        return value
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", "")
    if name and getattr(sys.modules.get(str(module)), name, None) is value:
        where = registry.source_of(value)
        if not where.startswith("__main__:"):
            return where
    return {NOT_KEPT: f"the function {name}" if name else f"a {type(value).__name__}"}
