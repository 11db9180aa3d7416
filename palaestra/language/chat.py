"""Conversations by a model's chat template: what opens them, and what a reply adds to one that is under way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from palaestra.core.errors import PalaestraError
from palaestra.language.generation.stops import special_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ANSWER = "palaestra"
"""An answer that stands for any other: a word that no template writes by itself."""
CUT = "\ufdd0"
"""Where a text is cut before it is read: a character that Unicode leaves to programs, and no text has."""


def opening(tokeniser: PreTrainedTokenizerBase, prompt: Sequence[Any], tools: Sequence[Any] | None = None) -> list[int]:
    """The ids of messages `(L,)` up to where an answer begins; `tools` are functions' descriptions (JSON schema)."""
    return list(_render(tokeniser, prompt, tools, add_generation_prompt=True, tokenize=True, return_dict=False))


def added(tokeniser: PreTrainedTokenizerBase, replies: Sequence[Any], tools: Sequence[Any] | None = None) -> str:
    """What stands between an answer and the next one where `replies`, messages, come between them.

    A conversation that was sampled is never written again, since its tokens would not be those that were chosen. So the
    template is asked about another one, of a single answer, and must write that the same with a reply behind it.

    Raises:
        PalaestraError: the template does not, as some that leave out earlier reasoning; or it cannot take such messages.
    """
    begun = [{"role": "user", "content": "?"}, {"role": "assistant", "content": ANSWER}]
    before = _render(tokeniser, begun, tools, tokenize=False)
    after = _render(tokeniser, [*begun, *replies], tools, add_generation_prompt=True, tokenize=False)
    if before.count(ANSWER) != 1 or not after.startswith(before):
        raise PalaestraError(
            "the model's chat template writes an answer differently once a reply follows it, so that replies cannot be put "
            "behind what was sampled; give the tokeniser a template that keeps what was said, or let replies be text"
        )
    return str(after[before.index(ANSWER) + len(ANSWER) :])


def ordinary(tokeniser: PreTrainedTokenizerBase, said: Any) -> Any:
    """What somebody else than the template wrote, text or messages, with a cut in each special token, so that `read` takes it for
    ordinary text: else a tool's result could end a turn, or open one."""
    if isinstance(said, Mapping):
        return {name: ordinary(tokeniser, value) for name, value in said.items()}
    if isinstance(said, list | tuple):
        return [ordinary(tokeniser, value) for value in said]
    if isinstance(said, str):
        for token in special_ids(tokeniser):
            said = said.replace(token, token[:1] + CUT + token[1:])
    return said


def read(tokeniser: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The ids of a text without what a tokeniser puts around one; what is between cuts is read by itself."""
    return [i for part in text.split(CUT) for i in tokeniser(part, add_special_tokens=False).input_ids]


def messages_of(reply: Any) -> list[dict[str, Any]]:
    """What an environment replied, as messages; text is a user's."""
    if isinstance(reply, str):
        return [{"role": "user", "content": reply}]
    return [dict(message) for message in ([reply] if isinstance(reply, Mapping) else reply)]


def conversation(turns: Sequence[str], replies: Sequence[Any]) -> list[dict[str, Any]]:
    """Turns of a policy and what an environment replied to each of them, as messages."""
    messages = []
    for turn, reply in zip_longest(turns, replies):
        messages += [{"role": "assistant", "content": turn}] if turn is not None else []
        messages += messages_of(reply) if reply is not None else []
    return messages


def _render(tokeniser: PreTrainedTokenizerBase, messages: Sequence[Any], tools: Any, **how: Any) -> Any:
    if tokeniser.chat_template is None:
        raise PalaestraError(
            "prompts or replies are messages, but the model's tokeniser has no chat template; give text, or a chat model"
        )
    from jinja2 import TemplateError

    given = {"tools": list(tools)} if tools else {}
    try:
        return tokeniser.apply_chat_template([dict(m) for m in messages], **given, **how)
    except TemplateError as error:
        roles = ", ".join(str(m.get("role")) for m in messages)
        raise PalaestraError(f"the model's chat template cannot write messages of {roles}: {error}") from None
