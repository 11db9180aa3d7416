"""Reward models: packed scores are those of transformers, and a folder is one that both read."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import palaestra as pal
from palaestra.core.errors import BadCheckpoint, BadDataset, BadSetting, PalaestraError
from palaestra.core.experience import Experience
from palaestra.core.method import Budget
from palaestra.data.real import real_data
from palaestra.language.convert import convert_llama2c
from palaestra.language.judges.judge import Judge
from palaestra.language.judges.reward_model import RewardModel
from palaestra.language.models import from_scratch, load_model
from palaestra.language.packing import hidden_states
from palaestra.language.policy import LanguagePolicy
from palaestra.language.reward_policy import RewardPolicy
from palaestra.language.tasks.noisy_sort import NoisySort
from palaestra.language.tokenisers import word_tokeniser
from palaestra.methods.language.sft import SFT
from palaestra.methods.preference.dpo import DPO
from palaestra.methods.preference.reward_model import RewardModelling
from tests.language.judges.samples import answer
from tests.language.tiny_models import joining_tokeniser

ROWS, ANSWERS = [{"prompt": "abc"}, {"prompt": "h"}, {"prompt": "abc"}], ["d", "aaaaa", "ef"]


def reward_policy(adapter: int = 0) -> RewardPolicy:
    torch.manual_seed(0)
    tokeniser = word_tokeniser("abcdefgh")
    policy = RewardPolicy.on(from_scratch(16, 2, tokeniser), tokeniser, adapter)
    with torch.no_grad():
        for weight in policy.parameters():
            weight.mul_(3.0)
        torch.nn.init.normal_(policy.head.weight)
    return policy


def scoring(model: Any, tokeniser: Any) -> RewardPolicy:
    """A reward model with a head of random weights."""
    torch.manual_seed(0)
    policy = RewardPolicy.on(model, tokeniser)
    torch.nn.init.normal_(policy.head.weight)
    return policy


def alone(policy: RewardPolicy, text: str, ended: bool = True) -> float:
    """The score that transformers gives a text."""
    ids = policy.tokeniser(text).input_ids + [policy.tokeniser.eos_token_id] * ended
    with torch.no_grad():
        return policy.model(torch.tensor([ids])).logits.item()


def test_an_answer_that_is_longer_than_the_model_s_window_gets_no_score():
    policy = reward_policy()
    policy.model.config.max_position_embeddings = 5
    assert policy.scorer([ROWS[0]], ["d"]).shape == (1,)
    with pytest.raises(BadDataset, match="the answer 'de' to 'abc' needs 6 positions"):
        policy.scorer([ROWS[0]], ["de"])
    with pytest.raises(BadDataset, match="needs 7 positions"):
        policy.judge([answer("abcd")], policy.tokeniser)


@pytest.mark.parametrize("method", [DPO, RewardModelling, SFT])
def test_a_reward_model_is_no_model_to_train_answers_with(method):
    folder = reward_policy().save("rewards")
    with pytest.raises(BadSetting, match="rewards is a reward model, which scores answers and gives none"):
        method(model=str(folder)).bind(NoisySort(train_rows=8), 0, Budget(updates=1))


def test_packed_scores_are_read_at_the_end_of_each_sequence():
    policy = reward_policy()
    assert policy.packs
    expected = [alone(policy, row["prompt"] + text) for row, text in zip(ROWS, ANSWERS, strict=True)]
    torch.testing.assert_close(policy.scorer(ROWS, ANSWERS), torch.tensor(expected), atol=1e-5, rtol=1e-4)
    assert policy.predict("abcd") == pytest.approx(expected[0], abs=1e-4)
    assert len(set(expected)) == 3


def test_answers_to_one_prompt_share_it_and_score_as_they_would_alone():
    policy = reward_policy()
    ids = [torch.cat([policy.prompt_ids("abc"), policy.completion_ids(text)]) for text in ANSWERS]
    lengths = torch.tensor([len(x) for x in ids])
    segment = torch.arange(3).repeat_interleave(lengths)
    mask = torch.cat([torch.arange(len(x)) >= 3 for x in ids])
    packed = Experience(action=torch.cat(ids), segment=segment, mask=mask)
    shared = policy.rewards(packed.replace(group=torch.zeros_like(segment)))
    torch.testing.assert_close(shared, policy.scorer([{"prompt": "abc"}] * 3, ANSWERS), atol=1e-5, rtol=1e-4)


def test_a_judge_reads_what_answers_to_one_prompt_begin_with_once(monkeypatch):
    policy, read = reward_policy(), []
    samples = [answer(text, prompt="abc") for text in ANSWERS]
    for sample in samples:
        sample.ids = torch.cat([policy.prompt_ids("abc"), policy.completion_ids(sample.text)])
        sample.prompt, sample.mask = 3, torch.arange(len(sample.ids)) >= 3

    def noted(model, ids, layout, *rest):
        read.append(len(layout.position))
        return hidden_states(model, ids, layout, *rest)

    monkeypatch.setattr("palaestra.language.reward_policy.hidden_states", noted)
    found = policy.judge(samples, policy.tokeniser)
    assert read == [3 + sum(len(text) + 1 for text in ANSWERS)]
    expected = torch.tensor([alone(policy, "abc" + text) for text in ANSWERS])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_padded_scores_are_the_packed_ones():
    policy = reward_policy()
    packed = policy.scorer(ROWS, ANSWERS)
    policy.packs = False
    torch.testing.assert_close(policy.scorer(ROWS, ANSWERS), packed, atol=1e-5, rtol=1e-4)


def test_what_was_cut_off_is_read_at_its_last_token():
    policy = reward_policy()
    cut = answer("de", prompt="abc")
    cut.ids, cut.mask, cut.truncated = policy.prompt_ids("abcde"), torch.arange(5) >= 3, True
    whole = answer("de", prompt="abc")
    whole.ids = torch.cat([cut.ids, torch.tensor([policy.tokeniser.eos_token_id])])
    whole.mask = torch.arange(6) >= 3
    found = policy.judge([cut, whole], policy.tokeniser)
    expected = torch.tensor([alone(policy, "abcde", ended=False), alone(policy, "abcde")])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    again = policy.judge([cut, whole], word_tokeniser("hgfedcba"))  # other ids: by the text
    torch.testing.assert_close(again, expected, atol=1e-5, rtol=1e-4)


def test_where_padding_is_the_end_transformers_and_we_read_at_the_token_before_it():
    policy = reward_policy()
    policy.model.config.pad_token_id = policy.tokeniser.eos_token_id
    torch.testing.assert_close(
        policy.scorer(ROWS[:1], ANSWERS[:1]), torch.tensor([alone(policy, "abcd", ended=False)]), atol=1e-5, rtol=1e-4
    )


def test_a_saved_reward_model_is_the_same_to_us_to_the_judge_and_to_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    policy = reward_policy()
    expected = policy.scorer(ROWS, ANSWERS)
    policy.save(tmp_path / "mine")
    loaded = pal.load_policy(tmp_path / "mine")
    assert isinstance(loaded, RewardPolicy)
    assert torch.equal(loaded.scorer(ROWS, ANSWERS), expected)
    with Judge(RewardModel(tmp_path / "mine")) as judge:
        said = judge([answer(text, prompt=row["prompt"]) for row, text in zip(ROWS, ANSWERS, strict=True)]).total
    torch.testing.assert_close(said, expected, atol=1e-5, rtol=1e-4)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "mine")
    assert theirs.config.num_labels == 1
    ids = torch.cat([policy.prompt_ids("abc"), policy.completion_ids("d")])
    torch.testing.assert_close(theirs(ids.unsqueeze(0)).logits[0], expected[:1], atol=1e-5, rtol=1e-4)


def test_a_loaded_model_stays_as_it_is_where_its_file_is_written_over(tmp_path):
    policy = reward_policy()
    policy.save(tmp_path)
    loaded = pal.load_policy(tmp_path)
    expected = loaded.scorer(ROWS, ANSWERS)
    weights = tmp_path / "model.safetensors"
    with open(weights, "r+b") as file:
        file.seek(weights.stat().st_size // 2)
        file.write(bytes(weights.stat().st_size // 2))
    assert torch.equal(loaded.scorer(ROWS, ANSWERS), expected)


@pytest.mark.parametrize("kind", ["joining", "stories260K"])
def test_a_folder_gives_a_reward_function_the_scores_of_the_ids_that_it_was_trained_on(tmp_path, kind):
    if kind == "joining":
        tokeniser = joining_tokeniser()
        torch.manual_seed(0)
        policy = scoring(from_scratch(16, 2, tokeniser), tokeniser)
        asked = [("ca", "b"), ("cc", "ab"), ("ca", "b"), ("a", "")]
    else:
        try:
            convert_llama2c(real_data("stories260K"), tmp_path / "stories")
        except BadDataset:
            pytest.skip("stories260K is not here")
        policy = scoring(*load_model(str(tmp_path / "stories")))
        asked = [
            ("Once upon a time", " there was a dog."),
            ("One day,", "Tom ran"),
            ("One day,", "Tom ran"),
            ("A", "b"),
        ]
    samples = [answer(text, prompt=prompt, group=i) for i, (prompt, text) in enumerate(asked)]
    for sample in samples:
        prompt = policy.prompt_ids(sample.row["prompt"])
        sample.ids, sample.prompt = torch.cat([prompt, policy.completion_ids(sample.text)]), len(prompt)
    samples[2].ids, samples[2].truncated = samples[2].ids[:-1], True
    for sample in samples:
        sample.mask = torch.arange(len(sample.ids)) >= sample.prompt
    expected = policy.judge(samples, policy.tokeniser)
    assert len(set(expected.tolist())) == 4
    policy.save(tmp_path / "mine")
    with Judge(RewardModel(tmp_path / "mine", batch=3)) as judge:
        torch.testing.assert_close(judge(samples).total, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("stop", ["\n", "b\n:"])
def test_an_answer_that_ended_at_a_stop_text_scores_as_one_that_ended_by_itself(stop):
    tokeniser = joining_tokeniser()
    torch.manual_seed(0)
    policy = scoring(from_scratch(16, 2, tokeniser), tokeniser)
    prompt = policy.prompt_ids("ca")
    ended, stopped = answer("cca", prompt="ca"), answer("cca", prompt="ca")
    ended.ids = torch.cat([prompt, policy.completion_ids("cca")])
    stopped.ids = torch.cat([prompt, policy.completion_ids(f"cca{stop}")[:-1]])  # a token may be half the answer's
    for sample in (ended, stopped):
        sample.mask, sample.prompt = torch.arange(len(sample.ids)) >= len(prompt), len(prompt)
    by_itself, at_stop = policy.judge([ended, stopped], tokeniser).tolist()
    assert by_itself != 0 and at_stop == pytest.approx(by_itself, abs=1e-5)
    assert policy.ended(ended) is ended and policy.ended(stopped).logp.isnan().all()


def test_a_trunk_is_copied_and_every_answer_is_worth_0_at_first():
    tokeniser = word_tokeniser("abcdefgh")
    model = from_scratch(16, 1, tokeniser)
    policy = RewardPolicy.on(model, tokeniser)
    assert policy.scorer(ROWS, ANSWERS).tolist() == [0, 0, 0]
    batch = Experience(
        action=torch.tensor([5, 6, 7, 2]),
        mask=torch.tensor([False, False, True, True]),
        segment=torch.zeros(4, dtype=torch.int64),
    )
    score, logp = policy.rewards_and_logp(batch, policy.model.get_input_embeddings().weight)
    assert score.tolist() == [0]
    torch.testing.assert_close(logp, LanguagePolicy(model, tokeniser).score(batch).logp)


def test_adapters_train_the_head_and_are_merged_when_saved(tmp_path):
    policy = reward_policy(adapter=2)
    assert policy.packs
    assert any(policy.head.weight is p for p in policy.trainable()) or any(
        "score" in name for name, p in policy.named_parameters() if p.requires_grad
    )
    expected = policy.scorer(ROWS, ANSWERS)
    policy.save(tmp_path / "mine")
    torch.testing.assert_close(pal.load_policy(tmp_path / "mine").scorer(ROWS, ANSWERS), expected, atol=1e-4, rtol=1e-4)


def test_a_model_without_a_head_for_scores_is_refused(tmp_path):
    tokeniser = word_tokeniser("abcdefgh")
    LanguagePolicy(from_scratch(16, 1, tokeniser), tokeniser).save(tmp_path / "causal")
    with pytest.raises(BadCheckpoint, match=r"lacks score\.weight"):
        RewardPolicy.load(tmp_path / "causal")


def test_it_answers_nothing():
    with pytest.raises(PalaestraError, match="gives none"):
        reward_policy().answer([{"prompt": "a"}])


def test_agreement_is_over_the_pairs_of_held_out_rows_and_tells_of_length():
    class Longer(RewardPolicy):
        def _scored(self, sequences, micro_tokens=0):
            return torch.tensor([float(len(ids)) for ids in sequences])

    task = NoisySort()
    policy = Longer(from_scratch(16, 1, task.tokeniser()), task.tokeniser())
    rows = [
        {"prompt": "12=", "completions": ["1", "123"], "scores": [0.0, 1.0]},
        {"prompt": "12=", "completions": ["12", "1234"], "scores": [1.0, 0.0]},
        {"prompt": "12=", "completions": ["12", "34", "5"], "scores": [1.0, 1.0, 1.0]},
        {"prompt": "12=", "completions": ["12", "34"], "scores": [0.0, 1.0]},
    ]
    task.rows = lambda split: rows
    found = policy.agreement(task, 100, seed=0)
    assert sorted(found.returns) == [0.0, 0.5, 1.0]
    assert found.measures["pairs"] == 3 and found.measures["length_correlation"] == pytest.approx(1)
    assert found.measures["chosen_longer"] == found.measures["chosen_shorter"] == pytest.approx(1 / 3)
    assert found.measures["accuracy_chosen_longer"] == 1 and found.measures["accuracy_chosen_shorter"] == 0
