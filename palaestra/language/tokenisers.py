"""Tokenisers of small languages: a vocabulary of whole symbols and numbers, made from a list of them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from palaestra.core.errors import require

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PAD, BOS, EOS, UNKNOWN, MASK = "<pad>", "<bos>", "<eos>", "<unk>", "<mask>"
SPECIAL = (PAD, BOS, EOS, UNKNOWN, MASK)
"""Ids 0 to 4 of every vocabulary. Nothing adds them to a text by itself; `<mask>` is for masked diffusion."""


def word_tokeniser(symbols: Iterable[str]) -> PreTrainedTokenizerBase:
    """A tokeniser that knows `symbols` and reads the longest one at each place, from left to right.

    A token stands for exactly its own text, spaces included, so that the text of ids one after the other is their texts one after
    the other, and any text over the symbols is its ids' text again. Where a symbol is a number of several digits, runs of digits
    are numbers, known or not: 12 is never read as 1 and 2. What is no symbol is `<unk>`.

    Raises:
        BadSetting: no symbols, an empty one, or one that is special.
    """
    from tokenizers import Regex, Tokenizer
    from tokenizers.decoders import Fuse
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Split
    from transformers import PreTrainedTokenizerFast

    words = list(dict.fromkeys(symbols))
    require(bool(words), "a tokeniser needs at least one symbol")
    for word in words:
        require(
            bool(word) and word not in SPECIAL, f"{word!r} cannot be a symbol of a tokeniser: it is empty or special"
        )
    numbers = any(len(word) > 1 and is_number(word) for word in words)
    literal = [re.escape(word) for word in sorted(words, key=len, reverse=True) if not (numbers and is_number(word))]
    tokeniser = Tokenizer(WordLevel({word: i for i, word in enumerate([*SPECIAL, *words])}, unk_token=UNKNOWN))
    tokeniser.pre_tokenizer = Split(Regex("|".join(["[0-9]+", *literal] if numbers else literal)), "isolated")
    tokeniser.decoder = Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokeniser,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNKNOWN,
        mask_token=MASK,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def is_number(word: str) -> bool:
    """Whether a word is digits and nothing else."""
    return word.isascii() and word.isdigit()
