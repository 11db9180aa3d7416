"""Language policies: answers, scores, and folders that anybody can load."""

from __future__ import annotations

import copy
import json
import warnings

import pytest
import torch

import palaestra as pal
from palaestra.core.errors import BadDataset, BadSetting, PalaestraError, Unsupported
from palaestra.core.experience import Experience
from palaestra.core.task import as_task
from palaestra.language.critic import Critic
from palaestra.language.diffusion.policy import DiffusionLanguagePolicy
from palaestra.language.generation.sampling import Sampling
from palaestra.language.models import with_adapter
from palaestra.language.policy import LanguagePolicy
from palaestra.language.reward_policy import RewardPolicy
from palaestra.language.tokenisers import word_tokeniser

from .tiny_models import SHAPE, tiny_model


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


def test_one_stop_text_may_be_given_by_itself(policy):
    alone, listed = (
        [s.text for s in policy.answer(ROWS, copies=20, max_tokens=9, stop=stop)] for stop in ("57", ("57",))
    )
    assert alone == listed
    assert any("5" in text for text in alone)


def test_what_is_asked_without_a_prompt_or_of_other_rows_is_refused(policy):
    with pytest.raises(BadDataset, match="a row has no 'prompt', but question"):
        policy.answer([{"question": "3 1"}])
    with pytest.raises(BadSetting, match="2 rows need as many prefixes, got 1"):
        policy.answer([ROWS[0], ROWS[0]], prefixes=[torch.zeros(0, dtype=torch.int64)])


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


@pytest.mark.parametrize(("prompt", "how_many"), [("Is it so?\n", "1 of 1 tokens"), ("2 15 30:47=", "3 of 11 tokens")])
def test_prompts_that_the_tokeniser_does_not_know_are_answered_with_a_warning_that_comes_once(prompt, how_many):
    policy = LanguagePolicy.make("tiny-16x1", as_task("sorting"))
    with pytest.warns(UserWarning, match=f"{how_many} .* <unk> .* vocabulary") as said:
        policy.answer([*ROWS, {"prompt": prompt}, {"prompt": "What is it?"}], max_tokens=2)
    assert len(said) == 1


def test_an_odd_token_in_a_prompt_and_names_for_unknown_tokens_that_end_texts_warn_of_nothing():
    policy = LanguagePolicy.make("tiny-16x1", as_task("sorting"))
    policy.tokeniser.add_special_tokens({"bos_token": "<eos>"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        policy.prompt_ids("9502?13579135=")
        policy.tokeniser.unk_token = policy.tokeniser.eos_token  # as GPT-2's
        policy.prompt_ids("<eos>13=")


def test_an_evaluation_on_prompts_that_the_tokeniser_does_not_know_says_so(policy):
    with pytest.warns(UserWarning, match=r"does not know .* vocabulary"):
        as_task("knights").evaluate(copy.deepcopy(policy), 2, seed=0)


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


def test_a_model_that_sees_pictures_is_read_as_one_of_text(tmp_path):
    """The sizes of its text stand one level deeper in its config."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    tokeniser = as_task("sorting").tokeniser()
    ids = {name: getattr(tokeniser, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    text = {**SHAPE, **ids, "vocab_size": len(tokeniser), "head_dim": 8, "sliding_window": 8}
    sight = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16, "patch_size": 8}
    parts = {"text_config": text, "vision_config": {**sight, "intermediate_size": 16}}
    config = Gemma3Config(**parts, mm_tokens_per_image=4, image_token_index=3, **ids)
    torch.manual_seed(0)
    LanguagePolicy(Gemma3ForConditionalGeneration(config), tokeniser).save(tmp_path / "model")
    policy = LanguagePolicy.make(str(tmp_path / "model"))
    samples = policy.answer(ROWS, copies=2, max_tokens=12, seed=1)
    with torch.no_grad():
        scored = policy.score(packed(samples))
        value = Critic(policy)(packed(samples))
    torch.testing.assert_close(scored.logp, torch.cat([s.logp for s in samples]), atol=1e-5, rtol=1e-5)
    assert value.shape == scored.logp.shape
    with pytest.raises(BadSetting, match="103 positions, but the model has 96"):
        policy.answer([{"prompt": "31="}], max_tokens=100)


@pytest.mark.parametrize(
    ("family", "where"), [("llama", "lm_head"), ("llama", "embed_tokens"), ("qwen3", "lm_head"), ("gpt2", "c_attn")]
)
def test_adapters_of_one_s_own_choice_are_sampled_and_scored_with(family, where):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model = get_peft_model(tiny_model(family), LoraConfig(r=2, task_type="CAUSAL_LM", target_modules=[where])).eval()
    adapted = LanguagePolicy(model, word_tokeniser([chr(97 + i) for i in range(26)]))
    with torch.no_grad():
        for weight in adapted.trainable():
            weight.add_(0.2 * torch.randn_like(weight))
    samples = adapted.answer([{"prompt": "abc"}, {"prompt": "zyxwv"}], copies=3, max_tokens=8, seed=1)
    scored = adapted.score(packed(samples)).logp
    with torch.no_grad():
        logits = [model(input_ids=s.ids.unsqueeze(0)).logits[0, :-1].log_softmax(-1) for s in samples]
    expected = [
        torch.cat([torch.zeros(1), x.gather(-1, s.ids[1:, None])[:, 0]]) * s.mask
        for x, s in zip(logits, samples, strict=True)
    ]
    torch.testing.assert_close(scored, torch.cat(expected), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(torch.cat([s.logp for s in samples]), torch.cat(expected), atol=1e-4, rtol=1e-4)
    scored.sum().backward()
    assert all(weight.grad is not None for weight in adapted.trainable())


@pytest.mark.parametrize("where", ["wte", "lm_head"])
def test_adapters_at_one_end_of_tied_weights_are_refused_since_they_cannot_be_merged(where):
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(tiny_model("gpt2"), LoraConfig(r=2, task_type="CAUSAL_LM", target_modules=[where]))
    with pytest.raises(Unsupported, match=r"tied.*leave both without adapters"):
        LanguagePolicy(model, word_tokeniser(["a"]))


def test_adapters_leave_out_what_mamba_reads_past_its_layers():
    """Its scan is given the weights of `out_proj` as they are, so that peft refuses an adapter there."""
    torch.manual_seed(0)
    adapted = with_adapter(tiny_model("mamba"), 2)
    held = {
        name.split(".lora_")[0].split(".")[-1] for name, weight in adapted.named_parameters() if weight.requires_grad
    }
    assert held == {"in_proj", "x_proj", "dt_proj"}
