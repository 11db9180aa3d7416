"""Language policies: answers, scores, and folders that anybody can load."""

from __future__ import annotations

import json
import warnings

import pytest
import torch

import palaestra as pal
from palaestra.core.errors import BadDataset, BadSetting, PalaestraError, Unsupported
from palaestra.core.experience import Experience
from palaestra.core.task import as_task
from palaestra.language.diffusion.policy import DiffusionLanguagePolicy
from palaestra.language.generation.sampling import Sampling
from palaestra.language.policy import LanguagePolicy
from palaestra.language.reward_policy import RewardPolicy


@pytest.fixture(scope="module")
def policy():
    torch.manual_seed(0)
    return LanguagePolicy.make("tiny-16x1", as_task("sorting"))


ROWS = [{"prompt": "31="}, {"prompt": "9502="}]


def packed(samples) -> Experience:
    return Experience.cat(
        [Experience(action=s.ids, mask=s.mask, segment=torch.full((len(s),), i)) for i, s in enumerate(samples)]
    )


def test_answers_come_in_groups_with_prompt_and_mask(policy):
    samples = policy.answer(ROWS, copies=3, max_tokens=6, seed=4)
    assert [s.group for s in samples] == [0, 0, 0, 1, 1, 1]
    for s in samples:
        assert s.ids[: s.prompt].tolist() == policy.prompt_ids(s.row["prompt"]).tolist()
        assert not s.mask[: s.prompt].any()
        assert s.mask[s.prompt :].all()
        assert len(s.completion) <= 6


def test_an_answer_is_a_function_of_the_seed_and_its_prompt_s_place(policy):
    one, again = (policy.answer(ROWS, copies=2, max_tokens=8, seed=4) for _ in range(2))
    other = policy.answer(ROWS, copies=2, max_tokens=8, seed=5)
    assert [s.ids.tolist() for s in one] == [s.ids.tolist() for s in again]
    assert [s.ids.tolist() for s in one] != [s.ids.tolist() for s in other]
    assert one[0].ids.tolist() == policy.answer(ROWS[:1], copies=1, max_tokens=8, seed=4)[0].ids.tolist()


def test_scores_of_packed_answers_are_what_was_recorded_as_they_were_sampled(policy):
    samples = policy.answer(ROWS, copies=4, max_tokens=8, seed=1)
    batch = packed(samples)
    with torch.no_grad():
        scored = policy.score(batch)
    torch.testing.assert_close(scored.logp, torch.cat([s.logp for s in samples]), atol=1e-5, rtol=1e-5)
    assert (scored.entropy[batch.mask] > 0).all()
    assert (scored.logp[~batch.mask] == 0).all()


def test_at_another_temperature_scores_are_those_of_the_tempered_distribution(policy):
    samples = policy.answer(ROWS, copies=4, max_tokens=8, sampling=Sampling(temperature=0.6), seed=1)
    with torch.no_grad():
        scored = policy.score(packed(samples), temperature=0.6)
    torch.testing.assert_close(scored.logp, torch.cat([s.sampled_logp for s in samples]), atol=1e-5, rtol=1e-5)


def test_models_that_cannot_be_packed_score_the_same_padded(policy):
    samples = policy.answer(ROWS, copies=3, max_tokens=8, seed=1)
    padded = LanguagePolicy(policy.model, policy.tokeniser)
    padded.packs = False
    with torch.no_grad():
        one, other = (p.score(packed(samples)) for p in (policy, padded))
    torch.testing.assert_close(one.logp, other.logp, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(one.entropy, other.entropy, atol=1e-5, rtol=1e-5)


def test_act_gives_one_token_at_a_time_from_the_cache(policy):
    prompt = policy.prompt_ids("31=").unsqueeze(0)
    first = policy.act(prompt, greedy=True)
    second = policy.act(first.action.unsqueeze(1), first.carry, greedy=True)
    said = policy.answer(ROWS[:1], max_tokens=2, greedy=True)[0].completion.tolist()
    assert [first.action.item(), second.action.item()][: len(said)] == said


def test_what_is_saved_is_an_ordinary_folder_and_loads_as_a_policy(policy, tmp_path):
    import transformers

    policy.save(tmp_path / "model")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    tokeniser = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    prompt = tokeniser("31=", return_tensors="pt").input_ids
    with torch.no_grad():
        torch.testing.assert_close(model(prompt).logits, policy.model(prompt).logits)
    loaded = pal.load_policy(tmp_path / "model")
    assert loaded.predict("31=") == policy.predict("31=")
    assert loaded.predict(["31=", "20="]) == policy.predict(["31=", "20="])


def test_adapters_alone_are_trained_and_are_merged_when_saved(tmp_path, policy):
    policy.save(tmp_path / "base")
    torch.manual_seed(1)
    adapted = LanguagePolicy.make(str(tmp_path / "base"), adapter=2)
    names = [name for name, p in adapted.model.named_parameters() if p.requires_grad]
    assert names
    assert all("lora_" in name for name in names)
    with torch.no_grad():
        for name, p in adapted.model.named_parameters():
            if "lora_B" in name:
                p.normal_(std=0.2)
    adapted.save(tmp_path / "merged")
    samples = adapted.answer(ROWS, copies=2, max_tokens=5, seed=0)
    with torch.no_grad():
        merged, own, base = (
            p.score(packed(samples)).logp for p in (pal.load_policy(tmp_path / "merged"), adapted, policy)
        )
    torch.testing.assert_close(merged, own, atol=1e-4, rtol=1e-4)
    assert (own - base).abs().max() > 1e-3


@pytest.mark.parametrize(
    "make",
    [
        lambda adapter: LanguagePolicy.make("tiny-16x1", as_task("sorting"), adapter),
        lambda adapter: DiffusionLanguagePolicy.make("mdm-16x1", as_task("sorting"), adapter),
        lambda adapter: RewardPolicy.make("tiny-16x1", as_task("sorting"), adapter),
    ],
    ids=["causal", "diffusion", "reward"],
)
def test_a_user_of_adapters_sees_no_warnings_that_are_none_of_theirs(make):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert any("lora_" in name for name, _ in make(2).named_parameters())


def test_a_stop_text_is_left_out_of_the_answer(policy):
    samples = policy.answer(ROWS, copies=20, max_tokens=9, stop=("5", "7"), seed=0)
    assert any(not s.truncated and s.completion[-1] != policy.tokeniser.eos_token_id for s in samples)
    assert not any("5" in s.text or "7" in s.text for s in samples)


def test_the_first_token_of_all_has_no_probability(policy):
    batch = Experience(action=torch.tensor([6, 7]), mask=torch.tensor([True, True]), segment=torch.zeros(2))
    with pytest.raises(Unsupported, match="first token"):
        policy.score(batch)


def test_an_answer_that_is_longer_than_the_model_s_window_is_refused_by_name():
    policy = LanguagePolicy.make("tiny-16x1", as_task("sorting"))
    prompt = policy.prompt_ids("31=")
    policy.model.config.max_position_embeddings = 6
    assert len(policy.with_answer(prompt, "13")[0]) == len(policy.with_answer(prompt, "133", truncated=True)[0]) == 6
    with pytest.raises(
        BadDataset, match="the answer '133' to '31=' needs 7 positions with its prompt, but the model has 6"
    ):
        policy.with_answer(prompt, "133")


def test_messages_need_a_chat_template(policy):
    messages = [{"role": "user", "content": "31="}]
    with pytest.raises(PalaestraError, match="chat template"):
        policy.prompt_ids(messages)
    policy.tokeniser.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    try:
        assert policy.prompt_ids(messages).tolist() == policy.prompt_ids("31=").tolist()
    finally:
        policy.tokeniser.chat_template = None


@pytest.mark.parametrize(
    ("name", "says"),
    [("tiny-15x1", "multiple of 16"), ("runs/there/is/none", "there is no model"), ("tiny-16x0", "a layer or more")],
)
def test_a_model_that_cannot_be_had_is_refused_with_what_can(name, says):
    with pytest.raises(PalaestraError, match=says):
        LanguagePolicy.make(name, as_task("sorting"))


def test_a_folder_without_a_model_says_so(tmp_path):
    with pytest.raises(PalaestraError, match=r"config\.json is missing"):
        LanguagePolicy.make(str(tmp_path))


def test_a_tiny_model_needs_a_tokeniser():
    with pytest.raises(BadSetting, match="needs the tokeniser of its task"):
        LanguagePolicy.make("tiny-16x1")


def test_a_saved_folder_that_was_damaged_is_refused(policy, tmp_path):
    policy.save(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text(json.dumps({"model_type": "nothing"}))
    with pytest.raises(PalaestraError, match="cannot be loaded"):
        pal.load_policy(tmp_path / "model")


def test_importing_palaestra_imports_neither_transformers_nor_datasets():
    import subprocess
    import sys

    code = "import palaestra, sys; palaestra.GRPO; print([m for m in ('transformers', 'datasets') if m in sys.modules])"
    plain = code.replace("palaestra.GRPO; ", "")
    assert subprocess.run([sys.executable, "-c", plain], capture_output=True, text=True).stdout.strip() == "[]"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize("kind", ["own", "qwen2"])
def test_a_saved_tokeniser_reads_words_as_words_whatever_the_model_s_kind(kind, tmp_path):
    """`AutoTokenizer` would read 12 with Qwen2's own rules, as 1 and 2."""
    import transformers

    task = as_task("countdown")
    policy = LanguagePolicy.make("tiny-16x1", task)
    prompt = task.rows("test")[0]["prompt"]
    if kind == "qwen2":
        shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
        config = transformers.Qwen2Config(
            vocab_size=len(policy.tokeniser), num_key_value_heads=1, eos_token_id=2, bos_token_id=1, **shape
        )
        policy = LanguagePolicy(transformers.Qwen2ForCausalLM(config).eval(), policy.tokeniser)
    policy.save(tmp_path / "model")
    loaded = pal.load_policy(tmp_path / "model")
    assert loaded.prompt_ids(prompt).tolist() == policy.prompt_ids(prompt).tolist()
    if kind == "own":  # what everybody else calls
        others = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
        assert others(prompt).input_ids == policy.prompt_ids(prompt).tolist()
