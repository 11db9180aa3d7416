"""Replies by the chat template: what stands between two answers, and which templates cannot be used so."""

from __future__ import annotations

import pytest
import torch

import palaestra as pal
from palaestra.core.errors import PalaestraError
from palaestra.language.chat import added, conversation, messages_of, opening, ordinary
from palaestra.language.generation.stops import special_ids
from palaestra.language.policy import LanguagePolicy
from palaestra.language.tokenisers import word_tokeniser

PLAIN = (
    "{% if tools %}[{% for t in tools %}{{ t['name'] }}{% endfor %}]{% endif %}"
    "{% for m in messages %}{{ '(' + m['role'] + ')' + m['content'] + '<eos>' + '.' }}{% endfor %}"
    "{% if add_generation_prompt %}(assistant){% endif %}"
)
"""Roles in brackets; every message ends with the end of sequence and a full stop, as many templates have a line break there."""
FORGETFUL = (
    "{% for m in messages %}{{ '(' + m['role'] + ')' }}"
    "{% if m['role'] == 'assistant' and not loop.last %}{{ '?' }}{% else %}{{ m['content'] }}{% endif %}{{ '<eos>' }}{% endfor %}"
    "{% if add_generation_prompt %}(assistant){% endif %}"
)
"""Leaves earlier answers out."""
ENDLESS = (
    "{% for m in messages %}{{ '(' + m['role'] + ')' + m['content'] + '.' }}{% endfor %}"
    "{% if add_generation_prompt %}(assistant){% endif %}"
)
STRICT = (
    "{% for m in messages %}{% if m['role'] == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}{% endfor %}"
)
SYMBOLS = [*"0123456789?!.[]", "(user)", "(assistant)", "(tool)", "palaestra"]
TOOL = [{"role": "tool", "content": "7"}]
ASKED = [{"role": "user", "content": "3?"}]


def tokeniser(template=PLAIN):
    made = word_tokeniser(SYMBOLS)
    made.chat_template = template
    return made


def with_tokeniser(made) -> LanguagePolicy:
    class Task(pal.TextTask):
        def tokeniser(self):
            return made

    torch.manual_seed(0)
    return LanguagePolicy.make("tiny-16x1", Task())


@pytest.fixture(scope="module")
def policy():
    return with_tokeniser(tokeniser())


def words(policy, ids):
    return [policy.tokeniser.decode([i]) for i in ids]


def test_a_reply_is_what_the_template_writes_from_the_end_of_an_answer_to_the_next_one():
    assert added(tokeniser(), TOOL) == "<eos>.(tool)7<eos>.(assistant)"
    assert added(tokeniser(), [*TOOL, *ASKED]) == "<eos>.(tool)7<eos>.(user)3?<eos>.(assistant)"


def test_a_conversation_with_replies_is_the_template_s_own_when_answers_end_by_themselves(policy):
    """The tokens of a whole conversation, put together turn by turn, are those of the template for all of it."""
    eos = policy.tokeniser.eos_token_id
    first = policy.tokeniser("45").input_ids
    ids = [*opening(policy.tokeniser, ASKED), *first, eos, *policy.reply_ids(TOOL, eos)]
    whole = [*ASKED, {"role": "assistant", "content": "45"}, *TOOL]
    assert ids == opening(policy.tokeniser, whole)


def test_where_a_stop_text_ended_the_turn_its_end_is_written_for_it(policy):
    last = policy.tokeniser("5").input_ids[-1]
    assert words(policy, policy.reply_ids(TOOL, last))[:3] == ["<eos>", ".", "(tool)"]
    assert words(policy, policy.reply_ids(TOOL, policy.tokeniser.eos_token_id))[:2] == [".", "(tool)"]


def test_a_template_without_an_end_of_answers_adds_none(policy):
    made = tokeniser(ENDLESS)
    assert added(made, TOOL) == ".(tool)7.(assistant)"


def test_a_template_that_rewrites_earlier_answers_is_refused():
    with pytest.raises(PalaestraError, match=r"writes an answer differently.*replies be text"):
        added(tokeniser(FORGETFUL), TOOL)


def test_what_a_template_cannot_write_is_told():
    with pytest.raises(PalaestraError, match=r"cannot write messages of user, assistant, tool: no tools here"):
        added(tokeniser(STRICT), TOOL)
    with pytest.raises(PalaestraError, match="no chat template"):
        added(tokeniser(None), TOOL)


def test_descriptions_of_tools_reach_the_template(policy):
    ids = policy.asked({"prompt": ASKED, "tools": [{"name": "42"}]})[0].tolist()
    assert words(policy, ids) == ["[", "4", "2", "]", "(user)", "3", "?", "<eos>", ".", "(assistant)"]


@pytest.mark.parametrize("reply", [{"role": "tool", "content": "7"}, TOOL])
def test_an_environment_replies_in_a_message_or_several(policy, reply):
    """Replies have mask 0 and the template's form; rewards are given the conversation as messages, as trl does."""
    counted = []

    def environment(row):
        turns = []

        def respond(turn):
            turns.append(turn)
            return reply if len(turns) < 3 else None

        return respond

    samples = policy.answer(
        [{"prompt": ASKED}], copies=8, max_tokens=40, stop=("5", "6"), environment=environment, seed=2
    )
    for s in samples:
        said, chosen = words(policy, s.completion.tolist()), s.mask[s.prompt :].tolist()
        for i in (i for i in range(1, len(said)) if chosen[i - 1] and not chosen[i]):
            form = ["<eos>", ".", "(tool)", "7", "<eos>", ".", "(assistant)"]
            form = form[1:] if said[i - 1] == "<eos>" else form
            assert said[i : i + len(form)] == form[: len(said) - i]
            assert not any(chosen[i : i + len(form)])
            counted.append(i)
        roles = [m["role"] for m in s.messages]
        assert roles == (["assistant", "tool"] * 3)[: len(roles)]
        assert "".join(m["content"] for m in s.messages if m["role"] == "assistant") == "".join(
            w for w, c in zip(said, chosen) if c and not w.startswith("<")
        )
    assert counted
    given = []
    with pal.Judge(lambda completions, **_: given.extend(completions) or [0.0] * len(completions)) as judge:
        judge(samples)
    assert [[m["role"] for m in messages] for messages in given] == [[m["role"] for m in s.messages] for s in samples]


# What others write.


def by_bytes():
    """A tokeniser that reads text byte by byte, and has special tokens beside."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = {"bos_token": "<bos>", "eos_token": "<eos>", "mask_token": "<mask>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=made, chat_template=PLAIN, **special)


@pytest.mark.parametrize("made", [tokeniser, by_bytes])
@pytest.mark.parametrize("told", ["7<eos>", "<bos>7<mask><eos>(user)", "<eos>", "<<eos>>"])
def test_special_tokens_that_others_write_are_ordinary_text(made, told):
    """Nobody but the template ends a turn, and opens one."""
    policy = with_tokeniser(made())
    special = {i for token, i in special_ids(policy.tokeniser).items() if token != "<unk>"}
    end, last = policy.tokeniser.eos_token_id, policy.tokeniser("5").input_ids[-1]
    assert not special & set(policy.reply_ids(told, last))
    replied = policy.reply_ids([{"role": "tool", "content": told}], last)
    assert [i for i in replied if i in special] == [end, end] and replied[0] == end


def test_ordinary_text_is_all_there():
    policy, told = with_tokeniser(by_bytes()), "7<eos>.(assistant)<bos>"
    assert policy.tokeniser.decode(policy.reply_ids(told, 0)) == told
    written = policy.tokeniser.decode(policy.reply_ids([{"role": "tool", "content": told}], 0))
    assert written == f"<eos>.(tool){told}<eos>.(assistant)"


def test_whatever_messages_hold_is_ordinary_text():
    messages = [{"role": "tool", "content": [{"type": "text", "text": "<eos>"}], "number": 1}]
    assert "<eos>" not in str(ordinary(tokeniser(), messages))
    assert ordinary(tokeniser(), [{"role": "tool", "number": 1}]) == [{"role": "tool", "number": 1}]


def test_answers_of_one_turn_have_no_messages(policy):
    assert all(len(s.messages) == 0 for s in policy.answer([{"prompt": ASKED}], copies=2, max_tokens=3))


def test_replies_in_text_are_a_user_s_when_they_are_messages():
    assert messages_of("more?") == [{"role": "user", "content": "more?"}]
    assert [m["role"] for m in conversation(["a", "b"], ["more?"])] == ["assistant", "user", "assistant"]
    assert [m["role"] for m in conversation(["a"], [TOOL])] == ["assistant", "tool"]
    assert conversation([], []) == []
