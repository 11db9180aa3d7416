"""Next-token logits of a batch of sequences that grow, end and are joined by others: what generation asks of a model.

Two decoders do it: `TransformersDecoder` here, for any causal model, and `LlamaDecoder`, several times as fast for the shape
that most of them have.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from palaestra.core.precision import passes_dtype
from palaestra.language.vision import Clip, seen


class Decoder(Protocol):
    """Holds the memory of `rows` sequences, in an order that only `admit` and `keep` change."""

    rows: int
    joins: bool
    """Whether sequences can be admitted beside others."""

    def admit(self, prompts: Sequence[Tensor], copies: Sequence[int], clips: Sequence[Clip] = ()) -> Tensor:
        """Read prompts `(L_i,)`, each once; append `copies[i]` rows for each. Returns their next-token logits, `(new, V)`.

        `clips` are those that the prompts have places for, in their order.
        """
        ...

    def step(self, token: Tensor) -> Tensor:
        """Append a token to every row, `(rows,)` on any device; returns the next-token logits, `(rows, V)`."""
        ...

    def keep(self, index: Tensor) -> None:
        """Go on with rows `index` alone, in that order."""
        ...


def positions(model: Any) -> int | None:
    """How many tokens a sequence of the model may have; None where nothing limits them."""
    found: int | None = getattr(model.config, "max_position_embeddings", None)
    return found


def make_decoder(model: Any, rows: int, longest: int, room: int, spare: int) -> Decoder:
    """A decoder for at most `rows` sequences at a time, with prompts of up to `longest` tokens and `room` after them; `spare`
    is how many tokens more may go by before memory is moved together, where others join."""
    from palaestra.language.generation.llama import LlamaDecoder
    from palaestra.language.llama import fits
    from palaestra.language.packing import body

    if fits(body(model)) and passes_dtype() is None:  # what it folds would be rounded otherwise than in training
        return LlamaDecoder(model, rows, longest, room, spare)
    return TransformersDecoder(model)


class TransformersDecoder:
    """Any causal model of transformers, by its own forward pass and cache.

    Rows are padded on the left. Where the model's memory is more than keys and values of the whole past (a sliding window, a
    recurrent state), rows cannot be joined by others.
    """

    def __init__(self, model: Any):
        self.model = model
        self.rows, self.joins = 0, True
        self.cache: Any = None
        self.mask = torch.zeros(0, 0, dtype=torch.int64)
        self.ahead = torch.zeros(0, 1, dtype=torch.int64)
        """By how much the position of each row's tokens exceeds how many stand before them: a clip has many in few."""

    def admit(self, prompts: Sequence[Tensor], copies: Sequence[int], clips: Sequence[Clip] = ()) -> Tensor:
        from transformers import DynamicCache

        device = self.model.device
        ids = pad_sequence([p.flip(0) for p in prompts], batch_first=True).flip(1).to(device)
        lengths = torch.tensor([len(p) for p in prompts], device=device)
        mask = (torch.arange(ids.shape[1], device=device) >= ids.shape[1] - lengths.unsqueeze(1)).long()
        cache = DynamicCache(config=self.model.config)
        given = {"input_ids": ids, "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}
        if clips:
            given = seen(self.model, ids, mask, clips)
        logits = self._forward(mask, cache, **given)
        ahead = given["position_ids"].view(-1, *ids.shape)[0, :, -1:] + 1 - lengths.unsqueeze(1)
        which = torch.arange(len(prompts), device=device).repeat_interleave(torch.tensor(copies, device=device))
        cache.batch_select_indices(which)
        self.joins = all(type(layer).__name__ == "DynamicLayer" for layer in cache.layers)
        if self.rows == 0:
            self.cache, self.mask, self.ahead = cache, mask[which], ahead[which]
        else:
            self._join(cache, mask[which])
            self.ahead = torch.cat([self.ahead, ahead[which]])
        self.rows = len(self.mask)
        return logits[which]

    def step(self, token: Tensor) -> Tensor:
        self.mask = torch.nn.functional.pad(self.mask, (0, 1), value=1)
        position = self.mask.sum(-1, keepdim=True) - 1 + self.ahead
        ids = token.to(self.model.device).unsqueeze(1)
        return self._forward(self.mask, self.cache, input_ids=ids, position_ids=position)

    def keep(self, index: Tensor) -> None:
        index = index.to(self.mask.device)
        self.cache.batch_select_indices(index)
        self.mask, self.ahead = self.mask[index], self.ahead[index]
        self.rows = len(index)

    def _forward(self, mask: Tensor, cache: Any, **given: Tensor) -> Tensor:
        out = self.model(
            attention_mask=mask,
            cache=cache,
            use_cache=True,
            logits_to_keep=1,
            **given,
        )
        return out.logits[:, -1]

    def _join(self, cache: Any, mask: Tensor) -> None:
        """Put rows below those that stand, the shorter of the two padded on the left."""
        width = max(mask.shape[1], self.mask.shape[1])
        for mine, theirs in zip(self.cache.layers, cache.layers, strict=True):
            for name in ("keys", "values"):
                parts = [_widened(getattr(layer, name), width, 2) for layer in (mine, theirs)]
                setattr(mine, name, torch.cat(parts))
        self.mask = torch.cat([_widened(self.mask, width, 1), _widened(mask, width, 1)])


def _widened(x: Tensor, width: int, dim: int) -> Tensor:
    """`x` with zeros in front of dimension `dim`, up to `width`."""
    return torch.nn.functional.pad(x, (0, 0) * (x.dim() - 1 - dim) + (width - x.shape[dim], 0))
