"""Transformers over windows of steps: the tokens of a step, blocks of attention, and an encoder of whole windows.

Padding is on the left and marked by a mask `(B, T)`, 1 where a token is real. Dropout is by masks that are drawn beforehand,
since a loss draws no random numbers; it is applied to the tokens and to every branch, not to the attention weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from palaestra.core.errors import require, unknown
from palaestra.core.experience import Experience, tree_map
from palaestra.nets.encoders import Encoder, make_encoder

INNER = 4
"""Width of a block's perceptron over that of its tokens."""
DEVIATION = 0.02
"""Of the initial weights within blocks, as in BERT and GPT-2."""
PADDED_ACTION = -10.0
"""What stands for an action before a window's first step, where the released code lets it be seen (Chen et al. 2021)."""

Pooling = Literal["sum", "mean", "sum_padded"]


class Block(nn.Module):
    """Self-attention and a perceptron, each a branch beside the identity; normalised before the branches or after the sums."""

    def __init__(self, width: int, heads: int, before: bool):
        super().__init__()
        self.heads, self.before = heads, before
        self.norm_attention, self.norm_perceptron = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.joined = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.perceptron = nn.Sequential(nn.Linear(width, INNER * width), nn.ReLU(), nn.Linear(INNER * width, width))
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=DEVIATION)
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, allowed: Tensor, keep: Tensor | None) -> Tensor:
        drop = (1.0, 1.0) if keep is None else (keep[0], keep[1])
        if self.before:
            x = x + drop[0] * self.attention(self.norm_attention(x), allowed)
            return x + drop[1] * self.perceptron(self.norm_perceptron(x))
        x = self.norm_attention(x + drop[0] * self.attention(x, allowed))
        return self.norm_perceptron(x + drop[1] * self.perceptron(x))

    def attention(self, x: Tensor, allowed: Tensor) -> Tensor:
        """Every token's weighted mean of those that `allowed` `(B, 1, T or 1, T)` lets it see."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
        return self.joined(seen.transpose(1, 2).flatten(2))


class Transformer(nn.Module):
    """`layers` blocks over tokens `(B, T, width)`.

    A causal one lets a token see itself and those before it, and normalises before its branches and at the end (GPT-2, Radford
    et al. 2019); a bidirectional one lets it see all, and normalises after its sums (BERT, Devlin et al. 2019).
    """

    def __init__(self, width: int, layers: int, heads: int, causal: bool):
        super().__init__()
        require(width >= 1 and layers >= 1, f"width and layers must be at least 1, got {width} and {layers}")
        require(heads >= 1 and width % heads == 0, f"heads must divide the width {width}, got {heads}")
        self.width, self.causal = width, causal
        self.blocks = nn.ModuleList(Block(width, heads, before=causal) for _ in range(layers))
        self.norm = nn.LayerNorm(width) if causal else nn.Identity()

    def forward(self, x: Tensor, mask: Tensor, keep: Tensor | None = None) -> Tensor:
        """`(B, T, width)` to the same; what stands at padding means nothing. `keep` is what `draw` gave."""
        allowed = mask.bool()[:, None, None, :]
        if self.causal:
            # Padding sees itself, so that its softmax, which nobody reads, is not one over nothing.
            square = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device)
            allowed = (allowed & square.tril()) | torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
        if keep is not None:
            x = keep[0] * x
        for i, block in enumerate(self.blocks):
            x = block(x, allowed, None if keep is None else keep[2 * i + 1 : 2 * i + 3])
        return self.norm(x)

    def draw(self, batch: int, tokens: int, dropout: float, generator: torch.Generator) -> Tensor | None:
        """Dropout of one pass over `(batch, tokens, width)`: 0, or 1 / (1 - dropout) where a number is kept; None without any."""
        if dropout == 0:
            return None
        masks = torch.empty(2 * len(self.blocks) + 1, batch, tokens, self.width)
        return masks.bernoulli_(1 - dropout, generator=generator) / (1 - dropout)


class StepTokens(nn.Module):
    """The parts of every step as tokens in turn: each part's linear map plus the learnt embedding of the step's time."""

    def __init__(self, sizes: Sequence[int], width: int, horizon: int):
        super().__init__()
        self.maps = nn.ModuleList(nn.Linear(size, width) for size in sizes)
        self.time = nn.Embedding(horizon, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, parts: Sequence[Tensor], time: Tensor) -> Tensor:
        """`P` parts `(B, K, size)` at times `(B, K)` to `(B, P K, width)`."""
        at = self.time(time)
        tokens = [embed(part) + at for embed, part in zip(self.maps, parts, strict=True)]
        return self.norm(torch.stack(tokens, 2).flatten(1, 2))


def encoded(encoder: Encoder, obs: Any) -> Tensor:
    """Features `(B, K, size)` of windows of observations `(B, K, …)`."""
    rows = tree_map(lambda x: x.flatten(0, 1), obs)
    leaf = obs
    while isinstance(leaf, dict):
        leaf = next(iter(leaf.values()))
    return encoder(rows).unflatten(0, leaf.shape[:2])


class WindowEncoder(nn.Module):
    """Windows of observations and actions to embeddings `(B, size)`: a bidirectional transformer, pooled over its tokens.

    `pooling` is the sum or the mean over real tokens, or `sum_padded`, the sum over padding as well.
    """

    def __init__(
        self,
        observation_space: Any,
        action_size: int,
        size: int,
        *,
        width: int = 128,
        layers: int = 3,
        heads: int = 2,
        horizon: int = 1000,
        pooling: Pooling = "sum",
    ):
        super().__init__()
        if pooling not in get_args(Pooling):
            raise unknown("pooling", pooling, get_args(Pooling))
        self.pooling = pooling
        self.encoder = make_encoder(observation_space, standardise=True)
        self.tokens = StepTokens((self.encoder.size, action_size), width, horizon)
        self.transformer = Transformer(width, layers, heads, causal=False)
        self.head = nn.Linear(width, size)

    def forward(self, windows: Experience, keep: Tensor | None = None) -> Tensor:
        """The embedding of every window `(B, K)`."""
        action = windows.action
        if self.pooling == "sum_padded":
            action = torch.where(windows.mask.bool().unsqueeze(-1), action, PADDED_ACTION)
        tokens = self.tokens((encoded(self.encoder, windows.obs), action), windows.time)
        mask = windows.mask.repeat_interleave(2, 1)
        out = self.transformer(tokens, mask, keep)
        if self.pooling == "sum_padded":
            return self.head(out.sum(1))
        # Selected rather than multiplied: whatever padding holds must not reach the sum.
        pooled = torch.where(mask.bool().unsqueeze(-1), out, 0.0).sum(1)
        return self.head(pooled if self.pooling == "sum" else pooled / mask.sum(1, keepdim=True))
