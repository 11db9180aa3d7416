"""Base of methods with a clipped surrogate over tokens, which counts the tokens that the clip range stops."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from palaestra.core.method import Metrics, Tallies
from palaestra.core.task import Task
from palaestra.language.readout import pieces
from palaestra.methods.language.rounds import Rounds
from palaestra.nets.gradient import Outputs

WAYS = ("tokens clipped up", "tokens clipped down")
MOST = 20
"""How many of the most clipped tokens are listed for each direction."""


@dataclass
class ClippedSurrogate(Rounds):
    """Rounds whose loss is a clipped surrogate over tokens; clipped tokens are counted by their ids, up and down apart."""

    def setup(self, task: Task) -> None:
        super().setup(task)
        vocabulary = self.language_policy.model.config.get_text_config().vocab_size
        self.clipped = torch.zeros(len(WAYS), vocabulary, dtype=torch.int64)
        """How often each token was clipped: part of the state, so that a resumed run goes on counting."""

    def as_one(self, outputs: list[Outputs]) -> Metrics:
        for own in outputs:
            for way, counts in zip(WAYS, self.clipped, strict=True):
                if way in own:
                    ids = own.pop(way)
                    counts.index_add_(0, ids, torch.ones_like(ids))
        return super().as_one(outputs)

    def tallies(self) -> Tallies:
        """The tokens that were clipped most since training began, in all gradient steps."""
        named = {way: self._most(counts) for way, counts in zip(WAYS, self.clipped, strict=True)}
        return {way: most for way, most in named.items() if most}

    def _most(self, counts: Tensor) -> list[tuple[str, int]]:
        ids = [i for i in counts.argsort(descending=True, stable=True)[:MOST].tolist() if counts[i] > 0]
        return [(pieces(self.language_policy.tokeniser, [i])[0] or f"#{i}", int(counts[i])) for i in ids]


@torch.no_grad()
def over_tokens(ids: Tensor, ratio: Tensor, advantage: Tensor, clip: tuple[float, float], entropy: Tensor) -> Outputs:
    """Entropy, divergence and clipped shares as sums over the tokens of a pass, `(N,)`, and the ids of clipped tokens."""
    up = (ratio > 1 + clip[1]) & (advantage > 0)
    down = (ratio < 1 - clip[0]) & (advantage < 0)
    return {
        "tokens": torch.tensor(float(len(ratio))),
        "policy/entropy": entropy.sum(),
        "policy/kl": (ratio - 1 - ratio.log()).sum(),
        "policy/clipped_up": up.float().sum(),
        "policy/clipped_down": down.float().sum(),
        **{way: ids[stopped] for way, stopped in zip(WAYS, (up, down), strict=True)},
    }
