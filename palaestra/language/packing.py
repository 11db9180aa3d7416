"""Sequences laid end to end: what a model is trained on, without padding.

Linear layers, norms and embeddings see `(1, N)` tokens, all of them real. Only attention, which must not look from one sequence
into another, is given the sequences side by side, padded behind their ends where they differ in length: what is causal never
looks there. What answers to one prompt begin with goes through everything else once.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from palaestra.core.errors import Unsupported
from palaestra.core.experience import Experience
from palaestra.core.precision import passes_dtype
from palaestra.core.world import world
from palaestra.language.layout import Layout
from palaestra.language.llama import Llama, fits

PACKED = "palaestra_packed"
"""The name of packed attention among those of transformers."""


def hidden_states(
    model: Any, ids: Tensor, layout: Layout, recompute: bool = False, rows: Tensor | None = None
) -> Tensor:
    """The last hidden state of each token that is laid down, `(M, d)`, or of those at `rows` `(n,)`, given all ids `(N,)`.

    With `recompute`, what layers hold inside is not kept for the backward pass, but computed again in it.

    Raises:
        Unsupported: the model's attention cannot be replaced, or its memory is more than attention.
    """
    ids = ids if layout.kept is None else ids[layout.kept]
    backbone = body(model)
    if fits(backbone) and passes_dtype() is None:  # what it folds would be rounded otherwise
        return Llama(backbone).hidden_states(ids, layout, recompute, rows)
    with _attention(backbone), recomputing(backbone, recompute, lambda: _attention(backbone)):
        out = backbone(
            input_ids=ids.unsqueeze(0), position_ids=layout.position.unsqueeze(0), use_cache=False, layout=layout
        )
    # Not by `[...]`, whose gradient adds up in an order that threads decide where prompts are shared.
    return out[0][0] if rows is None else out[0][0].index_select(0, rows)


def body(model: Any) -> Any:
    """The model without its head; of a model with adapters, they included."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return inner.base_model


def layers_of(model: Any) -> list[nn.Module]:
    """The layers of a model, one after the other: what it says is not to be cut in two."""
    kinds = set(getattr(model, "_no_split_modules", None) or ())
    return [module for module in model.modules() if type(module).__name__.removeprefix("FSDP") in kinds]


@contextmanager
def recomputing(
    model: Any, wanted: bool, again: Callable[[], AbstractContextManager[Any]] = nullcontext
) -> Iterator[None]:
    """A pass whose layers keep no more than their inputs; `again()` is what their second pass needs around it.

    Chen et al., arXiv 1604.06174. The models' own way is tied to their training mode, which turns dropout on.
    """
    layers = layers_of(model) if wanted and torch.is_grad_enabled() else []
    for layer in layers:
        layer.forward = partial(
            checkpoint, layer.forward, use_reentrant=False, context_fn=lambda: (nullcontext(), again())
        )
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def packable(model: Any) -> bool:
    """Whether `hidden_states` works for a model, and its logits are a product with the output embeddings: tried on six tokens."""
    from transformers import PreTrainedModel

    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    if not isinstance(inner, PreTrainedModel) or not inner._supports_sdpa or inner.get_output_embeddings() is None:
        return False
    ids = torch.arange(6, device=inner.device) % inner.config.vocab_size
    head = inner.get_output_embeddings()
    try:
        with torch.no_grad():
            packed = head(hidden_states(model, ids, Layout.of(torch.tensor([4, 2], device=inner.device))))
            apart = [model(input_ids=part.unsqueeze(0), use_cache=False).logits[0] for part in (ids[:4], ids[4:])]
    except Exception:  # whatever a model of unusual shape may say to a pass of this form
        return False
    return torch.allclose(packed, torch.cat(apart), atol=1e-4, rtol=1e-4)


def bins(lengths: Sequence[int], tokens: int, processes: int = 1) -> list[list[int]]:
    """Indices in groups whose lengths add up to at most `tokens` each, a longer one by itself; similar lengths together.

    In order of length, so that little is padded in attention; within a group in the order that they came in. For several
    processes, that many groups or a multiple, of about the same length, and neighbours together: what they begin with in common
    is then read by few.
    """
    if processes > 1:
        return _level_bins(lengths, tokens, processes)
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    groups: list[list[int]] = []
    total = tokens
    for i in order:
        if not groups or total + lengths[i] > tokens:
            groups.append([])
            total = 0
        groups[-1].append(i)
        total += lengths[i]
    return [sorted(group) for group in groups]


def _level_bins(lengths: Sequence[int], tokens: int, processes: int) -> list[list[int]]:
    total, ends = sum(lengths), list(itertools.accumulate(lengths))
    for count in itertools.count(processes * max(1, math.ceil(total / (tokens * processes))), processes):
        groups: list[list[int]] = [[] for _ in range(count)]
        for i, (end, length) in enumerate(zip(ends, lengths, strict=True)):
            groups[int((end - length / 2) * count / total)].append(i)
        if all(len(group) <= 1 or sum(lengths[i] for i in group) <= tokens for group in groups):
            return [group for group in groups if group]
    raise AssertionError("with enough groups, each has one")


def in_packs(parts: Sequence[Experience], measure: Callable[[Experience], Tensor], tokens: int) -> list[Tensor]:
    """What `measure` finds for each token, `(L,)` for each sequence, at most `tokens` tokens laid end to end at a time.

    Of several processes, which all have the same sequences, each measures some.
    """
    lengths = [len(part) for part in parts]
    found: list[tuple[int, Tensor]] = []
    for group, wanted in world().turns(bins(lengths, tokens, world().size)):
        values = measure(Experience.cat([parts[i] for i in group]))
        if wanted:
            found += zip(group, values.split([lengths[i] for i in group]), strict=True)
    by_number = dict(world().gather(found))
    return [by_number[i] for i in range(len(parts))]


def _packed_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    layout: Layout | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    if layout is None:
        raise Unsupported(f"{type(module).__name__} does not hand on the layout of packed sequences")
    if sliding_window is not None and int(layout.lengths.max()) > sliding_window:
        raise Unsupported(f"sequences are longer than the model's sliding window of {sliding_window} tokens")
    return layout.attend(layout.padded(query), layout.padded(key), layout.padded(value), scaling), None


@contextmanager
def _attention(backbone: Any) -> Iterator[None]:
    """Packed attention in place of the model's own."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(PACKED, _packed_attention)
    AttentionMaskInterface.register(PACKED, lambda *_, **__: None)
    config = backbone.config
    before = config._attn_implementation
    config._attn_implementation = PACKED
    try:
        yield
    finally:
        config._attn_implementation = before
