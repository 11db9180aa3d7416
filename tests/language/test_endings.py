"""Answers that look cut off are told from those that are of one length, or of few, for another reason."""

from __future__ import annotations

import random
import warnings

import pytest

from palaestra.core.method import Budget
from palaestra.language.endings import cut_at, warn_of_cut_answers
from palaestra.language.tasks.prompts import PromptTask
from palaestra.language.tokenisers import word_tokeniser
from palaestra.methods.language.sft import SFT
from palaestra.methods.preference.dpo import DPO

LETTERS = "abcdefgh"


def prose(words: int, rng: random.Random) -> str:
    """As many words of four letters, a mark at the end of all, without it where it is cut."""
    return " ".join("".join(rng.choices(LETTERS, k=4)) for _ in range(words)) + rng.choice(".!")


def told(texts):
    return cut_at(texts, [len(text) for text in texts])


@pytest.fixture
def whole():
    rng = random.Random(0)
    return [prose(min(40, 1 + int(rng.expovariate(0.1))), rng) for _ in range(400)]


def test_many_answers_that_end_at_one_length_and_in_a_word_look_cut_off(whole):
    cut = [text[:97] for text in whole]
    assert told(cut) == (97, sum(len(text) >= 97 for text in whole))
    longer = [*cut, "abcd " * 20]  # one that is read as more tokens than it was given in
    assert told(longer) == told(cut)


def test_so_do_answers_of_which_none_ever_ended():
    rng = random.Random(0)
    texts = [prose(30, rng)[:97] for _ in range(50)]
    assert told(texts) == (97, 50)
    assert told([text[:96] + "." for text in texts]) is None


def test_whole_answers_do_not_nor_those_that_were_chosen_by_their_length(whole):
    assert told(whole) is None
    assert told([text for text in whole if len(text) <= 60]) is None


@pytest.mark.parametrize("sizes", [[81], [9, 16, 81, 81, 81], range(70, 82)])
def test_nor_do_answers_of_a_fixed_form(sizes):
    rng = random.Random(0)
    assert told(["".join(rng.choices("0123456789", k=rng.choice(sizes))) for _ in range(500)]) is None


def test_nor_one_sentence_that_is_said_again_and_again_nor_short_answers(whole):
    assert told([*whole, *["abcd " * 40 + "ab"] * 100]) is None
    assert told([text[:12] for text in whole]) is None


def test_answers_of_no_tokens_and_answers_of_nothing_tell_nothing(whole):
    assert cut_at([], []) is None and cut_at(["", "\u0300"], [0, 0]) is None
    cut = [text[:97] for text in whole]
    assert told([*cut, "", "\n", " " * 97]) == (97, told(cut)[1])


class Told(PromptTask):
    def tokeniser(self):
        return word_tokeniser([*LETTERS, *" .!"])


@pytest.mark.parametrize(
    ("method", "row"),
    [
        (SFT(model="tiny-16x1"), lambda text: {"completion": text}),
        (DPO(model="tiny-16x1"), lambda text: {"chosen": text, "rejected": "a."}),
    ],
)
def test_a_user_s_rows_are_looked_at_before_anything_is_trained_unless_they_have_flags(whole, method, row):
    def bind(**flags):
        rows = [{"prompt": "ab", **row(text[:97]), **flags} for text in whole]
        method.bind(Told(rows, held_out=0.0), 0, Budget(updates=1))

    with pytest.warns(
        UserWarning, match=r"answers of prompts have 97 tokens and look cut off there.*a column truncated"
    ):
        bind()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bind(truncated=[True] * (2 if isinstance(method, DPO) else 1))


def add(a: int, b: int) -> int:
    """Add two numbers.

    Args:
        a: One.
        b: The other.
    """
    return a + b


def test_rows_that_are_shown_with_tools_are_looked_at_as_well(whole):
    rows = [{"prompt": [{"role": "user", "content": "ab"}], "completion": text[:97]} for text in whole]
    task = Told(rows, held_out=0.0, tools=add)
    shown = task.rows("train")
    assert [row["tools"][0]["function"]["name"] for row in shown[:2]] == ["add", "add"]
    with pytest.warns(UserWarning, match="look cut off"):
        warn_of_cut_answers(shown, lambda row: [(row["completion"], False)], task.tokeniser(), task.name)
