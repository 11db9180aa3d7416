"""Word tokenisers: a token is its own text, numbers are whole, and a saved tokeniser is an ordinary one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palaestra.core.errors import BadSetting
from palaestra.language.tokenisers import MASK, word_tokeniser

SYMBOLS = [*map(str, range(101)), "+", "=", " ", "<think>", "</think>", " a", " and", " an a"]
TOKENISER = word_tokeniser(SYMBOLS)
ids = st.lists(st.integers(5, len(SYMBOLS) + 4), max_size=20)


def test_each_number_and_symbol_is_one_token():
    assert TOKENISER.convert_ids_to_tokens(TOKENISER("<think>3+97=100 7").input_ids) == [
        *("<think>", "3", "+", "97", "=", "100", " ", "7")
    ]


def test_the_longest_symbol_is_read():
    assert TOKENISER.convert_ids_to_tokens(TOKENISER(" a and an a").input_ids) == [" a", " and", " an a"]


@given(ids, ids)
def test_the_text_of_ids_one_after_the_other_is_their_texts_one_after_the_other(first, second):
    assert TOKENISER.decode(first + second) == TOKENISER.decode(first) + TOKENISER.decode(second)


@given(ids)
def test_a_text_over_the_symbols_is_the_text_of_its_ids(chosen):
    words = [SYMBOLS[i - 5] for i in chosen]
    text = "+".join(words)  # two numbers in a row would be another number
    assert TOKENISER.decode(TOKENISER(text).input_ids) == text


def test_a_number_that_is_not_in_the_vocabulary_is_not_read_as_several():
    assert TOKENISER("3+1017").input_ids[-1] == TOKENISER.unk_token_id


def test_digits_are_read_one_by_one_where_they_are_the_symbols():
    tokeniser = word_tokeniser("0123456789=")
    assert len(tokeniser("90210=").input_ids) == 6


def test_nothing_is_added_and_special_texts_are_special_tokens():
    assert TOKENISER("").input_ids == []
    assert TOKENISER(f"{MASK}<eos>").input_ids == [TOKENISER.mask_token_id, TOKENISER.eos_token_id]
    assert [TOKENISER.pad_token_id, TOKENISER.bos_token_id, TOKENISER.eos_token_id] == [0, 1, 2]


def test_symbols_that_stand_twice_count_once_and_order_decides_ids():
    assert word_tokeniser(["b", "a", "b"]).get_vocab() == word_tokeniser(["b", "a"]).get_vocab()
    assert word_tokeniser(["b", "a"])("ba").input_ids == [5, 6]


def test_a_saved_tokeniser_is_read_by_auto_tokenizer(tmp_path):
    from transformers import AutoTokenizer

    TOKENISER.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    text = "<think>3+97=100 7 and"
    assert again(text).input_ids == TOKENISER(text).input_ids
    assert again.decode(again(text).input_ids) == text
    assert again.padding_side == "left"


@pytest.mark.parametrize("symbols", [[], [""], ["a", "<pad>"]])
def test_a_vocabulary_that_cannot_be_is_refused(symbols):
    with pytest.raises(BadSetting):
        word_tokeniser(symbols)
