"""Rows of a user's prompts as tasks have them, each checked before any is used."""

from __future__ import annotations

import copy
import difflib
import json
import math
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

from palaestra.core.errors import BadDataset
from palaestra.language.preferences import Ranked, best_of, cut_off, explicit, is_messages, is_pair, kind_of, ranked_of
from palaestra.language.rows import Row, Rows

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
"""Who speaks in the messages of most chat templates."""
READ = ("prompt", "completion", "chosen", "rejected", "completions")
"""Columns that models read."""


class PromptRows(Sequence[Row]):
    """Rows as tasks have them, made from `source` when they are looked at; all of them are checked first.

    What is `faulty` stops that, or is skipped. Of rows that are `judged`, a `label` or `score` is the judge's affair, but
    not the answer beside it.

    Raises:
        BadDataset: a row has no prompt, an empty one, NaN, or a prompt of another kind than the first row's; or its answers make
            no preference (`ranked_of`), or it has none to compare where other rows do.
    """

    def __init__(self, source: Rows, column: str, where: str, faulty: str = "stop", judged: bool = True):
        if len(source) == 0:
            raise BadDataset(f"{where} holds no rows")
        self.source, self.column, self.added = source, column, dict[str, Any]()
        self.places: list[int] = []
        self.keys: list[str] = []
        """A key for each row that is equal for equal prompts."""
        self.contents: list[str] = []
        """A key for each row that is equal where prompt and answers are."""
        kind, wrong = None, list[str]()
        kinds: list[tuple[str, str] | None] = []
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
            kinds.append(None if ranked is None else kind_of(made))
            self.places.append(i)
            self.keys.append(key_of(made["prompt"]) + (f" {i}" if shows(_columns(source, row)) else ""))
            told = made.get("completion") if ranked is None else repr(ranked)
            self.contents.append(self.keys[-1] if told is None else digest_of([self.keys[-1], told]))
        if columns := next(filter(None, kinds), None):
            bare = [self.places[k] for k, of in enumerate(kinds) if of is None]
            lacks = f"of {where} has no {' and '.join(columns)}, or nothing in them, while other rows have"
            if bare and faulty == "stop":
                raise BadDataset(f"row {bare[0]} {lacks}; give it some, or leave it out")
            wrong += [f"row {i} {lacks}" for i in bare]
            self._keep([k for k, of in enumerate(kinds) if of])
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
        vars(some).update(vars(self))
        some._keep(places)
        return some

    def adding(self, **columns: Any) -> PromptRows:
        """The rows, each with these columns besides its own."""
        some = copy.copy(self)
        some.added = self.added | columns
        return some

    def _keep(self, places: Sequence[int]) -> None:
        for name in ("places", "keys", "contents"):
            setattr(self, name, [getattr(self, name)[i] for i in places])

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row = _row(self.source[self.places[index]], self.column)
        return {**row, **self.added} if self.added else row


def _checked(row: Any, column: str, where: str, judged: bool) -> tuple[Row, Ranked | None]:
    """The row as tasks have it, with its preference if it is one, or an error that says what is wrong with it."""
    if not isinstance(row, Mapping):
        raise BadDataset(f"{where} is a {type(row).__name__}, but rows map names of columns to values")
    if column not in row and (column != "prompt" or ("messages" not in row and not is_pair(row))):
        raise BadDataset(
            f"{where} has no '{column}'; it has {', '.join(map(str, row)) or 'nothing'} "
            "(--task.column, or column='...', names the one with the prompt)"
        )
    for name, value in row.items():
        if isinstance(value, float) and math.isnan(value):
            raise BadDataset(f"{where} has NaN as '{name}'; give it a value, or leave the row out")
    made = _row(row, column, where)
    for name in READ:
        if not _is_unicode(made.get(name)):
            raise BadDataset(f"{where} has half of a character in its {name}, which no tokeniser reads; leave it out")
    prompt = made["prompt"]
    if isinstance(prompt, str):
        if not prompt.strip():
            raise BadDataset(f"{where} has an empty prompt")
        several = row.get("completions")
        answers = [row.get(name) for name in ("chosen", "rejected", "completion")]
        if any(map(is_messages, answers + (several if isinstance(several, list) else []))):
            raise BadDataset(
                f"{where} has a prompt in text and answers in messages; give the prompt as messages, or answers as text"
            )
    elif not isinstance(prompt, list) or not all(
        isinstance(m, Mapping) and isinstance(m.get("role"), str) for m in prompt
    ):
        raise BadDataset(f"{where} has {_kind(prompt)} as prompt; a prompt is text, or messages with role and content")
    elif not any(message.get("content") for message in prompt):
        raise BadDataset(f"{where} has an empty prompt: no message says anything")
    else:
        _refuse_misspelt_roles(prompt, where)
    if not isinstance(made.get("completion", ""), str):
        raise BadDataset(
            f"{where} has {_kind(made['completion'])} as completion; that is text, or an assistant's message"
        )
    kind = kind_of(made)
    if kind is None or (judged and "completion" in kind):
        if kind is not None:
            ranked_of({**made, kind[1]: 0}, where)  # the answer is one, whatever the judge's column says
        elif "completion" in made:
            cut_off(made, where)
        return made, None
    return made, ranked_of(made, where)


def _is_unicode(value: Any) -> bool:
    """Whether texts in a value can be written: JSON can name the halves of a pair of surrogates alone."""
    try:
        (
            value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, skipkeys=True, default=str)
        ).encode()
    except UnicodeEncodeError:
        return False
    return True


def _refuse_misspelt_roles(messages: Sequence[Mapping[str, Any]], where: str) -> None:
    """Raise `BadDataset` for a role that is almost one of the usual ones; a template may know others."""
    for role in dict.fromkeys(str(message["role"]) for message in messages):
        meant = difflib.get_close_matches(role, ROLES, n=1, cutoff=0.75)
        if meant and role not in ROLES:
            raise BadDataset(f"{where} has a message of the role '{role}'; did you mean '{meant[0]}'?")


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


def shows(columns: Iterable[str]) -> bool:
    """Whether a row with these columns shows a picture, so that its prompt may be the same as another's, which asks about it."""
    return bool({"image", "images"} & set(columns))


def key_of(prompt: str | Sequence[Mapping[str, Any]]) -> str:
    """A key that is equal for prompts that differ in white space at most."""
    if isinstance(prompt, str):
        return " ".join(prompt.split())
    return json.dumps([[message["role"], message.get("content")] for message in prompt], default=str)


def digest_of(keys: Iterable[str]) -> str:
    """A hash of texts in their order."""
    digest = blake2b(digest_size=8)
    for key in keys:
        digest.update(key.encode(errors="replace") + b"\0")
    return digest.hexdigest()
