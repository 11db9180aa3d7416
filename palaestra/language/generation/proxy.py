"""Proxy tuning: a base model decoded with what a small model has learnt (Rafailov et al. 2024, eq. 14; Liu et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from palaestra.core.errors import require
from palaestra.language.generation.decoder import Decoder, make_decoder
from palaestra.language.generation.engine import Ending, Generated, Request, generate_by
from palaestra.language.generation.sampling import Sampling
from palaestra.language.soups import same_vocabulary


class ProxyTuned:
    """An engine whose tokens come from pi_base (pi_proxy / pi_ref)^beta: set it as a base policy's `engine`.

    The ratio is an implicit advantage, which the small model learnt against the reference and the base has not. All three read
    the same ids, so vocabularies must be the same.
    """

    def __init__(self, proxy: Any, reference: Any, beta: float = 1.0):
        """`proxy` and `reference` are language policies."""
        require(beta >= 0, f"beta must not be negative, got {beta}")
        same_vocabulary([proxy.tokeniser, reference.tokeniser])
        self.proxy, self.reference, self.beta = proxy, reference, beta

    def generate(
        self, policy: Any, requests: Sequence[Request], sampling: Sampling, ending: Ending, rows: int = 256
    ) -> list[Generated]:
        """What `engine.generate` gives, of the mixture."""
        same_vocabulary([policy.tokeniser, self.proxy.tokeniser])
        models = [policy.model, self.proxy.model, self.reference.model]

        def mixture(*size: int) -> Decoder:
            return Mixture([make_decoder(model, *size) for model in models], (1.0, self.beta, -self.beta))

        return generate_by(mixture, policy.model, requests, sampling, ending, rows)


class Mixture:
    """A decoder whose logits are a weighted sum of several decoders', as they are: a repetition penalty goes by their signs."""

    def __init__(self, decoders: Sequence[Decoder], weights: Sequence[float]):
        self.decoders, self.weights = decoders, weights
        self.rows, self.joins = 0, all(decoder.joins for decoder in decoders)

    def admit(self, prompts: Sequence[Tensor], copies: Sequence[int], clips: Sequence[Any] = ()) -> Tensor:
        logits = self._mixed([decoder.admit(prompts, copies, clips) for decoder in self.decoders])
        self.rows, self.joins = self.decoders[0].rows, all(decoder.joins for decoder in self.decoders)
        return logits

    def step(self, token: Tensor) -> Tensor:
        return self._mixed([decoder.step(token) for decoder in self.decoders])

    def keep(self, index: Tensor) -> None:
        for decoder in self.decoders:
            decoder.keep(index)
        self.rows = len(index)

    def _mixed(self, logits: Sequence[Tensor]) -> Tensor:
        size = min(x.shape[-1] for x in logits)  # models of one vocabulary may have rows of padding behind it
        parts = [w * x[:, :size].float() for w, x in zip(self.weights, logits, strict=True) if w]
        return torch.stack(parts).sum(0)
