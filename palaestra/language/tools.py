"""Functions as tools of a language model: their descriptions for its prompt, and what they say when it calls them.

A call is `<tool_call>{"name": ..., "arguments": {...}}</tool_call>` in an answer, as Hermes, Qwen and many others are trained to
write it. A call that cannot be carried out is told why, so that the model may mend it; so is one that fails or takes too long.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from palaestra.core.errors import BadSetting, PalaestraError, require
from palaestra.language.judges.calls import Caller, Failed
from palaestra.language.rows import Message
from palaestra.language.task import Environment

CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)
OWN = ("reset", "get_reward")
"""Methods of an environment that are no tools."""
LONGEST = 4000
"""Characters of a result that a model is told."""


class Tools:
    """Functions, or the public methods of environments: of a class, each answer has an object of its own, and its
    `reset(**row)` is called first where it has one, and awaited if need be.

    A function needs types and a docstring with a line for each argument, as `transformers.utils.get_json_schema` reads them. It
    runs in this process, with the rights that this has; programs of a model belong in the sandbox. A call may take `timeout`
    seconds, after which it is left behind (`palaestra.language.judges.calls`); with None there is no limit, and functions run in
    the caller's own thread, as those need that set signals; what they give is awaited if need be. A model is told the first
    `LONGEST` characters of a result.

    Raises:
        BadSetting: a tool without a description, or two of one name.
    """

    def __init__(self, tools: Sequence[Callable[..., Any]], turns: int = 8, timeout: float | None = 60.0):
        require(bool(tools), "there are no tools")
        require(turns >= 1, f"turns must be at least 1, got {turns}")
        require(timeout is None or timeout > 0, f"the time limit of a tool must be positive, got {timeout}")
        self.tools, self.turns, self.timeout = tuple(tools), turns, timeout
        self._caller = Caller()
        found = self.begin({})
        self._caller.close()  # tasks are made to be looked at, too, and never asked
        self.descriptions = [_description(name, tool) for name, tool in found.items()]

    def begin(self, row: Any) -> dict[str, Callable[..., Any]]:
        """The tools of one answer to `row`, by name; an empty row resets nothing.

        Raises:
            PalaestraError: an environment cannot be made or reset.
        """
        named: list[tuple[str, Callable[..., Any]]] = []
        for tool in self.tools:
            if not inspect.isclass(tool):
                named.append((tool.__name__, tool))
                continue
            # In the thread of its later calls: connections to databases are not to be used in another.
            there = self._call(partial(_begun, tool, row))
            if isinstance(there, Failed):
                raise PalaestraError(f"the environment {_fault(tool.__name__, there)}, as it began") from there.error
            public = inspect.getmembers(there, inspect.ismethod)
            named += [(name, method) for name, method in public if not name.startswith("_") and name not in OWN]
        found = dict(named)
        require(len(found) == len(named), f"two tools have one name: {', '.join(name for name, _ in named)}")
        return found

    def environment(self, row: Any) -> Environment:
        """What replies to one answer: the results of the calls in each turn; nothing to one without calls, or after too many."""
        tools, turns = self.begin(row), 0

        def reply(said: str) -> list[Message] | None:
            nonlocal turns
            calls = CALL.findall(said)
            turns += 1
            return [self.result(tools, call) for call in calls] if calls and turns <= self.turns else None

        return reply

    def result(self, tools: Mapping[str, Callable[..., Any]], call: str) -> Message:
        """What a call comes to, as a message of the role tool; `call` is the JSON that the model wrote."""
        name = ""
        try:
            asked = json.loads(call)
            name, given = str(asked["name"]), asked.get("arguments") or {}
            if name in tools:
                inspect.signature(tools[name]).bind(**given)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            told = (
                f'error: a call is {{"name": ..., "arguments": {{...}}}} in JSON, with the tool\'s arguments: {error}'
            )
        else:
            if name in tools:
                told = self._told(name, partial(tools[name], **given))
            else:
                told = f"error: there is no tool {name!r}; there are {', '.join(tools)}"
        # JSON can name halves of characters, which no tokeniser reads.
        told = told.encode(errors="replace").decode()
        if len(told) > LONGEST:
            told = f"{told[:LONGEST]}… (the first {LONGEST} of {len(told)} characters)"
        return {"role": "tool", "name": name, "content": told}

    def _told(self, name: str, call: Callable[[], Any]) -> str:
        """What a tool gave, as text or JSON, or how it failed."""
        given = self._call(call)
        if not isinstance(given, str | Failed):  # which is code of the tool's, too, where it is no JSON
            given = self._call(partial(json.dumps, given, default=str))
        return f"error: {_fault(name, given)}" if isinstance(given, Failed) else given

    def _call(self, function: Callable[[], Any]) -> Any:
        return self._caller.ask(function, self.timeout)


def _begun(environment: type, row: Any) -> Any:
    """The environment of one answer, to be awaited where its `reset` is."""
    there = environment()
    begun: Any = there.reset(**row) if row and hasattr(there, "reset") else None

    async def awaited() -> Any:
        await begun
        return there

    return awaited() if inspect.isawaitable(begun) else there


def _fault(name: str, failed: Failed) -> str:
    error = failed.error
    return f"{name} {error}" if failed.late else f"{name} raised {type(error).__name__}: {error}"


def _description(name: str, tool: Callable[..., Any]) -> dict[str, Any]:
    from transformers.utils import get_json_schema
    from transformers.utils.chat_template_utils import DocstringParsingException, TypeHintParsingException

    try:
        return dict(get_json_schema(tool))
    except (DocstringParsingException, TypeHintParsingException) as error:
        raise BadSetting(f"the tool {name} does not say what it is: {error}") from None
