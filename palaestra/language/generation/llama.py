"""Decoding for the shape that Llama, Mistral, Qwen2 and Qwen3 share.

Results go where the next operation reads them: a step asks for no memory, and cuts its views of it as rarely as it can.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention, silu

from palaestra.language.llama import Layer, Llama, pairs
from palaestra.language.packing import body


class Scratch:
    """Where the results of a pass over some tokens go until the next one."""

    def __init__(self, tokens: int, decoder: LlamaDecoder):
        width, heads, kv, size = decoder.width, decoder.heads, decoder.kv, decoder.size
        new = functools.partial(torch.empty, tokens, device=decoder.device)
        self.length, self.normed = new(1), new(width)
        by_head = new(heads + 2 * kv, size)
        self.projected, self.turning = by_head.flatten(1), by_head[:, : heads + kv]
        self.query, self.attended = new(heads, size), new(heads * size)
        self.turned = pairs(self.query)
        unturned = pairs(by_head)
        self.unturned_query, self.unturned_memory = unturned[:, :heads], unturned[:, heads:].unflatten(1, (2, kv))
        # What one head of keys and values is asked by, side by side.
        self.asking, self.answered = (t.view(tokens * kv, heads // kv, size) for t in (self.query, self.attended))
        self.gate_up = new(decoder.layers[0].gate_up.shape[1])
        self.gate, self.up = self.gate_up.chunk(2, -1)


class LlamaDecoder(Llama):
    """Keys and values of all rows share their columns: row r has those from `start[r]` on, and the next one is `column`.

    So every step writes one column and reads one window. Columns in front of a row are masked; when the last column is
    written, the window moves to the front.
    """

    joins = True

    @torch.no_grad()
    def __init__(self, model: Any, rows: int, longest: int, room: int, spare: int):
        super().__init__(body(model))
        self.words = self.embedding.weight.detach()
        self.layers = [Layer(*(None if part is None else part.contiguous() for part in layer)) for layer in self.layers]
        self.head = self._folded(model.get_output_embeddings().weight, body(model).norm.weight).contiguous()
        self.longest, self.columns = longest, longest + room + spare
        turn = self.rotation(torch.arange(longest + room, device=self.device))
        stay = torch.ones_like(turn).expand(-1, self.kv, -1)  # values are not rotated
        # (positions, heads, h/2) and (positions, 2, kv, h/2)
        self.query_turns = turn.repeat(1, self.heads, 1)
        self.memory_turns = torch.stack([turn.expand_as(stay), stay], 1)
        shape = len(self.layers), 2, rows, self.kv, self.columns, self.size
        # Keys and values. What is masked is multiplied by 0, so it must be a number.
        self.cache = torch.zeros(shape, device=self.device)
        self.rows, self.column, self.start = 0, longest, torch.zeros(rows, dtype=torch.int64, device=self.device)
        self._looked_at()

    def admit(self, prompts: Sequence[Tensor], copies: Sequence[int], clips: Sequence[Any] = ()) -> Tensor:
        count = torch.tensor(copies, device=self.device)
        lengths = torch.tensor([len(p) for p in prompts], device=self.device)
        longest = int(lengths.max())
        ids = torch.zeros(len(prompts), longest, dtype=torch.int64, device=self.device)
        here = torch.arange(longest, device=self.device) >= (longest - lengths).unsqueeze(1)
        ids[here] = torch.cat([p.to(self.device) for p in prompts])
        new = slice(self.rows, self.rows + int(count.sum()))
        self.start[new] = (self.column - lengths).repeat_interleave(count)
        self.rows = new.stop
        logits = self._prefill(ids, here, slice(self.column - longest, self.column), new, count)
        self._looked_at()
        return logits.repeat_interleave(count, 0)

    def step(self, token: Tensor) -> Tensor:
        n, column, scratch = self.rows, self._next_column(), self.scratch
        turns = self._turns(column - self.start[: 1 if self.level else n])
        mask = None if self.level else self.mask[:, :, self.first : column + 1]
        keys, values = self.memory[:, :, :, self.first : column + 1].unbind(1)
        x = self.words.index_select(0, token.to(self.device))
        layers = zip(self.layers, self.places[..., column, :], keys.mT, values, strict=True)
        for layer, place, key, value in layers:
            self._turned(layer, x, turns, scratch, place)
            score = torch.bmm(scratch.asking, key) if mask is None else torch.baddbmm(mask, scratch.asking, key)
            torch.bmm(score.softmax(-1), value, out=scratch.answered)
            self._rest(layer, x, scratch)
        return self._normed(x, scratch) @ self.head

    def keep(self, index: Tensor) -> None:
        index = index.to(self.device)
        moved = (index != torch.arange(len(index), device=self.device)).nonzero().squeeze(-1)
        if len(moved):
            window = self.cache[..., self.first : self.column, :]
            window[:, :, moved] = window[:, :, index[moved]]
            self.start[moved] = self.start[index[moved]]
        self.rows = len(index)
        self._looked_at()

    def _prefill(self, ids: Tensor, here: Tensor, columns: slice, rows: slice, count: Tensor) -> Tensor:
        """Read padded prompts `(m, L)`; `here` `(m, L)` says where they are. The logits after each, `(m, V)`."""
        m, length = ids.shape
        position = (here.long().cumsum(-1) - 1).clamp(min=0).flatten()
        turns = self._turns(position)
        mask, causal = None, bool(here.all())
        if not causal:
            visible = here.unsqueeze(1).expand(-1, length, -1).tril()
            # Padding sees itself, since no row of a softmax may be empty.
            mask = (visible | torch.eye(length, dtype=torch.bool, device=self.device)).unsqueeze(1)
        x = self.words[ids].view(m * length, -1)
        scratch = Scratch(m * length, self)
        both = torch.empty(m, length, 2, self.kv, self.size, device=self.device)
        for layer, cache in zip(self.layers, self.cache, strict=True):
            self._turned(layer, x, turns, scratch, pairs(both).flatten(0, 1))
            query, memory = scratch.query.view(m, length, -1, self.size).transpose(1, 2), both.permute(2, 0, 3, 1, 4)
            cache[:, rows, :, columns] = memory.repeat_interleave(count, 1)
            key, value = memory
            out = scaled_dot_product_attention(
                query, key, value, mask, is_causal=causal, scale=1.0, enable_gqa=self.heads != self.kv
            )
            scratch.attended.copy_(out.transpose(1, 2).reshape(m * length, -1))
            self._rest(layer, x, scratch)
        return self._normed(x, scratch).view(m, length, -1)[:, -1] @ self.head

    def _turns(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """What turns queries, and keys and values, at `position` `(n,)`: `(n, heads, h/2)` and `(n, 2, kv, h/2)`."""
        return self.query_turns.index_select(0, position), self.memory_turns.index_select(0, position)

    def _turned(self, layer: Layer, x: Tensor, turns: tuple[Tensor, Tensor], scratch: Scratch, memory: Tensor) -> None:
        """Rotated queries of hidden states `(n, d)` go into `scratch.query`, keys and values into `memory` `(n, 2, kv, h/2)`."""
        torch.mm(self._normed(x, scratch), layer.qkv, out=scratch.projected)
        if layer.qkv_bias is not None:
            scratch.projected.add_(layer.qkv_bias)
        if layer.norms is not None:
            length = torch.linalg.vector_norm(scratch.turning, dim=-1, keepdim=True)
            scratch.turning.div_(length.hypot_(self.head_floor)).mul_(layer.norms)
        of_query, of_memory = turns
        torch.mul(scratch.unturned_query, of_query, out=scratch.turned)
        torch.mul(scratch.unturned_memory, of_memory, out=memory)

    def _rest(self, layer: Layer, x: Tensor, scratch: Scratch) -> None:
        """The rest of a layer from `scratch.attended` on, added to `x` `(n, d)`."""
        x.addmm_(scratch.attended, layer.out)
        if layer.out_bias is not None:
            x.add_(layer.out_bias)
        torch.mm(self._normed(x, scratch), layer.gate_up, out=scratch.gate_up)
        x.addmm_(silu(scratch.gate, inplace=True).mul_(scratch.up), layer.down)

    def _normed(self, x: Tensor, scratch: Scratch) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, out=scratch.length)
        return torch.div(x, length.hypot_(self.floor), out=scratch.normed)

    def _looked_at(self) -> None:
        """Note where the window begins, after rows or columns have changed."""
        self.first = int(self.start[: self.rows].min()) if self.rows else self.column
        self._prepare()

    def _prepare(self) -> None:
        """Mask the columns in front of each row, where rows differ, and cut out what is in use."""
        n, start = self.rows, self.start[: self.rows]
        self.level = n == 0 or int(start.max()) == self.first
        if not self.level:
            ahead = torch.arange(self.columns, device=self.device) < start.unsqueeze(1)
            mask = torch.zeros(ahead.shape, device=self.device).masked_fill_(ahead, float("-inf"))
            self.mask = mask.repeat_interleave(self.kv, 0).unsqueeze(1)
        self.scratch = Scratch(n, self)
        used = self.cache[:, :, :n]
        self.memory, self.places = used.flatten(2, 3), pairs(used.transpose(1, 2))

    def _next_column(self) -> int:
        """Where keys and values of one more token go."""
        if self.column == self.columns:
            self._to_the_front()
        self.column += 1
        return self.column - 1

    def _to_the_front(self) -> None:
        """Move the window towards the first columns, of which as many stay in front as a prompt may need."""
        n, back = self.rows, min(self.first, self.column - self.longest)
        self.cache[:, :, :n, :, : self.column - back] = self.cache[:, :, :n, :, back : self.column].clone()
        self.column -= back
        self.start[:n] -= back
        self._looked_at()
