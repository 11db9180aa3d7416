"""Where an answer ends: at texts and at special tokens, in tokenisers that write spaces by themselves, too."""

from __future__ import annotations

import pytest
import torch

import palaestra as pal
from palaestra.core.errors import BadSetting
from palaestra.core.task import as_task
from palaestra.language.convert import convert_llama2c
from palaestra.language.policy import LanguagePolicy

from .test_chat import PLAIN, SYMBOLS
from .test_stories import real, table, write_model

STOP = "<|stop|>"
ROWS = [{"prompt": "3?"}]


def with_special(made) -> LanguagePolicy:
    """A model whose tokeniser has one more special token, as a base model has that of its chat template."""
    made.add_special_tokens({"additional_special_tokens": [STOP]})

    class Task(pal.TextTask):
        def tokeniser(self):
            return made

    torch.manual_seed(0)
    return LanguagePolicy.make("tiny-16x1", Task())


@pytest.fixture
def special():
    from palaestra.language.tokenisers import word_tokeniser

    made = word_tokeniser([*SYMBOLS, "<"])
    made.chat_template = PLAIN.replace("<eos>", STOP)
    return with_special(made)


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    """A small model with a tokeniser of SentencePiece's kind, which leaves out the first space of what it writes."""
    folder = tmp_path_factory.mktemp("pieces")
    (folder / "tok.bin").write_bytes(table())
    write_model(folder / "model.bin")
    return LanguagePolicy.make(str(convert_llama2c(folder, folder / "out")))


def test_an_answer_ends_at_a_special_token(special):
    """Its text is not in the answer's, where it could be looked for."""
    stop = special.tokeniser.convert_tokens_to_ids(STOP)
    free = special.answer(ROWS, copies=40, max_tokens=20, seed=1)
    assert sum(stop in s.completion[:-1] for s in free) > 5
    for s, one in zip(special.answer(ROWS, copies=40, max_tokens=20, seed=1, stop=(STOP,)), free, strict=True):
        ids, whole = s.completion.tolist(), one.completion.tolist()
        assert ids == whole[: whole.index(stop) + 1 if stop in whole else None]
        assert s.truncated == (one.truncated and stop not in whole)
        assert STOP not in s.text


def test_a_text_with_a_special_token_in_it_is_refused(special):
    with pytest.raises(BadSetting, match=r"'<\|stop\|>\.' .*'<\|stop\|>' alone"):
        special.answer(ROWS, stop=(STOP + ".",))


def test_a_special_token_that_ended_a_turn_is_not_said_again_by_the_template(special):
    stop, reply = special.tokeniser.convert_tokens_to_ids(STOP), [{"role": "tool", "content": "7"}]
    after = special.tokeniser(".(tool)7" + STOP + ".(assistant)").input_ids
    assert special.reply_ids(reply, stop) == after
    assert special.reply_ids(reply, special.tokeniser.eos_token_id) == [stop, *after]


@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_text_is_looked_for_at_every_token_that_can_complete_it(pieces, length):
    """Every short text of some ids, taken for a stop, is reached where it is complete; they have bytes and spaces."""
    ids = pieces.tokeniser("abc the aa\naü the é", add_special_tokens=False).input_ids
    texts = [pieces.tokeniser.decode(ids[:n]) for n in range(len(ids) + 1)]
    stops = {texts[-1][i : i + length] for i in range(len(texts[-1]) - length + 1)}
    assert any(" " in stop for stop in stops) and any("ü" in stop for stop in stops)
    for stop in stops:
        ending = pieces.ending((stop,))
        looked = (n for n in range(1, len(ids) + 1) if ending.closers[ids[n - 1]] and ending.reached(ids[:n]))
        assert next(looked) == next(n for n, text in enumerate(texts) if stop in text)


def test_texts_are_looked_for_at_few_tokens(pieces):
    closers = pieces.ending(("the",)).closers
    assert [pieces.tokeniser.decode([i]) for i in closers.nonzero().flatten().tolist() if i > 258] == ["he", "the", "e"]


@real
def test_a_story_ends_at_a_word_and_its_space():
    policy = LanguagePolicy.make("stories260K")
    for stop in ("girl ", "a "):
        (said,) = policy.answer([{"prompt": "Once upon a time, there was"}], max_tokens=60, greedy=True, stop=(stop,))
        assert not said.truncated and len(said.completion) < 10


def test_a_stop_must_not_be_empty():
    with pytest.raises(BadSetting, match="empty"):
        LanguagePolicy.make("tiny-16x1", as_task("sorting")).answer(ROWS, stop=("",))
