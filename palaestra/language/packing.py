"""Packing: sequences laid end to end, so that models are trained without padding.

Linear layers, norms and embeddings see `(1, N)` tokens without padding. Only attention, which must stay within each sequence, is
given the sequences as rows, padded on the right where they differ in length: causal attention never looks there. A prompt that
several answers share goes through everything but attention once.
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
"""The name under which packed attention is registered with transformers."""


def hidden_states(
    model: Any, ids: Tensor, layout: Layout, recompute: bool = False, rows: Tensor | None = None
) -> Tensor:
    """The last hidden states `(M, d)` of the tokens that are laid down, or those at `rows` `(n,)`, of sequences with ids `(N,)`.

    With `recompute`, activations within layers are not kept for the backward pass, but computed again in it.

    Raises:
        Unsupported: the model's attention cannot be replaced.
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


def unwrapped(model: Any) -> Any:
    """The model of transformers itself, in whose layers its adapters are if it has any."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def body(model: Any) -> Any:
    """The model without its head, but with its adapters if it has any."""
    return unwrapped(model).base_model


def adapted(layer: Any) -> bool:
    """Whether a layer is the model's own with an adapter around it."""
    return hasattr(layer, "base_layer")


def layers_of(model: Any) -> list[nn.Module]:
    """The layers of a model in their order: the modules of the classes in its `_no_split_modules`."""
    kinds = set(getattr(model, "_no_split_modules", None) or ())
    return [module for module in model.modules() if type(module).__name__.removeprefix("FSDP") in kinds]


@contextmanager
def recomputing(
    model: Any, wanted: bool, again: Callable[[], AbstractContextManager[Any]] = nullcontext
) -> Iterator[None]:
    """Within this context layers keep only their inputs for the backward pass, and compute the rest again, within `again()`.

    Source: Chen et al. 2016 (arXiv 1604.06174). transformers' own checkpointing needs training mode, which turns dropout on.
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
    """Whether `hidden_states` followed by the output embeddings gives a model's logits: it is tried on six tokens."""
    from transformers import PreTrainedModel

    inner = unwrapped(model)
    if not isinstance(inner, PreTrainedModel) or not inner._supports_sdpa or inner.get_output_embeddings() is None:
        return False
    if adapted(inner.get_output_embeddings()):  # more than its weights
        return False
    ids = torch.arange(6, device=inner.device) % inner.config.get_text_config().vocab_size
    head = inner.get_output_embeddings()
    try:
        with torch.no_grad():
            packed = head(hidden_states(model, ids, Layout.of(torch.tensor([4, 2], device=inner.device))))
            apart = [model(input_ids=part.unsqueeze(0), use_cache=False).logits[0] for part in (ids[:4], ids[4:])]
    except Exception:  # whatever a model of unusual shape may say to a pass of this form
        return False
    return torch.allclose(packed, torch.cat(apart), atol=1e-4, rtol=1e-4)


def bins(lengths: Sequence[int], tokens: int, processes: int = 1) -> list[list[int]]:
    """Indices in groups of at most `tokens` tokens each; a sequence that is longer is a group of its own.

    Groups are of similar lengths, so that little is padded in attention, and each is in ascending order. For several processes,
    the number of groups is a multiple of theirs, groups have about the same number of tokens, and neighbours stay together, since
    they may share a prompt.
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
    """The values `(L,)` of each sequence by `measure`, which gives `(N,)` for packed sequences of at most `tokens` tokens.

    Several processes, which must all have the same `parts`, share the work.
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
    query, key, value = map(layout.padded, (query, key, value))
    return layout.attend(query, key, value, scaling, sliding_window), None


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
