"""Beam search: the likeliest answers, by the sum of log-probabilities and no other measure.

Under a policy that was aligned by DPO this is search by reward and value, too: the best continuation by implicit rewards and
soft value is the likeliest (Rafailov et al. 2024, arXiv:2404.12358, eq. 12-13). Dividing by length would break that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from palaestra.core.errors import require
from palaestra.core.precision import passing
from palaestra.language.generation.decoder import make_decoder


@dataclass
class Beam:
    """An answer that was found."""

    ids: Tensor  # (T,) int64, its end included
    logp: float
    """The sum of its tokens' log-probabilities."""
    ended: bool  # else the limit cut it off


@torch.no_grad()
def beam_search(
    model: Any, prompts: Sequence[Tensor], width: int, max_tokens: int, ends: Sequence[int]
) -> list[list[Beam]]:
    """For each of n prompts `(L,)`, up to `width` answers of at most `max_tokens` tokens, the likeliest first.

    `width` beginnings are gone on with at a time, those that no token of `ends` has closed; it is over where none of them is
    likelier than the worst of `width` answers that have ended. One beginning at a time is greedy decoding.
    """
    require(width >= 1, f"the width of a beam must be at least 1, got {width}")
    require(max_tokens >= 1, f"max_tokens must be at least 1, got {max_tokens}")
    if not prompts:
        return []
    n, device = len(prompts), model.device
    decoder = make_decoder(model, n * width, max(map(len, prompts)), max_tokens, 0)
    found: list[list[Beam]] = [[] for _ in prompts]
    said = torch.zeros(n, width, 0, dtype=torch.int64)
    # All beginnings of a prompt are the same at first, so that only one of them counts.
    score = torch.full((n, width), -torch.inf, dtype=torch.float64)
    score[:, 0] = 0.0
    closes = torch.tensor(list(ends))
    offset = torch.arange(n).unsqueeze(1) * width
    with passing(device, keep=True):
        logits = decoder.admit(list(prompts), [width] * n)
        for step in range(1, max_tokens + 1):
            logp = logits.float().log_softmax(-1).double().cpu().unflatten(0, (n, width))
            total = score.unsqueeze(-1) + logp
            # Of 2 w continuations at most w close, if there is one end, and so w can be gone on with.
            best, place = total.flatten(1).topk(min(width * (1 + len(closes)), total[0].numel()))
            parent, token = place // total.shape[-1], place % total.shape[-1]
            closed = torch.isin(token, closes) & best.isfinite()
            _write_down(found, said, best, parent, token, closed)
            best = best.masked_fill(closed, -torch.inf)
            score, order = best.topk(width)
            parent, token = parent.gather(1, order), token.gather(1, order)
            said = torch.cat([said.gather(1, parent.unsqueeze(-1).expand(-1, -1, step - 1)), token.unsqueeze(-1)], -1)
            if step == max_tokens or not _goes_on(found, score, width):
                break
            decoder.keep((parent + offset).flatten())
            logits = decoder.step(token.flatten())
    for beams, ids, sums in zip(found, said, score, strict=True):
        beams += [Beam(x, float(s), False) for x, s in zip(ids, sums, strict=True) if s.isfinite()]
        beams.sort(key=lambda beam: -beam.logp)
        del beams[width:]
    return found


def _write_down(
    found: list[list[Beam]], said: Tensor, best: Tensor, parent: Tensor, token: Tensor, closed: Tensor
) -> None:
    """Note the answers that end here."""
    for i, j in closed.nonzero().tolist():
        ids = torch.cat([said[i, parent[i, j]], token[i, j].unsqueeze(0)])
        found[i].append(Beam(ids, float(best[i, j]), True))


def _goes_on(found: list[list[Beam]], score: Tensor, width: int) -> bool:
    """Whether a beginning may yet become one of a prompt's `width` likeliest answers."""
    for beams, open_ in zip(found, score.max(1).values.tolist(), strict=True):
        ended = sorted((beam.logp for beam in beams), reverse=True)
        if open_ > -torch.inf and (len(ended) < width or open_ > ended[width - 1]):
            return True
    return False
