"""The user's own prompts and reward functions as a task."""

from __future__ import annotations

import csv
import gzip
import json
import math
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, NoReturn

from palaestra.core import registry
from palaestra.core.errors import BadDataset, BadSetting, PalaestraError, require, unknown
from palaestra.core.method import labelled
from palaestra.language.judges.judge import Judge, RewardFunction, function_name, named_rewards
from palaestra.language.judges.kinds import PairJudge
from palaestra.language.preferences import Ranked, best_of, explicit, is_pair, kind_of, ranked_of
from palaestra.language.task import Environment, Generated, Row, Rows, TextTask
from palaestra.language.tools import Tools

FILES = (".jsonl", ".ndjson", ".json", ".csv", ".parquet", ".gz")
"""Endings of the files that rows are read from; what is packed by gzip is JSON lines."""
TEST_SPLITS = ("test", "validation", "valid", "dev", "eval")
"""Splits that are held out when data bring them, the first of these that is there."""
REWARD = "a reward: a function in trl's signature, or where it is, such as rewards.py:score"
NOT_KEPT = "not kept"
"""Marks, in a run's config.yaml, what was given as an object and cannot be made again from it."""


Data = Path | Sequence[Any] | Mapping[str, Any]
"""Rows, splits of rows by name, or a place; also a Hugging Face dataset or a data frame."""


@dataclass
class PromptTask(TextTask):
    """Rows to learn from and functions that score answers, both as trl takes them.

    `data` is a list of rows, a Hugging Face dataset, splits of these by name, or text: a file (JSONL, JSON, CSV, Parquet), a
    folder with such files or one that `save_to_disk` left, or a dataset's name on the hub. A row has a `prompt` (text, or
    messages), perhaps a `completion`, or `messages` whose last answer is the completion, and columns that rewards need. Or it
    is one of preferences (`palaestra.language.preferences`): where `chosen` and `rejected` come without a prompt it is found,
    both become text, and the best answer is the `completion`.

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
    column: str = "prompt"
    """The column that has the prompt."""
    subset: str = ""
    """Which configuration of a dataset on the hub."""
    limit: int = 256
    """Tokens that an answer may have."""
    stops: tuple[str, ...] = ()
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
    """Seconds that a reward function may take for a batch; None for no limit."""
    on_error: Literal["stop", "skip"] = "stop"
    """Whether a reward function that fails ends the run or costs its answers."""
    digest: str = ""
    """Hash of the rows; where it is given, other rows are refused, so that a run does not go on with other data."""

    def __post_init__(self) -> None:
        require(0 <= self.held_out < 1, f"held_out is a share of at least 0 and below 1, got {self.held_out}")
        require(self.limit >= 1, f"limit must be at least 1, got {self.limit}")
        for name in ("data", "test", "reward", "compare", "tools"):
            self._refuse_what_is_not_kept(name)
        self.stops = tuple(self.stops)
        vars(self)["max_tokens"], vars(self)["stop"] = self.limit, self.stops
        require(self.faulty in ("stop", "skip"), f"faulty is stop or skip, got {self.faulty!r}")
        self.rewards = {} if self.reward is None else find_rewards(self.reward)
        if self.rewards:
            with self.judge():
                pass  # refuses weights that do not fit
        self.comparing: PairJudge | None = None if self.compare is None else _function(self.compare, "pair judge")
        require(self.comparing is None or callable(self.comparing), f"a pair judge is a function, got {self.compare!r}")
        self.toolbox = (
            None if self.tools is None else Tools([_function(t, "tool") for t in _each(self.tools)], self.turns)
        )
        self._train, self._test = self._splits()
        require(
            self.toolbox is None or not isinstance(self._train[0]["prompt"], str),
            "tools are described to a model by its chat template, and need prompts in messages",
        )
        if not self.rewards and self.comparing is None and "completion" not in self._train[0]:
            raise BadSetting(f"prompts need {REWARD}, or compare, unless their rows have answers to learn from")
        for name in ("data", "test", "compare"):
            setattr(self, name, _absolute(getattr(self, name)))  # a run may be resumed from elsewhere
        if isinstance(self.reward, Mapping):
            self.reward = {str(name): _absolute(one) for name, one in self.reward.items()}
        elif self.reward is not None:
            self.reward = [_absolute(one) for one in _each(self.reward)]
        if self.tools is not None:
            self.tools = [_absolute(one) for one in _each(self.tools)]
        digest = _digest([*self._train.contents, "", *self._test.contents])
        if self.digest not in ("", digest):
            raise BadDataset(f"{self.name} has other rows than the run that is to go on was started with")
        self.digest = digest

    @property
    def name(self) -> str:
        if not isinstance(self.data, str | Path):
            return "prompts"
        path = Path(self.data)
        return path.stem if path.suffix in FILES else path.name

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
        return rows if box is None else Generated(len(rows), lambda i: {**rows[i], "tools": box.descriptions})

    def environment(self, row: Row) -> Environment | None:
        return None if self.toolbox is None else self.toolbox.environment(row)

    def judge(self) -> Judge:
        if not self.rewards:
            raise BadSetting(f"to score answers, {self.name} needs {REWARD}; its rows alone say nothing about new ones")
        return Judge(self.rewards, self.weights, timeout=self.timeout, on_error=self.on_error)

    def pair_judge(self) -> PairJudge:
        return super().pair_judge() if self.comparing is None else self.comparing

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
            raise BadSetting("prompts need data: rows, a file, a folder or a dataset's name")
        splits = open_splits(self.data, self.subset)
        where = str(self.data) if isinstance(self.data, str | Path) else "the data"
        train = splits.get("train") if len(splits) > 1 else next(iter(splits.values()))
        if train is None:
            raise BadDataset(f"{where} has the splits {', '.join(splits)}, but none is called train")
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

    def _opened(self, source: Rows, where: str) -> PromptRows:
        return PromptRows(source, self.column, where, self.faulty, judged=bool(self.rewards))


class PromptRows(Sequence[Row]):
    """Rows as tasks have them, made from `source` when they are looked at; all of them are checked first.

    What is `faulty` stops that, or is skipped. Of rows that are `judged`, a `label` or `score` is the judge's affair.

    Raises:
        BadDataset: a row has no prompt, an empty one, NaN, or a prompt of another kind than the first row's; or its answers make
            no preference (`ranked_of`).
    """

    def __init__(self, source: Rows, column: str, where: str, faulty: str = "stop", judged: bool = True):
        if len(source) == 0:
            raise BadDataset(f"{where} holds no rows")
        self.source, self.column = source, column
        self.places: list[int] = []
        self.keys: list[str] = []
        """What says whether two prompts are the same, for each row."""
        self.contents: list[str] = []
        """What says whether two rows are the same, but for columns of rewards."""
        kind, wrong = None, list[str]()
        for i, row in enumerate(_without_media(source)):
            try:
                made, ranked = _checked(row, column, f"row {i} of {where}", judged)
            except BadDataset as error:
                if faulty == "stop":
                    raise
                wrong.append(str(error))
                continue
            if kind not in (None, type(made["prompt"])):
                raise BadDataset(
                    f"row {i} of {where} has a prompt in {_kind(made['prompt'])}, but those before have {_kind(kind())}; "
                    "let all be text, or all messages"
                )
            kind = type(made["prompt"])
            self.places.append(i)
            self.keys.append(
                _key(made["prompt"]) + (f" {i}" if {"image", "images"} & set(_columns(source, row)) else "")
            )
            self.contents.append(self.keys[-1] if ranked is None else _digest([self.keys[-1], repr(ranked)]))
        if not self.places:
            raise BadDataset(f"all rows of {where} are wrong; the first: {wrong[0]}")
        if wrong:
            warnings.warn(
                f"{len(wrong)} of {len(source)} rows of {where} are wrong and left out; the first: {wrong[0]}",
                stacklevel=5,
            )

    def where(self, keep: Callable[[str], bool]) -> PromptRows:
        """Those rows whose key is to be kept."""
        return self.at([i for i, key in enumerate(self.keys) if keep(key)])

    def at(self, places: Sequence[int]) -> PromptRows:
        """Some of the rows."""
        some = PromptRows.__new__(PromptRows)
        some.source, some.column = self.source, self.column
        for name in ("places", "keys", "contents"):
            setattr(some, name, [getattr(self, name)[i] for i in places])
        return some

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return _row(self.source[self.places[index]], self.column)


def open_splits(data: Any, subset: str = "") -> dict[str, Rows]:
    """The splits of what a user gives as data, by name; data without splits are one called train.

    Raises:
        BadDataset: there is nothing of that kind there, or it cannot be read.
    """
    if isinstance(data, Mapping):
        return {str(name): _rows(rows) for name, rows in data.items()}
    if not isinstance(data, str | Path):
        return {"train": _rows(data)}
    path = Path(data).expanduser()
    if path.is_dir():
        return _open_folder(path)
    if path.is_file() or path.suffix in FILES:
        return {"train": read_rows(path)}
    if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(data)):
        return _open_hub(str(data), subset)
    raise BadDataset(f"there is no file or folder {data}, and no dataset on the hub is called so")


def read_rows(path: Path) -> Rows:
    """The rows of one file, by its ending.

    Raises:
        BadDataset: it is not there, or not what its ending says.
    """
    if path.suffix not in FILES:
        raise BadDataset(f"{path} is none of the files that rows are read from: {', '.join(FILES)}")
    if not path.is_file():
        raise BadDataset(f"there is no file {path}")
    try:
        if path.suffix == ".parquet":
            return _datasets().Dataset.from_parquet(str(path))
        if path.suffix == ".csv":
            return _read_csv(path)
        if path.suffix == ".json":
            return _rows(_parse(path.read_text("utf-8-sig"), str(path)), str(path))
        with (
            gzip.open(path, "rt", encoding="utf-8-sig")
            if path.suffix == ".gz"
            else open(path, encoding="utf-8-sig") as file
        ):
            return [_parse(line, f"line {i} of {path}") for i, line in enumerate(file, 1) if line.strip()]
    except PalaestraError:
        raise
    except Exception as error:  # whatever a reader of Parquet, CSV or text has to say
        raise BadDataset(f"{path} cannot be read: {type(error).__name__}: {_line(error)}") from error


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


def _rows(data: Any, where: str = "") -> Rows:
    """Data as rows, refused if they cannot be asked for by number."""
    if hasattr(data, "columns") and hasattr(data, "to_dict"):  # a data frame of pandas
        return data.to_dict("records")
    if isinstance(data, str | bytes | Mapping) or not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        what = f"{where} holds a {type(data).__name__}" if where else f"got a {type(data).__name__}"
        streams = "; a dataset that is streamed has no rows by number" if hasattr(data, "__iter__") else ""
        raise BadDataset(f"data are a list of rows, or a dataset with len and [i], {what}{streams}")
    return data


def _open_folder(path: Path) -> dict[str, Rows]:
    """The splits of a folder: what `save_to_disk` left, or files, by the split that begins their names."""
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        try:
            return open_splits(_datasets().load_from_disk(str(path)))
        except PalaestraError:
            raise
        except Exception as error:
            raise BadDataset(f"{path} cannot be read: {type(error).__name__}: {_line(error)}") from error
    found = [file for file in sorted(path.iterdir()) if file.suffix in FILES]
    if not found:
        raise BadDataset(f"{path} holds no rows: no file ends in {', '.join(FILES)}")
    splits: dict[str, list[Rows]] = {}
    for file in found:
        named = re.match(rf"(train|{'|'.join(TEST_SPLITS)})(?![a-z])", file.name)
        splits.setdefault(named[1] if named else "train", []).append(read_rows(file))
    return {
        name: parts[0] if len(parts) == 1 else [row for part in parts for row in part] for name, parts in splits.items()
    }


def _open_hub(name: str, subset: str) -> dict[str, Rows]:
    try:
        return open_splits(_datasets().load_dataset(name, subset or None))
    except PalaestraError:
        raise
    except Exception as error:
        raise BadDataset(
            f"there is no file or folder {name}, and no dataset of this name could be had from the Hugging Face hub "
            f"({type(error).__name__}: {_line(error)}); without network, download it elsewhere and name the folder or file"
        ) from error


def _datasets() -> Any:
    try:
        import datasets
    except ImportError:
        raise PalaestraError("this needs Hugging Face's datasets: pip install datasets") from None
    return datasets


def _read_csv(path: Path) -> list[Row]:
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader, rows = csv.DictReader(file, strict=True), list[Row]()
        for row in reader:
            if None in row or None in row.values():
                raise BadDataset(f"line {reader.line_num} of {path} has not as many values as the first line has names")
            rows.append(row)
    return rows


def _parse(text: str, where: str) -> Any:
    def refuse(constant: str) -> NoReturn:
        raise BadDataset(f"{where} holds {constant}, which is no number in JSON; give it a value, or leave it out")

    try:
        return json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise BadDataset(f"{where} is no JSON: {_line(error)}") from None


def _checked(row: Any, column: str, where: str, judged: bool) -> tuple[Row, Ranked | None]:
    """The row as tasks have it, with its preference if it is one, or an error that says what is wrong with it."""
    if not isinstance(row, Mapping):
        raise BadDataset(f"{where} is a {type(row).__name__}, but rows map names of columns to values")
    if column not in row and "messages" not in row and not is_pair(row):
        raise BadDataset(
            f"{where} has no '{column}'; it has {', '.join(map(str, row)) or 'nothing'} (column='...' names another)"
        )
    for name, value in row.items():
        if isinstance(value, float) and math.isnan(value):
            raise BadDataset(f"{where} has NaN as '{name}'; give it a value, or leave the row out")
    made = _row(row, column, where)
    prompt = made["prompt"]
    if isinstance(prompt, str):
        if not prompt.strip():
            raise BadDataset(f"{where} has an empty prompt")
    elif not isinstance(prompt, list) or not all(
        isinstance(m, Mapping) and isinstance(m.get("role"), str) for m in prompt
    ):
        raise BadDataset(f"{where} has {_kind(prompt)} as prompt; a prompt is text, or messages with role and content")
    elif not any(message.get("content") for message in prompt):
        raise BadDataset(f"{where} has an empty prompt: no message says anything")
    if not isinstance(made.get("completion", ""), str):
        raise BadDataset(
            f"{where} has {_kind(made['completion'])} as completion; that is text, or an assistant's message"
        )
    kind = kind_of(made)
    if kind is None or (judged and "completion" in kind):
        return made, None
    return made, ranked_of(made, where)


def _row(row: Row, column: str, where: str = "") -> dict[str, Any]:
    """A row of trl's kinds with `prompt`, and with `completion` as text where it has one."""
    made = dict(row)
    if column in made and column != "prompt":
        made["prompt"] = made.pop(column)
    if is_pair(made):
        made = explicit(made, where)
    elif "prompt" not in made:
        messages = list(made.pop("messages") or [])
        answered = bool(messages) and isinstance(messages[-1], Mapping) and messages[-1].get("role") == "assistant"
        made["prompt"] = messages[:-1] if answered else messages
        if answered:
            made["completion"] = messages[-1].get("content")
    if isinstance(made["prompt"], tuple):
        made["prompt"] = list(made["prompt"])
    completion = made.get("completion")
    if isinstance(completion, list | tuple) and completion and isinstance(completion[-1], Mapping):
        made["completion"] = completion[-1].get("content")
    if made.get("completion", "") is None:
        del made["completion"]
    if "completion" not in made and kind_of(made):
        made["completion"] = best_of(ranked_of(made, where))
    return made


def _kind(value: Any) -> str:
    kinds = {str: "text", list: "messages", type(None): "nothing"}
    return kinds.get(type(value)) or f"a {type(value).__name__}"


def _columns(source: Rows, row: Row) -> Iterable[str]:
    return getattr(source, "column_names", None) or row.keys()


def _without_media(source: Any) -> Iterable[Any]:
    """The rows without pictures and sounds, which are slow to read and are not checked."""
    features = getattr(source, "features", None) or {}
    media = [name for name, feature in features.items() if re.search("Image|Audio|Video", repr(feature))]
    source = source.remove_columns(media) if media else source
    return source if hasattr(source, "__iter__") else (source[i] for i in range(len(source)))


def _key(prompt: str | Sequence[Mapping[str, Any]]) -> str:
    """What two prompts have in common that are the same."""
    if isinstance(prompt, str):
        return " ".join(prompt.split())
    return json.dumps([[message["role"], message.get("content")] for message in prompt], default=str)


def _held_out(keys: Sequence[str], share: float) -> set[str]:
    """The keys whose hash is among the first `share` of all hashes, or the one with the first if none is."""
    places = {key: int.from_bytes(blake2b(key.encode(errors="replace"), digest_size=7).digest(), "big") for key in keys}
    held = {key for key, place in places.items() if place < share * 2.0**56}
    if share and len(places) > 1 and (not held or len(held) == len(places)):
        first = min(places, key=places.__getitem__)
        return {first}
    return held if len(places) > 1 else set()


def _digest(keys: Iterable[str]) -> str:
    digest = blake2b(digest_size=8)
    for key in keys:
        digest.update(key.encode(errors="replace") + b"\0")
    return digest.hexdigest()


def _each(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _absolute(place: Any) -> Any:
    """Where data or a function are, from any folder."""
    if not isinstance(place, str | Path):
        return place
    file, colon, attribute = str(place).rpartition(":")
    if colon and file.endswith(".py"):
        return f"{Path(file).resolve()}:{attribute}"
    path = Path(place).expanduser()
    return str(path.resolve()) if path.exists() else str(place)


def _kept(value: Any) -> Any:
    """How data or a function are found again, or what they were if they are not."""
    if isinstance(value, str):
        return value
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", "")
    if name and getattr(sys.modules.get(str(module)), name, None) is value:
        where = registry.source_of(value)
        if not where.startswith("__main__:"):
            return where
    return {NOT_KEPT: f"the function {name}" if name else f"a {type(value).__name__}"}


def _line(error: BaseException) -> str:
    """What an error says, on one line of sensible length."""
    said = " ".join(str(error).split())
    return said if len(said) <= 300 else f"{said[:300]}…"
