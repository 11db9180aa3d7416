"""Functions as tools of a language model: their descriptions for its prompt, and what they say when it calls them.

A call is `<tool_call>{"name": ..., "arguments": {...}}</tool_call>` in an answer, as Hermes, Qwen and many others are trained to
write it. A call that cannot be carried out is told why, so that the model may mend it.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from palaestra.core.errors import BadSetting, require
from palaestra.language.task import Environment, Message

CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)
OWN = ("reset", "get_reward")
"""Methods of an environment that are no tools."""


class Tools:
    """Functions, or the public methods of environments: of a class, each answer has an object of its own, and its
    `reset(**row)` is called first where it has one.

    A function needs types and a docstring with a line for each argument, as `transformers.utils.get_json_schema` reads them. It
    runs in this process, with the rights that this has; programs of a model belong in the sandbox.

    Raises:
        BadSetting: a tool without a description, or two of one name.
    """

    def __init__(self, tools: Sequence[Callable[..., Any]], turns: int = 8):
        require(bool(tools), "there are no tools")
        require(turns >= 1, f"turns must be at least 1, got {turns}")
        self.tools, self.turns = tuple(tools), turns
        found = self.begin({})
        self.descriptions = [_description(name, tool) for name, tool in found.items()]

    def begin(self, row: Any) -> dict[str, Callable[..., Any]]:
        """The tools of one answer to `row`, by name; an empty row resets nothing."""
        named: list[tuple[str, Callable[..., Any]]] = []
        for tool in self.tools:
            if not inspect.isclass(tool):
                named.append((tool.__name__, tool))
                continue
            there = tool()
            if row and hasattr(there, "reset"):
                there.reset(**row)
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
            return [result(tools, call) for call in calls] if calls and turns <= self.turns else None

        return reply


def result(tools: dict[str, Callable[..., Any]], call: str) -> Message:
    """What a call comes to, as a message of the role tool; `call` is the JSON that the model wrote."""
    name = ""
    try:
        asked = json.loads(call)
        name, given = str(asked["name"]), asked.get("arguments") or {}
        if name not in tools:
            raise LookupError(f"there is no tool {name!r}; there are {', '.join(tools)}")
        inspect.signature(tools[name]).bind(**given)
        told = tools[name](**given)
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        told = f'error: a call is {{"name": ..., "arguments": {{...}}}} in JSON, with the tool\'s arguments: {error}'
    except Exception as error:  # whatever a tool has to say
        told = f"error: {error}"
    content = told if isinstance(told, str) else json.dumps(told, default=str)
    return {"role": "tool", "name": name, "content": content}


def _description(name: str, tool: Callable[..., Any]) -> dict[str, Any]:
    from transformers.utils import get_json_schema
    from transformers.utils.chat_template_utils import DocstringParsingException, TypeHintParsingException

    try:
        return dict(get_json_schema(tool))
    except (DocstringParsingException, TypeHintParsingException) as error:
        raise BadSetting(f"the tool {name} does not say what it is: {error}") from None
