"""The generation engine: many sequences sampled together, token ids in and token ids out.

A prompt is read once, however many answers are asked for. Sequences that end leave the batch and waiting ones take their
place. What a sequence says depends on its own seed, not on its neighbours.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from palaestra.core.errors import BadSetting, Diverged, require
from palaestra.core.precision import passing
from palaestra.core.seeding import seed_for
from palaestra.language.generation.decoder import Decoder, make_decoder, positions
from palaestra.language.generation.sampling import Sampling, SeenTokens, choose

Respond = Callable[[list[int]], "list[int] | None"]
"""What an environment says to the ids that a policy chose since its last word: ids to append, or None at the end."""


@dataclass
class Request:
    """A prompt, or the beginning of a sequence to branch from, and how it is to go on."""

    ids: Tensor  # (L,) int64
    seeds: Sequence[int]
    """One for each answer that is wanted."""
    max_tokens: int
    """The largest number of tokens after `ids`, an environment's included."""
    respond: Callable[[], Respond] | None = None
    """Makes the environment of one answer, for conversations of several turns."""
    clip: Any = None
    """What is shown beside the ids (`vision.Clip`)."""
    opened: int = 0
    """How many of the last ids open the answer, and are part of its first turn."""

    @property
    def opening(self) -> list[int]:
        """The ids that open the answer."""
        opening: list[int] = self.ids[len(self.ids) - self.opened :].tolist()
        return opening


@dataclass
class Generated:
    """What was generated after a request's ids."""

    request: int
    copy: int
    ids: Tensor  # (T,)
    mask: Tensor  # (T,) bool, 0 for what an environment said
    logp: Tensor  # (T,) log-probability of chosen tokens at temperature 1
    sampled_logp: Tensor  # (T,) the same under the distribution that was sampled from
    truncated: bool  # ended by the limit alone


@dataclass
class Ending:
    """What ends a turn: token ids, or texts that may begin and end in the middle of tokens."""

    ids: tuple[int, ...]
    stop: tuple[str, ...] = ()
    decode: Callable[[list[int]], str] | None = None
    closers: Tensor | None = None
    """(V,) bool, 1 for tokens whose text holds the last character of a stop text: after others, nothing can have ended."""

    def reached(self, ids: list[int]) -> bool:
        """Whether a stop text is in what was said."""
        assert self.decode is not None
        said = self.decode(ids)
        return any(text in said for text in self.stop)


@dataclass
class _Row:
    """One sequence that is being generated."""

    request: int
    copy: int
    respond: Respond | None
    turn: int = 0  # where the turn began, in tokens after the request's ids
    forced: deque[int] = field(default_factory=deque)  # what the environment said and is yet to be read


def generate(
    model: Any, requests: Sequence[Request], sampling: Sampling, ending: Ending, rows: int = 256
) -> list[Generated]:
    """Answers to `requests`, in their order, copy by copy; at most `rows` sequences at a time."""
    return generate_by(partial(make_decoder, model), model, requests, sampling, ending, rows)


def generate_by(
    decoder_of: Callable[..., Decoder],
    model: Any,
    requests: Sequence[Request],
    sampling: Sampling,
    ending: Ending,
    rows: int,
) -> list[Generated]:
    """The same by a decoder that `decoder_of(rows, longest, room, spare)` makes in place of the `model`'s own."""
    require(rows >= 1, f"rows must be at least 1, got {rows}")
    check_requests(model, requests)
    wanted = sum(len(r.seeds) for r in requests)
    if not wanted:
        return []
    longest, room = max(len(r.ids) for r in requests), max(r.max_tokens for r in requests)
    decoder = decoder_of(min(rows, wanted), longest, room, room if wanted > rows else 0)
    with passing(model.device, keep=True):
        return _Batch(decoder, requests, sampling, ending, min(rows, wanted), room).run()


class _Batch:
    """The sequences under way: what each said so far, and how each goes on.

    Tables have a row for every sequence that was asked for. `where` `(rows,)` names that of each row of the decoder, and
    `length` and `limit` `(rows,)` say how many tokens it has, and may have.
    """

    def __init__(
        self, decoder: Decoder, requests: Sequence[Request], sampling: Sampling, ending: Ending, rows: int, room: int
    ):
        self.decoder, self.requests, self.capacity = decoder, requests, rows
        self.sampling, self.ending = sampling, ending
        self.rows = [
            _Row(i, j, request.respond() if request.respond else None)
            for i, request in enumerate(requests)
            for j in range(len(request.seeds))
        ]
        shape = len(self.rows), room
        self.ids = torch.zeros(shape, dtype=torch.int64)
        self.forced = torch.zeros(shape, dtype=torch.bool)
        self.uniform = torch.zeros(shape, dtype=torch.float64)
        # What a step leaves goes where there is room for it, since between logits that come and go it would scatter them.
        self.logp, self.sampled_logp = torch.zeros(shape), torch.zeros(shape)
        self.lengths = torch.zeros(len(self.rows), dtype=torch.int64)
        self.where, self.length, self.limit = (torch.zeros(0, dtype=torch.int64) for _ in range(3))
        self.waiting = deque((i, len(request.seeds)) for i, request in enumerate(requests) if len(request.seeds))
        self.next_row = 0
        self.talks = any(row.respond for row in self.rows)
        self.ends = torch.tensor(ending.ids)
        self.seen = SeenTokens(sampling.penalises)

    def run(self) -> list[Generated]:
        with torch.inference_mode():
            self._generate()
        # What is returned will be trained on, which tensors made in inference mode refuse.
        return self._results()

    def _generate(self) -> None:
        logits = self._admit()
        while self.decoder.rows:
            token = self._choose(logits)
            over = self._over(token)
            if bool(over.any()):
                token = self._leave(token, over)
            parts = [self.decoder.step(token)] if self.decoder.rows else []
            if self._may_join():
                parts.append(self._admit())
            if not parts:
                return
            logits = parts[0] if len(parts) == 1 else torch.cat(parts)

    def _may_join(self) -> bool:
        """Whether waiting sequences join now: into an empty batch, or when a quarter of it is free, since reading prompts
        takes a pass of its own."""
        if not self.waiting:
            return False
        free = self.capacity - self.decoder.rows
        return self.decoder.rows == 0 or (self.decoder.joins and 4 * free >= self.capacity)

    def _admit(self) -> Tensor:
        """Let as many waiting sequences in as there is room for; their first logits."""
        free, prompts, copies, clips, first = self.capacity - self.decoder.rows, [], [], [], self.next_row
        while self.waiting and free > 0:
            request, left = self.waiting.popleft()
            count = min(left, free)
            if count < left:
                self.waiting.appendleft((request, left - count))
            prompts.append(self.requests[request].ids)
            if self.requests[request].clip is not None:
                clips.append(self.requests[request].clip)
            copies.append(count)
            free -= count
            self.next_row += count
        joined = range(first, self.next_row)
        limits = [self.requests[self.rows[i].request].max_tokens for i in joined]
        if not self.sampling.greedy:
            for i, limit in zip(joined, limits, strict=True):
                generator = torch.Generator().manual_seed(self.requests[self.rows[i].request].seeds[self.rows[i].copy])
                self.uniform[i, :limit] = torch.rand(limit, generator=generator, dtype=torch.float64)
        self.where = torch.cat([self.where, torch.tensor(joined)])
        self.length = torch.cat([self.length, torch.zeros(len(joined), dtype=torch.int64)])
        self.limit = torch.cat([self.limit, torch.tensor(limits)])
        logits = self.decoder.admit(prompts, copies, clips) if clips else self.decoder.admit(prompts, copies)
        self.seen.admit(prompts, copies, logits)
        return logits

    def _choose(self, logits: Tensor) -> Tensor:
        """The next token of every row, written down; `(rows,)`."""
        at = (self.where, self.length)
        uniform = self.uniform[at].to(logits.device)
        token, logp, sampled_logp = (x.cpu() for x in choose(logits, uniform, self.sampling, self.seen.table))
        if self.talks:
            for r, i in enumerate(self.where.tolist()):
                if self.rows[i].forced:
                    token[r] = self.rows[i].forced.popleft()
                    self.forced[i, self.length[r]] = True
        self.seen.add(token)
        self.ids[at] = token
        self.logp[at], self.sampled_logp[at] = logp, sampled_logp
        self.length = self.length + 1
        return token

    def _over(self, token: Tensor) -> Tensor:
        """Which rows end here, `(rows,)` bool; environments have their say first."""
        ended = token == self.ends if len(self.ends) == 1 else torch.isin(token, self.ends)
        if self.ending.closers is not None:
            for r in self.ending.closers[token].nonzero().squeeze(-1).tolist():
                i = int(self.where[r])
                ended[r] |= self.ending.reached(self._turn(i, int(self.length[r])))
        if self.talks:
            self._respond(ended)
        return ended | (self.length >= self.limit)

    def _respond(self, ended: Tensor) -> None:
        """Let environments answer turns that `ended` `(rows,)`, which go on if there is an answer."""
        for r, i in enumerate(self.where.tolist()):
            row, length = self.rows[i], int(self.length[r])
            if self.forced[i, length - 1]:  # it was not the policy who spoke
                ended[r] = False
            elif bool(ended[r]) and row.respond is not None:
                said = row.respond(self._turn(i, length))
                if said:
                    row.forced.extend(said)
                    row.turn = length + len(said)
                    ended[r] = False

    def _leave(self, token: Tensor, over: Tensor) -> Tensor:
        """Let rows go that are `over`, and the last ones take their places; the tokens of those that stay."""
        self.lengths[self.where[over]] = self.length[over]
        stays = int((~over).sum())
        index = torch.arange(stays)
        index[over[:stays]] = (~over[stays:]).nonzero().squeeze(-1) + stays
        self.where, self.length, self.limit = self.where[index], self.length[index], self.limit[index]
        self.decoder.keep(index)
        self.seen.keep(index)
        return token[index]

    def _results(self) -> list[Generated]:
        if bool((self.logp + self.sampled_logp).isnan().any()):
            raise Diverged("the logits of the model became NaN or infinite, so that no token can be drawn")
        tables = [table.masked_fill_(self.forced, 0.0) for table in (self.logp, self.sampled_logp)]
        results = []
        for i, row in enumerate(self.rows):
            n = int(self.lengths[i])
            ids, logp, sampled_logp, forced = (x[i, :n].clone() for x in (self.ids, *tables, self.forced))
            cut = n == self.requests[row.request].max_tokens and not self._ended(i, n, row)
            results.append(Generated(row.request, row.copy, ids, ~forced, logp, sampled_logp, cut))
        return results

    def _ended(self, i: int, n: int, row: _Row) -> bool:
        """Whether a sequence that is as long as it may be had come to its end."""
        if bool(self.forced[i, n - 1]) or row.forced:  # an environment has replied, be it that nothing of it found room
            return False
        if int(self.ids[i, n - 1]) in self.ending.ids:
            return True
        return self.ending.closers is not None and self.ending.reached(self._turn(i, n))

    def _turn(self, i: int, length: int) -> list[int]:
        """The ids of the latest turn of a sequence of so many tokens."""
        row = self.rows[i]
        opening = [] if row.turn else self.requests[row.request].opening
        return opening + self.ids[i, row.turn : length].tolist()


def check_requests(model: Any, requests: Sequence[Request]) -> None:
    """Raise `BadSetting` for requests without a token to begin with, or with more than the model has positions for."""
    for request in requests:
        require(len(request.ids) > 0, "a prompt has no tokens; give the model one to begin with, such as its BOS token")
        require(request.max_tokens >= 1, f"max_tokens must be at least 1, got {request.max_tokens}")
    largest = max(requests, key=lambda request: len(request.ids) + request.max_tokens, default=None)
    if largest is not None:
        check_room(model, len(largest.ids), largest.max_tokens)


def check_room(model: Any, prompt: int, answer: int) -> None:
    """Raise `BadSetting` for a prompt and an answer of so many tokens that the model has no positions for."""
    needed, allowed = prompt + answer, positions(model)
    if allowed is not None and needed > allowed:
        shorter = f"let answers have at most {allowed - prompt} (--method.max-tokens, or --task.limit of a task that has it), or "
        raise BadSetting(
            f"a prompt of {prompt} tokens and its answer of up to {answer} need {needed} positions, but the model has {allowed}; "
            f"{shorter if allowed > prompt else ''}leave out prompts as long as that"
        )


def copy_seeds(seed: int, stream: str, count: int) -> list[int]:
    """Seeds of `count` answers, each a function of `seed`, `stream` and its number."""
    return [seed_for(seed, stream, i) for i in range(count)]
