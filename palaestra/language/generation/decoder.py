"""Next-token logits of a batch of sequences that grow, end and are joined by others: what generation asks of a model.

`TransformersDecoder` here does it for any causal model. For the shape that most of them have, `LlamaDecoder` is several times as
fast, and on processors `NativeDecoder` twice as fast again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol
from weakref import WeakSet

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from palaestra.core.errors import Unsupported
from palaestra.core.precision import multiplying, passes_dtype
from palaestra.language.vision import Clip, seen, sees

FAR = 0.05
"""By how much of the largest logit a model contradicts itself that does more than round."""

_tried: WeakSet[Any] = WeakSet()
"""Models that go on from their memory as they should."""


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
    """How many tokens a sequence of the model may have; None where nothing limits them, such as clips, many at one position."""
    config = model.config if sees(model) else model.config.get_text_config()
    found: int | None = getattr(config, "max_position_embeddings", None)
    return found


def make_decoder(model: Any, rows: int, longest: int, room: int, spare: int) -> Decoder:
    """A decoder for at most `rows` sequences at a time, with prompts of up to `longest` tokens and `room` after them; `spare`
    is how many tokens more may go by before memory is moved together, where others join.

    Raises:
        Unsupported: the model does not go on from its memory, or not behind padding.
    """
    from palaestra.language.generation.llama import LlamaDecoder
    from palaestra.language.generation.native import NativeDecoder
    from palaestra.language.llama import fits
    from palaestra.language.native.library import library
    from palaestra.language.packing import adapted, body

    # In bfloat16, what is folded would be rounded otherwise than in training.
    if passes_dtype() is not None or not fits(body(model)) or adapted(model.get_output_embeddings()):
        _try(model)
        return TransformersDecoder(model)
    native = model.device.type == "cpu" and library() is not None
    return (NativeDecoder if native else LlamaDecoder)(model, rows, longest, room, spare)


def _try(model: Any) -> None:
    """Raise `Unsupported` unless a model says from its memory, and behind padding, what it says in one pass: it is tried, once,
    on six tokens.

    Some silently count positions otherwise behind padding, as RoBERTa and BART, or have a memory of their own, as RWKV.
    """
    if model in _tried or sees(model) or model.dtype != torch.float32:  # less exact numbers prove nothing
        return
    ids = torch.arange(6, 6 + min(6, positions(model) or 6)) % model.config.get_text_config().vocab_size
    most = len(ids) - 1
    decoder = TransformersDecoder(model)
    try:
        with torch.no_grad(), multiplying("highest"):
            decoder.admit([ids[:most], ids[:1]], [1, 1])
            decoder.keep(torch.tensor([1, 0]))
            found = decoder.step(ids[[1, most]])
            passes = [ids[:n].unsqueeze(0).to(model.device) for n in (2, most + 1)]
            whole = torch.cat([model(input_ids=x, use_cache=False).logits[:, -1] for x in passes])
    except Exception as error:  # whatever a model of unusual shape may say to such a pass
        said = " ".join(str(error).split())[:300]
        raise Unsupported(f"{_ungenerating(model)} ({type(error).__name__}: {said})") from error
    far = (found - whole).abs().max() > FAR * (whole - whole.mean(-1, keepdim=True)).abs().max()
    if bool(far & whole.isfinite().all()):
        raise Unsupported(f"{_ungenerating(model)}, where it says something else than in one pass")
    _tried.add(model)


def _ungenerating(model: Any) -> str:
    return (
        f"{type(model).__name__} is of no architecture that answers can be generated with (give another one, such as Llama's or "
        "Qwen's): it does not go on from a cache of transformers behind padding"
    )


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
        cache.reorder_cache(which)
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
        # Where nothing attends, the past is in the states alone, and a mask is taken for that of the one new token.
        mask = self.mask if any(hasattr(layer, "keys") for layer in self.cache.layers) else self.mask[:, -1:]
        return self._forward(mask, self.cache, input_ids=ids, position_ids=position)

    def keep(self, index: Tensor) -> None:
        index = index.to(self.mask.device)
        self.cache.reorder_cache(index)
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
