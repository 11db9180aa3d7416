"""Where tokens stand when sequences are laid end to end, and attention within each of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from palaestra.core.experience import Experience


@dataclass(frozen=True)
class Layout:
    """Where the tokens of S sequences stand when they are laid end to end.

    There are N tokens, of which M are laid down: a beginning that a sequence shares with the one before it is laid down once.
    """

    lengths: Tensor  # (S,) of the sequences
    shared: Tensor  # (S,) how many first tokens each shares with the one before it
    position: Tensor  # (M,) of each token that is laid down, in its sequence
    kept: Tensor | None  # (N,) bool, which tokens are laid down; None for all
    index: Tensor | None  # (N,) where each token, or the one it shares, is laid down; None where all are
    inside: Tensor | None  # (S * longest,) the token at each place of the padded view; None where nothing is padded
    real: Tensor | None  # (M,) the place of each token in the padded view; None where nothing is padded

    @staticmethod
    def of(lengths: Tensor, shared: Tensor | None = None) -> Layout:
        """The layout of sequences of `lengths` `(S,)`, each of which shares its first `shared` `(S,)` tokens with the one
        before it."""
        start, longest = lengths.cumsum(0) - lengths, int(lengths.max())
        sequence = torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths)
        position = torch.arange(len(sequence), device=lengths.device) - start[sequence]
        place = sequence * longest + position
        level = bool((lengths == longest).all())
        # Behind an end the last token is shown again, which nothing reads.
        column = torch.arange(longest, device=lengths.device)
        shown = (start.unsqueeze(1) + torch.minimum(column, lengths.unsqueeze(1) - 1)).flatten()
        if shared is None or not bool((shared > 0).any()):
            none = torch.zeros_like(lengths)
            return Layout(lengths, none, position, None, None, *((None, None) if level else (shown, place)))
        kept = position >= shared[sequence]
        down = kept.cumsum(0) - 1
        # Those that share nothing stand for the ones behind them.
        like = torch.where(shared == 0, start, 0).cummax(0).values
        index = torch.where(kept, down, down[like[sequence] + position])
        return Layout(lengths, shared, position[kept], kept, index, index[shown], place[kept])

    @cached_property
    def start(self) -> Tensor:
        """Where each sequence starts among the N tokens, and where the last one ends, `(S + 1,)`."""
        return torch.nn.functional.pad(self.lengths.cumsum(0), (1, 0))

    @cached_property
    def family(self) -> Tensor:
        """The first sequence of each family, those that have a beginning in common, and S."""
        first = (self.shared == 0).nonzero().squeeze(-1)
        return torch.cat([first, first.new_tensor([len(self.lengths)])])

    def at(self, tokens: Tensor) -> Tensor:
        """Where tokens `(n,)`, numbers from 0 to N - 1, are laid down."""
        return tokens if self.index is None else self.index[tokens]

    def beside(self, rows: Tensor) -> Tensor:
        """`(M, …)` as `(S, longest, …)`."""
        rows = rows if self.inside is None else rows.index_select(0, self.inside)
        return rows.unflatten(0, (len(self.lengths), -1))

    def padded(self, x: Tensor) -> Tensor:
        """`(1, H, M, h)` as `(S, H, longest, h)`."""
        return self.beside(x[0].transpose(0, 1)).transpose(1, 2)

    def packed(self, x: Tensor) -> Tensor:
        """`(S, H, longest, h)` as `(1, M, H, h)`."""
        rows = x.transpose(1, 2).flatten(0, 1)
        return (rows if self.real is None else rows.index_select(0, self.real)).unsqueeze(0)

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, scale: float | None, window: int | None = None
    ) -> Tensor:
        """Causal attention within each sequence, from `(S, H, longest, h)` to `(1, M, H, h)`; `key` and `value` may have fewer
        heads. Through a `window`, a token sees that many, itself the last of them."""
        groups, longest = query.shape[1] // key.shape[1], query.shape[2]
        if groups > 1:
            key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        near = None
        if window is not None and window < longest:
            near = torch.ones(longest, longest, dtype=torch.bool, device=query.device).tril().triu(1 - window)
        return self.packed(scaled_dot_product_attention(query, key, value, near, is_causal=near is None, scale=scale))


def layout_of(batch: Experience) -> Layout:
    """The layout of packed sequences: answers of one `group` that follow each other have their prompt in common."""
    lengths = torch.unique_consecutive(batch.segment, return_counts=True)[1]
    if batch.group is None or len(lengths) == 1:
        return Layout.of(lengths)
    plain = Layout.of(lengths)
    count, start = len(lengths), lengths.cumsum(0) - lengths
    sequence = torch.arange(count, device=lengths.device).repeat_interleave(lengths)
    # The prompt is what comes before the first chosen token; one without any shares nothing.
    chosen = torch.where(batch.mask.bool(), plain.position, lengths[sequence])
    prompt = lengths.scatter_reduce(0, sequence, chosen, "amin") % lengths
    before = (start[sequence] - lengths.roll(1)[sequence] + plain.position).clamp(min=0)
    differs = (batch.action != batch.action[before]) & (plain.position < prompt[sequence])
    alike = torch.zeros_like(lengths).index_add_(0, sequence, differs.long()) == 0
    group = batch.group[start]
    alike &= (group == group.roll(1)) & (prompt == prompt.roll(1))
    alike[0] = False
    return Layout.of(lengths, torch.where(alike, prompt, 0))
