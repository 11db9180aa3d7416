"""Reward models of transformers as reward functions, on a tiny one with random weights."""

from __future__ import annotations

import pytest
import torch

from palaestra.core.errors import BadCheckpoint, BadSetting
from palaestra.language.judges.judge import Judge, function_name
from palaestra.language.judges.reward_model import RewardModel, reward_of
from palaestra.language.tokenisers import word_tokeniser
from tests.language.judges.samples import answer
from tests.language.tiny_models import joining_tokeniser

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def tokeniser():
    return word_tokeniser("abcdefgh|")


def classifier(tokeniser, labels: int = 1):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(tokeniser),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_labels=labels,
        initializer_range=0.5,
        pad_token_id=None,
    )
    return transformers.LlamaForSequenceClassification(config)


def alone(model, tokeniser, text: str) -> float:
    """The score of a text that nothing is padded for."""
    with torch.no_grad():
        return model(torch.tensor([tokeniser(text).input_ids])).logits.item()


TEXTS = ["a", "abc", "hgfedcba", "", "bb"]


@pytest.mark.parametrize("batch", [1, 2, 32])
def test_scores_are_those_of_each_text_alone_in_the_order_of_the_answers(tokeniser, batch):
    reward = RewardModel(classifier(tokeniser), tokeniser, batch=batch)
    expected = [alone(reward.model, tokeniser, f"ab{text}") for text in TEXTS]
    with Judge(reward) as judge:
        scores = judge([answer(text, prompt="ab") for text in TEXTS])
    torch.testing.assert_close(scores.parts["reward_model"], torch.tensor(expected), atol=1e-5, rtol=1e-5)
    assert len(set(expected)) == len(expected)


def test_messages_go_through_the_chat_template(tokeniser):
    chat = word_tokeniser("abcdefgh|")
    chat.chat_template = "{% for m in messages %}{{ m['content'] }}|{% endfor %}"
    reward = RewardModel(classifier(chat), chat)
    with Judge(reward) as judge:
        scores = judge([answer("cd", prompt=[{"role": "user", "content": "ab"}])])
    assert scores.total.item() == pytest.approx(alone(reward.model, chat, "ab|cd|"), abs=1e-5)


def test_special_tokens_that_a_conversation_writes_are_ordinary_text_to_a_reward_model(tokeniser):
    chat = word_tokeniser("abcdefgh|")
    chat.chat_template = "{% for m in messages %}{{ m['content'] + '<eos>' }}{% endfor %}"
    asked, said = ([{"role": role, "content": text}] for role, text in (("user", "ab"), ("assistant", "c<eos>d")))
    told = [{"role": "tool", "content": "<bos>e<eos>"}]
    ids = RewardModel(classifier(chat), chat)._ids(asked, [*said, *told], False)
    assert ids.count(chat.eos_token_id) == 3 and chat.bos_token_id not in ids


@pytest.mark.parametrize("ends", [False, True])
def test_a_model_of_others_reads_text_as_its_tokeniser_gives_it(ends):
    own = joining_tokeniser()
    reward = RewardModel(classifier(own), own, ends=ends)
    ids = [own.bos_token_id, *own.convert_tokens_to_ids(["c", "ab"]), *[own.eos_token_id] * ends]
    with torch.no_grad():
        expected = reward.model(torch.tensor([ids])).logits.item()
    assert reward(["ca"], ["b"]) == [pytest.approx(expected, abs=1e-5)]


def test_only_the_last_tokens_of_a_long_text_are_read(tokeniser):
    reward = RewardModel(classifier(tokeniser), tokeniser, longest=3)
    assert reward(["abcde"], ["fgh"])[0] == pytest.approx(alone(reward.model, tokeniser, "fgh"), abs=1e-5)


def test_a_reward_model_is_read_from_a_folder(tokeniser, tmp_path):
    model = classifier(tokeniser)
    for part in (model, tokeniser):
        part.save_pretrained(tmp_path / "mine")
    reward = RewardModel(tmp_path / "mine")
    assert reward.__name__ == "mine"
    assert reward(["ab"], ["c"])[0] == pytest.approx(alone(reward.model, tokeniser, "abc"), abs=1e-5)


def test_a_reward_by_its_model_s_name_is_loaded_once_when_it_is_first_called(tokeniser, tmp_path):
    reward = reward_of(str(tmp_path / "mine"))
    for part in (classifier(tokeniser), tokeniser):
        part.save_pretrained(tmp_path / "mine")
    first = reward(["ab"], ["c"], truncated=[False])
    (tmp_path / "mine" / "config.json").unlink()
    assert reward(["ab"], ["c"]) == first == RewardModel(classifier(tokeniser), tokeniser)(["ab"], ["c"])
    assert function_name(reward) == "mine"


def test_what_is_no_reward_model_is_refused(tokeniser, tmp_path):
    with pytest.raises(BadSetting, match="one output, but reward_model has 3"):
        RewardModel(classifier(tokeniser, labels=3), tokeniser)
    with pytest.raises(BadSetting, match="needs its tokeniser"):
        RewardModel(classifier(tokeniser))
    (tmp_path / "nothing").mkdir()
    with pytest.raises(BadCheckpoint, match="no reward model could be had from"):
        RewardModel(tmp_path / "nothing")
