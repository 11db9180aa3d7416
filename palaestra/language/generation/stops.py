"""What ends an answer in a tokeniser's tokens: ends of sequence, stop texts, and special tokens named as such."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from palaestra.core.errors import require
from palaestra.language.generation.engine import Ending

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def ending_at(tokeniser: PreTrainedTokenizerBase, ends: Sequence[int], stop: Sequence[str], vocabulary: int) -> Ending:
    """The ending at ids `ends`, and at each text or special token of `stop`, of a model with so many logits.

    Raises:
        BadSetting: a stop text is empty, or has a special token in the middle of it.
    """
    special = special_ids(tokeniser) if stop else {}
    for text in stop:
        require(bool(text), "a stop text must not be empty")
        within = next((token for token in special if token in text and token != text), None)
        require(
            within is None,
            f"the stop text {text!r} would never be found, since texts are read without special tokens; give {within!r} alone",
        )
    ids = dict.fromkeys([*ends, *(special[text] for text in stop if text in special)])
    read = partial(text_of, tokeniser)
    return Ending(tuple(ids), tuple(stop), read, _closers(tokeniser, stop, vocabulary) if stop else None)


def text_of(tokeniser: PreTrainedTokenizerBase, ids: list[int]) -> str:
    """The text of ids, without special tokens."""
    return str(tokeniser.decode(ids, skip_special_tokens=True))


def special_ids(tokeniser: PreTrainedTokenizerBase) -> dict[str, int]:
    """Special tokens, which texts are read without, by how they are written."""
    return {str(token): i for i, token in tokeniser.added_tokens_decoder.items() if token.special}


def _closers(tokeniser: PreTrainedTokenizerBase, stop: Sequence[str], vocabulary: int) -> Tensor:
    """(V,) which tokens hold the last character of a stop text."""
    last = {text[-1] for text in stop}
    # Some tokenisers leave out the space that a text begins with: a token is read behind another one, which is itself.
    texts = tokeniser.batch_decode([[i, i] for i in range(len(tokeniser))])
    closers = torch.zeros(max(len(tokeniser), vocabulary), dtype=torch.bool)
    for i, text in enumerate(texts):
        # A byte of a character that takes several may complete any of them.
        closers[i] = "�" in text or any(c in text for c in last)
    return closers
