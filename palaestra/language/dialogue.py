"""Answers of several turns, between which an environment replies: in text for whoever writes one, in tokens for the engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

from torch import Tensor

from palaestra.core.errors import PalaestraError
from palaestra.language.chat import conversation
from palaestra.language.generation.stops import text_of
from palaestra.language.judges.calls import Failed
from palaestra.language.judges.judge import said_of, shown

if TYPE_CHECKING:
    from palaestra.language.generation.engine import Generated, Respond
    from palaestra.language.policy import LanguagePolicy
    from palaestra.language.rows import Row
    from palaestra.language.task import Environment, Reply


class Dialogues:
    """The dialogues of a policy with the environments of its answers to one row, an environment for each answer.

    Raises:
        PalaestraError: an environment fails as it is made or as it replies; the message names it.
    """

    def __init__(self, policy: LanguagePolicy, row: Row, environment: Callable[[Row], Environment | None] | None):
        self.policy, self.row, self.environment = policy, row, environment
        self.replies: list[list[Reply]] = []
        """What was replied in each dialogue, in the order in which they began."""
        self._first = None if environment is None else self._ask(environment, row)

    @property
    def respond(self) -> Callable[[], Respond] | None:
        """What begins a dialogue, for a `Request`; None where answers have one turn."""
        return None if self._first is None else self._begin

    def messages(self, said: Generated, opened: Tensor) -> list[dict[str, Any]]:
        """An answer as messages, with the ids that `opened` its first turn, `(L,)`; none where answers have one turn."""
        if not self.replies:
            return []
        mask, ids = [True] * len(opened) + said.mask.tolist(), [*opened.tolist(), *said.ids.tolist()]
        parts = groupby(zip(mask, ids), lambda pair: pair[0])
        turns = [self._text([token for _, token in part]) for chosen, part in parts if chosen]
        return conversation(turns, self.replies[said.copy])

    def _begin(self) -> Respond:
        # The first answer has the environment that was made to see whether there is any.
        environment = self._ask(self.environment, self.row) if self.replies else self._first
        replies: list[Reply] = []
        self.replies.append(replies)

        def respond(ids: list[int]) -> list[int] | None:
            reply = self._ask(environment, self._text(ids))
            if not reply:
                return None
            replies.append(reply)
            return self.policy.reply_ids(reply, ids[-1], self.row.get("tools"))

        return respond

    def _ask(self, function: Any, given: Any) -> Any:
        """What an environment, or what makes one, returns, awaited if need be; its error is raised with its name."""
        said = self.policy.caller.ask(partial(function, given), None)
        if not isinstance(said, Failed):
            return said
        if isinstance(said.error, PalaestraError):
            raise said.error
        name = getattr(function, "__qualname__", type(function).__name__).replace(".<locals>", "")
        heard = shown(given if isinstance(given, str) else str(given.get("prompt", "")))
        raise PalaestraError(f"the environment {name} {said_of(said)}, when it was given {heard}") from said.error

    def _text(self, ids: Sequence[int]) -> str:
        return text_of(self.policy.tokeniser, list(ids))
