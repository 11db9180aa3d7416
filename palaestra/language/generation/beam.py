"""Beam search: the likeliest answers, by the sum of log-probabilities and no other measure.

Under a policy that was aligned by DPO this is search by reward and value, too: the best continuation by implicit rewards and
soft value is the likeliest (Rafailov et al. 2024, arXiv:2404.12358, eq. 12-13). Dividing by length would break that.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from palaestra.core.errors import Diverged, Unsupported, require
from palaestra.core.precision import passing
from palaestra.language.generation.decoder import make_decoder
from palaestra.language.generation.engine import Ending, Generated, Request, check_requests
from palaestra.language.generation.sampling import Sampling


@dataclass
class Beam:
    """An answer that was found."""

    ids: Tensor  # (T,) int64, its end included
    sums: Tensor  # (T,) of the log-probabilities up to each token
    ended: bool  # else the limit cut it off

    @property
    def logp(self) -> float:
        """The sum of its tokens' log-probabilities."""
        return float(self.sums[-1])


class BeamSearch:
    """An engine that gives the likeliest answers that a beam finds: set it as a policy's `engine`.

    Of several copies each is the next likely; nothing is drawn, so seeds and temperatures say nothing.
    """

    def __init__(self, width: int):
        require(width >= 1, f"the width of a beam must be at least 1, got {width}")
        self.width = width

    def __str__(self) -> str:
        return f"a beam of width {self.width}"

    def generate(
        self, policy: Any, requests: Sequence[Request], sampling: Sampling, ending: Ending, rows: int = 256
    ) -> list[Generated]:
        """What `engine.generate` gives, of the search; it warns where there are fewer answers than are asked for."""
        check_requests(policy.model, requests)
        if sampling.penalises:
            raise Unsupported("a beam goes by log-probabilities alone; leave repetition_penalty at 1")
        if any(r.respond is not None or r.clip is not None for r in requests):
            raise Unsupported("a beam is not for what replies to turns or shows films; leave --beam out there")
        most = max((len(r.seeds) for r in requests), default=0)
        require(most <= self.width, f"{self} has no {most} answers to a prompt")
        together, found, short = max(1, rows // self.width), list[Generated](), list[int]()
        for limit, alike in groupby(enumerate(requests), lambda numbered: numbered[1].max_tokens):
            asked = list(alike)
            for part in (asked[i : i + together] for i in range(0, len(asked), together)):
                beams = beam_search(policy.model, [r.ids for _, r in part], self.width, limit, ending)
                for (number, request), answers in zip(part, beams, strict=True):
                    found += [_generated(number, i, beam) for i, beam in enumerate(answers[: len(request.seeds)])]
                    short += [len(answers)] if len(answers) < len(request.seeds) else []
        if short:
            warnings.warn(
                f"{most} answers were asked for, and {len(short)} of {len(requests)} prompts have no more than are given, as few "
                f"as {min(short)}: ask for fewer (copies), or allow longer ones (max_tokens)",
                stacklevel=3,
            )
        return found


def _generated(request: int, copy: int, beam: Beam) -> Generated:
    logp = beam.sums.diff(prepend=beam.sums.new_zeros(1)).float()
    return Generated(request, copy, beam.ids, torch.ones_like(beam.ids).bool(), logp, logp, not beam.ended)


def _ends(ending: Ending, ids: Sequence[int]) -> bool:
    """Whether an answer ends with the last of its ids."""
    if ids[-1] in ending.ids:
        return True
    return ending.closers is not None and bool(ending.closers[ids[-1]]) and ending.reached(list(ids))


@torch.no_grad()
def beam_search(model: Any, prompts: Sequence[Tensor], width: int, max_tokens: int, ending: Ending) -> list[list[Beam]]:
    """For each of n prompts `(L,)`, up to `width` answers of at most `max_tokens` tokens, the likeliest first.

    `width` beginnings are gone on with at a time, those that have not come to an end; it is over where none of them is likelier
    than the worst of `width` answers that have. One beginning at a time goes the way of greedy decoding, and gives a likelier end
    that it passed. A stop text is part of an answer's likelihood.
    """
    require(width >= 1, f"the width of a beam must be at least 1, got {width}")
    require(max_tokens >= 1, f"max_tokens must be at least 1, got {max_tokens}")
    if not prompts:
        return []
    n, device = len(prompts), model.device
    decoder = make_decoder(model, n * width, max(map(len, prompts)), max_tokens, 0)
    found: list[list[Beam]] = [[] for _ in prompts]
    said = torch.zeros(n, width, 0, dtype=torch.int64)
    sums = torch.zeros(n, width, 0, dtype=torch.float64)
    # All beginnings of a prompt are the same at first, so that only one of them counts.
    score = torch.full((n, width), -torch.inf, dtype=torch.float64)
    score[:, 0] = 0.0
    offset = torch.arange(n).unsqueeze(1) * width
    with passing(device, keep=True):
        logits = decoder.admit(list(prompts), [width] * n)
        for step in range(1, max_tokens + 1):
            logp = logits.float().log_softmax(-1).double().cpu().unflatten(0, (n, width))
            if bool(logp.isnan().any()):
                raise Diverged("the logits of the model became NaN or infinite, so that no answer is the likeliest")
            total = score.unsqueeze(-1) + logp
            # Of 2 w continuations at most w close, if there is one end, and so w can be gone on with.
            enough, most = width * (1 + len(ending.ids)), total[0].numel()
            best, parent, token, closed = _continued(total, said, ending, min(enough, most))
            while enough < most and int((~closed).sum(1).min()) < width:  # stop texts have closed too many
                enough *= 2
                best, parent, token, closed = _continued(total, said, ending, min(enough, most))
            _write_down(found, said, sums, best, parent, token, closed)
            best = best.masked_fill(closed, -torch.inf)
            score, order = best.topk(width)
            parent, token = parent.gather(1, order), token.gather(1, order)
            before = parent.unsqueeze(-1).expand(-1, -1, step - 1)
            said = torch.cat([said.gather(1, before), token.unsqueeze(-1)], -1)
            sums = torch.cat([sums.gather(1, before), score.unsqueeze(-1)], -1)
            if step == max_tokens or not _goes_on(found, score, width):
                break
            decoder.keep((parent + offset).flatten())
            logits = decoder.step(token.flatten())
    for beams, ids, scores in zip(found, said, sums, strict=True):
        beams += [Beam(x, s, False) for x, s in zip(ids, scores, strict=True) if s[-1].isfinite()]
        beams.sort(key=lambda beam: -beam.logp)
        del beams[width:]
    return found


def _continued(total: Tensor, said: Tensor, ending: Ending, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The likeliest continuations of each prompt's beginnings `(n, w, V)`: their log-probabilities, what they go on from and by
    which token, and which of them end there, `(n, count)` each."""
    best, place = total.flatten(1).topk(count)
    parent, token = place // total.shape[-1], place % total.shape[-1]
    closed = torch.isin(token, torch.tensor(ending.ids))
    if ending.closers is not None:
        for i, j in (ending.closers[token] & best.isfinite()).nonzero().tolist():
            closed[i, j] = _ends(ending, [*said[i, parent[i, j]].tolist(), int(token[i, j])])
    return best, parent, token, closed & best.isfinite()


def _write_down(
    found: list[list[Beam]],
    said: Tensor,
    sums: Tensor,
    best: Tensor,
    parent: Tensor,
    token: Tensor,
    closed: Tensor,
) -> None:
    """Note the answers that end here."""
    for i, j in closed.nonzero().tolist():
        source = i, parent[i, j]
        ids, total = (torch.cat([x[source], y[i, j].unsqueeze(0)]) for x, y in ((said, token), (sums, best)))
        found[i].append(Beam(ids, total, True))


def _goes_on(found: list[list[Beam]], score: Tensor, width: int) -> bool:
    """Whether a beginning may yet become one of a prompt's `width` likeliest answers."""
    for beams, open_ in zip(found, score.max(1).values.tolist(), strict=True):
        ended = sorted((beam.logp for beam in beams), reverse=True)
        if open_ > -torch.inf and (len(ended) < width or open_ > ended[width - 1]):
            return True
    return False
